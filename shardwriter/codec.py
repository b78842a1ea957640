"""Column blocks to compressed chunks, as HDF5's stock filters would write them.

Bytes in, bytes out, outside the HDF5 library and outside the GIL. Invariant: any HDF5 reader
with the stock shuffle and deflate filters gets back the bytes that came in.
"""

import zlib
from collections.abc import Callable
from typing import Any, cast

import deflate
import numpy as np
from isal import igzip_lib, isal_zlib

__all__ = ["Deflater", "shuffle", "unshuffle"]

# A faster encoder is taken while its output is at most this much larger.
_SIZE_TOLERANCE = 1.03
# A block that compresses better or worse by this factor is unlike the one that decided.
_DRIFT = 1.25
_DAMAGED = cast(type[Exception], igzip_lib.IsalError)  # its stub calls it an instance


def shuffle(block: np.ndarray[Any, Any]) -> bytes:
    """Return a contiguous block's bytes in the order of HDF5's shuffle filter.

    All first bytes of the items, then all second bytes, and so on.
    """
    size = block.dtype.itemsize
    flat = block.reshape(-1).view(np.uint8)
    return flat.tobytes() if size == 1 else flat.reshape(-1, size).T.tobytes()


def unshuffle(data: bytes, itemsize: int) -> np.ndarray[Any, Any]:
    """Return the bytes that ``shuffle`` took, as a one-dimensional uint8 array."""
    flat = np.frombuffer(data, np.uint8)
    if itemsize == 1:
        return flat
    out = np.empty((len(flat) // itemsize, itemsize), np.uint8)
    for i, plane in enumerate(flat.reshape(itemsize, -1)):
        out[:, i] = plane
    return out.reshape(-1)


class Deflater:
    """Deflate for one column at one gzip level.

    Of ISA-L, libdeflate and zlib, fastest first, the first serves whose output for the first
    block is at most 3 % larger than zlib's at that level. Where a later block compresses quite
    unlike that one, as data do that begin with zeros, that block decides anew; each decision
    doubles the number of blocks before the next, so that all of them cost next to nothing.

    Parameters
    ----------
    level
        gzip level, 1 to 9, as it stands in the file.
    """

    __slots__ = ("_blocks", "_encode", "_next_decision", "_share", "level")

    def __init__(self, level: int) -> None:
        self.level = level
        self._encode: Callable[[bytes], bytes] | None = None
        self._share = 1.0  # compressed size of the block that decided, per byte
        self._blocks = 0
        self._next_decision = 0

    def __call__(self, data: bytes) -> bytes:
        """Return data compressed to a zlib stream."""
        self._blocks += 1
        if self._encode is None:
            return self._decided(data)
        encoded = self._encode(data)
        drift = len(encoded) / max(len(data), 1) / self._share
        if self._blocks >= self._next_decision and not 1 / _DRIFT < drift < _DRIFT:
            return self._decided(data)
        return encoded

    def _decided(self, data: bytes) -> bytes:
        """Choose the encoder by this block; return the block compressed."""
        reference = self._zlib(data)
        self._share = len(reference) / max(len(data), 1)
        self._next_decision = 2 * self._blocks
        for encode in (_isal, self._libdeflate):
            encoded = encode(data)
            if len(encoded) <= _SIZE_TOLERANCE * len(reference):
                self._encode = encode
                return encoded
        self._encode = self._zlib
        return reference

    @property
    def encoder_name(self) -> str:
        """Which encoder serves: ``isal``, ``libdeflate`` or ``zlib``; empty before any block."""
        return "" if self._encode is None else self._encode.__name__.lstrip("_")

    def _zlib(self, data: bytes) -> bytes:
        return zlib.compress(data, self.level)

    def _libdeflate(self, data: bytes) -> bytes:
        return bytes(deflate.zlib_compress(data, self.level))


def _isal(data: bytes) -> bytes:
    return isal_zlib.compress(data, 1)


def inflate(data: bytes, size: int) -> bytes:
    """Return the `size` bytes of a zlib stream.

    Raises
    ------
    ValueError
        The stream is damaged, or does not hold `size` bytes.
    """
    decoder = isal_zlib.decompressobj()
    try:
        out = decoder.decompress(data, size + 1)
    except _DAMAGED as error:
        raise ValueError(str(error)) from error
    if len(out) != size:
        raise ValueError(f"expected {size} bytes, the stream holds {len(out)} or more")
    return out
