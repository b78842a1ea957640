"""Column blocks to compressed chunks, as HDF5's stock filters would write them.

Bytes in, bytes out, outside the HDF5 library and outside the GIL. Invariant: any HDF5 reader
with the stock shuffle and deflate filters gets back the bytes that came in.
"""

import threading
import zlib
from collections.abc import Callable
from typing import Any, cast

import deflate
import numpy as np
from isal import isal_zlib

from shardwriter.compiled import compiled_module

__all__ = ["Deflater", "inflate", "shuffle", "unshuffle"]

Octets = bytes | memoryview
RawEncoder = Callable[[Octets], bytes]

# A faster encoder is taken while its output is at most this much larger.
_SIZE_TOLERANCE = 1.03
# A block that compresses better or worse by this factor is unlike the one that decided.
_DRIFT = 1.25
# A byte plane that deflate shrinks by less than this is noise, and stored as it is.
_NOISE = 0.96
_ZLIB_HEADER = b"\x78\x5e"  # window of 32 KiB, a fast level, no dictionary
_STORED_BYTES = 0xFFFF  # most bytes in a stored block
compiled = compiled_module("shardwriter.files._shuffle")

_WORDS: dict[int, np.dtype[Any]] = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}


def shuffle(block: np.ndarray[Any, Any]) -> bytes:
    """Return a contiguous block's bytes in the order of HDF5's shuffle filter.

    All first bytes of the items, then all second bytes, and so on.
    """
    size = block.dtype.itemsize
    flat = block.reshape(-1)
    if compiled:
        return cast(bytes, compiled.shuffle(flat.view(np.uint8), size))
    if size not in _WORDS:
        return flat.view(np.uint8).reshape(-1, size).T.tobytes()
    # Shifts of whole words, of which the last byte is kept: 1.6 times as fast as a transpose.
    words = flat.view(_WORDS[size])
    planes = np.empty((size, len(words)), np.uint8)
    np.copyto(planes[0], words, casting="unsafe")
    rest = words
    for i in range(1, size):
        rest = np.right_shift(rest, 8, out=None if i == 1 else rest)
        np.copyto(planes[i], rest, casting="unsafe")
    return planes.tobytes()


def unshuffle(data: bytes | bytearray, out: np.ndarray[Any, Any], first: int = 0) -> None:
    """Store items whose bytes ``shuffle`` took, from the item `first` on.

    Parameters
    ----------
    data
        What ``shuffle`` gave.
    out
        Where the items go: a contiguous array of their dtype, as many as are wanted.
    first
        The first item wanted.
    """
    size, last = out.itemsize, first + out.size
    octets = out.reshape(-1).view(np.uint8)
    if compiled:
        compiled.unshuffle(data, octets, size, first)
        return
    for i, plane in enumerate(np.frombuffer(data, np.uint8).reshape(size, -1)):
        octets[i::size] = plane[first:last]


class Deflater:
    """Deflate for one column at one gzip level.

    Of ISA-L, libdeflate and zlib, fastest first, the first serves whose output for the first
    block is at most 3 % larger than zlib's at that level. The first byte planes of floats are
    often noise: those that do not shrink are put into stored blocks of the same stream, which
    cost the time of a copy to write and to read. Where a later block compresses quite unlike the
    one that decided, as data do that begin with zeros, that block decides anew; each decision
    doubles the number of blocks before the next, so that all of them cost next to nothing.

    Parameters
    ----------
    level
        gzip level, 1 to 9, as it stands in the file.
    """

    __slots__ = (
        "_blocks",
        "_deciding",
        "_encode",
        "_next_decision",
        "_share",
        "_stored_planes",
        "level",
    )

    def __init__(self, level: int) -> None:
        self.level = level
        self._encode: RawEncoder | None = None
        self._stored_planes = 0
        self._share = 1.0  # compressed size of the block that decided, per byte
        self._blocks = 0
        self._next_decision = 0
        self._deciding = threading.Lock()

    def __call__(self, data: bytes, planes: int = 1) -> bytes:
        """Return data, which consist of so many byte planes, compressed to a zlib stream.

        Several threads may do so at once.
        """
        with self._deciding:
            self._blocks += 1
            if self._encode is None:
                return self._decided(data, planes)
        encoded = _stream(data, self._stored_planes * (len(data) // planes), self._encode)
        drift = len(encoded) / max(len(data), 1) / self._share
        if self._blocks >= self._next_decision and not 1 / _DRIFT < drift < _DRIFT:
            with self._deciding:
                return self._decided(data, planes)
        return encoded

    def _decided(self, data: bytes, planes: int) -> bytes:
        """Choose encoder and stored planes by this block; return the block compressed."""
        reference = zlib.compress(data, self.level)
        self._share = len(reference) / max(len(data), 1)
        self._next_decision = 2 * self._blocks
        most = _SIZE_TOLERANCE * len(reference)
        noisy = _noisy_planes(data, planes)
        for encode in (_isal, self._libdeflate, self._zlib):
            for stored in (noisy, 0) if noisy else (0,):
                encoded = _stream(data, stored * (len(data) // planes), encode)
                if len(encoded) <= most:
                    self._encode, self._stored_planes = encode, stored
                    return encoded
        self._encode, self._stored_planes = self._zlib, 0
        return reference

    @property
    def encoder_name(self) -> str:
        """Which encoder serves: ``isal``, ``libdeflate`` or ``zlib``; empty before any block."""
        return "" if self._encode is None else self._encode.__name__.lstrip("_")

    def _zlib(self, data: Octets) -> bytes:
        encoder = zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return encoder.compress(data) + encoder.flush()

    def _libdeflate(self, data: Octets) -> bytes:
        return bytes(deflate.deflate_compress(data, self.level))


def _isal(data: Octets) -> bytes:
    return isal_zlib.compress(data, 1, -zlib.MAX_WBITS)


def _noisy_planes(data: bytes, planes: int) -> int:
    """Return how many of the first planes do not shrink; the last is never one of them."""
    length = len(data) // planes
    for i in range(planes - 1):
        plane = memoryview(data)[i * length : (i + 1) * length]
        if len(_isal(plane)) < _NOISE * length:
            return i
    return planes - 1


def _stream(data: bytes, stored: int, encode: RawEncoder) -> bytes:
    """Return a zlib stream whose first `stored` bytes are in stored blocks (RFC 1950, 1951)."""
    octets = memoryview(data)
    parts: list[Octets] = [_ZLIB_HEADER]
    for start in range(0, stored, _STORED_BYTES):
        block = octets[start : min(start + _STORED_BYTES, stored)]
        length = len(block)
        parts.append(b"\0" + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little"))
        parts.append(block)
    parts += [encode(octets[stored:]), isal_zlib.adler32(data).to_bytes(4, "big")]
    return b"".join(parts)


def inflate(data: bytes, size: int) -> bytearray:
    """Return the `size` bytes of a zlib stream; several threads may do so at once.

    Raises
    ------
    ValueError
        The stream is damaged, or does not hold `size` bytes.
    """
    try:
        out: bytearray = deflate.zlib_decompress(data, size)
    except deflate.DeflateError as error:
        raise ValueError(f"no zlib stream of {size} bytes: {error}") from error
    if len(out) != size:
        raise ValueError(f"expected {size} bytes, the stream holds {len(out)}")
    return out
