"""Column blocks to compressed chunks, as HDF5's stock filters would write them.

Bytes in, bytes out, outside the HDF5 library and outside the GIL. Invariant: any HDF5 reader
with the stock shuffle and deflate filters gets back the bytes that came in.
"""

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import deflate
import numpy as np
from isal import isal_zlib

from shardwriter.compiled import compiled_module

__all__ = ["Deflater", "inflate", "lzf_length", "shuffle", "unshuffle"]

Octets = bytes | memoryview
RawEncoder = Callable[[Octets], bytes]

# A faster encoder is taken while its output is at most this much larger.
_SIZE_TOLERANCE = 1.03
# A block that compresses better or worse by this factor is unlike the one that decided.
_DRIFT = 1.25
# A byte plane is written as literals while a search for matches saves no more than this of it.
_IN_MATCHES = 0.01
# A byte plane that deflate shrinks by less than this is noise, and stored as it is.
_NOISE = 0.96
_ZLIB_HEADER = b"\x78\x5e"  # window of 32 KiB, a fast level, no dictionary
_STORED_BYTES = 0xFFFF  # most bytes in a stored block
compiled = compiled_module("shardwriter.files._shuffle")
huffman = compiled_module("shardwriter.files._huffman")

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


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a stream is made: planes that are stored, then some as literals, the rest encoded."""

    encode: RawEncoder
    stored: int = 0
    literal: int = 0

    def stream(self, data: bytes, planes: int) -> bytes:
        """Return data, which consist of so many byte planes, as a zlib stream (RFC 1950, 1951)."""
        octets, length = memoryview(data), len(data) // planes
        parts: list[Octets] = [_ZLIB_HEADER]
        stored = self.stored * length
        for start in range(0, stored, _STORED_BYTES):
            block = octets[start : min(start + _STORED_BYTES, stored)]
            size = len(block)
            parts.append(b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little"))
            parts.append(block)
        done = stored
        for _ in range(self.literal if length else 0):
            parts.append(huffman.literals(octets[done : done + length]))
            done += length
        parts += [self.encode(octets[done:]), isal_zlib.adler32(data).to_bytes(4, "big")]
        return b"".join(parts)


class Deflater:
    """Deflate for one column at one gzip level.

    Of ISA-L, libdeflate and zlib, fastest first, the first serves whose output for the first
    block is at most 3 % larger than zlib's at that level. The first byte planes of floats are
    often noise: those that do not shrink are put into stored blocks of the same stream, which
    cost the time of a copy to write and to read. Those after them that shrink without a search for
    matches are written without one. Where a later block compresses quite unlike the
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
        "_next_decision",
        "_plan",
        "_share",
        "level",
    )

    def __init__(self, level: int) -> None:
        self.level = level
        self._plan: _Plan | None = None
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
            if self._plan is None:
                return self._decided(data, planes)
        encoded = self._plan.stream(data, planes)
        drift = len(encoded) / max(len(data), 1) / self._share
        if self._blocks >= self._next_decision and not 1 / _DRIFT < drift < _DRIFT:
            with self._deciding:
                return self._decided(data, planes)
        return encoded

    def _decided(self, data: bytes, planes: int) -> bytes:
        """Choose encoder and plain planes by this block; return the block compressed."""
        reference = zlib.compress(data, self.level)
        self._share = len(reference) / max(len(data), 1)
        self._next_decision = 2 * self._blocks
        most = _SIZE_TOLERANCE * len(reference)
        stored, literal = _plain_planes(data, planes)
        ways = dict.fromkeys(((stored, literal), (stored, 0), (0, 0)))
        for encode in (_isal, self._libdeflate, self._zlib):
            for way in ways:
                plan = _Plan(encode, *way)
                encoded = plan.stream(data, planes)
                if len(encoded) <= most:
                    self._plan = plan  # not before: other threads compress meanwhile
                    return encoded
        self._plan = _Plan(self._zlib)
        return reference

    @property
    def encoder_name(self) -> str:
        """Which encoder serves: ``isal``, ``libdeflate`` or ``zlib``; empty before any block."""
        return "" if self._plan is None else self._plan.encode.__name__.lstrip("_")

    def _zlib(self, data: Octets) -> bytes:
        encoder = zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return encoder.compress(data) + encoder.flush()

    def _libdeflate(self, data: Octets) -> bytes:
        return bytes(deflate.deflate_compress(data, self.level))


def _isal(data: Octets) -> bytes:
    return isal_zlib.compress(data, 1, -zlib.MAX_WBITS)


def _plain_planes(data: bytes, planes: int) -> tuple[int, int]:
    """Return how many of the first planes do not shrink, and how many after them lack matches.

    The last one is none of them.
    """
    length = len(data) // planes
    kinds = []
    for i in range(planes - 1 if length else 0):
        plane = memoryview(data)[i * length : (i + 1) * length]
        size = len(_isal(plane))
        if size >= _NOISE * length and "literal" not in kinds:
            kinds.append("stored")
        elif huffman and len(huffman.literals(plane)) - size <= _IN_MATCHES * length:
            kinds.append("literal")
        else:
            break
    return kinds.count("stored"), kinds.count("literal")


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


def lzf_length(data: bytes) -> int:
    """Return how many bytes an LZF stream decodes to.

    Source: LibLZF's ``lzf_d.c``, which HDF5's filter of that name calls.

    Raises
    ------
    ValueError
        The stream ends too early.
    """
    if compiled:
        return cast(int, compiled.lzf_length(data))
    at = length = 0
    while at < len(data):
        control = data[at]
        if control < 32:  # so many literals and one
            at, length = at + control + 2, length + control + 1
            continue
        run = control >> 5
        if run == 7:
            at += 1
            run += data[at] if at < len(data) else 0
        at, length = at + 2, length + run + 2
    if at != len(data):
        raise ValueError("the LZF stream ends too early")
    return length
