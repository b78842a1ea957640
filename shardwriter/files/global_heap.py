"""HDF5's global heaps, where texts of any length lie: the one structure that can hang its reader.

Invariant: a file is searched as bytes, before HDF5 sees it, in time that grows with its size alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import TypeAlias

from shardwriter.compiled import compiled_module
from shardwriter.errors import ShardDamaged, not_opened

__all__ = ["check_heaps"]

_SIGNATURE = b"GCOL\x01"  # HDF5 ignores the three reserved bytes that follow
_HEAD_BYTES = 16  # before a heap's entries, and before an entry's data
_HEAP_SEARCH = 128 * 1024
_MOST_SEARCHED = 256 << 20
_BLOCK_BYTES = 256 * 1024  # is read into the processor's cache, and searched there
_MOST_WALKS = 64  # at a time: sound heaps lie side by side, so that there is one

_Walk: TypeAlias = tuple[int, int]  # where the next entry of a heap is, and the heap's end

compiled = compiled_module("shardwriter.files._global_heap")


def check_heaps(path: Path, *, whole: bool = False) -> None:
    """Refuse a file whose global heaps, where texts are, would keep HDF5 busy for ever.

    HDF5 does not guard these blocks by checksums, and one entry of length 0 makes its reader loop.

    Parameters
    ----------
    path
        The file.
    whole
        Search all of it where it has up to 256 MiB, as for a master, which is nothing but such
        blocks and small objects; else both ends, where this package puts the heaps of a shard.

    Raises
    ------
    ShardDamaged
        There is such a heap, or the file cannot be read, or is no regular one.
    NotPermitted, TooManyOpenFiles
        It cannot be opened for that reason.
    """
    try:
        with open(path, "rb", buffering=0, opener=_opened_at_once) as file:
            stat = os.fstat(file.fileno())
            if not S_ISREG(stat.st_mode):
                raise ShardDamaged(path, "file", "expected a regular file, got another kind")
            size = stat.st_size
            most = _MOST_SEARCHED if whole and size <= _MOST_SEARCHED else _HEAP_SEARCH
            spans = [(0, min(size, most)), (max(most, size - _HEAP_SEARCH), size)]
            is_endless = any(_is_endless(file.fileno(), *span) for span in spans)
    except OSError as error:
        raise not_opened(path, "structure", error) from error
    if is_endless:
        problem = "expected entries of some length, in heaps side by side; got others"
        raise ShardDamaged(path, "global heap", problem)


def _opened_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for anybody, as a named pipe would."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_endless(fd: int, start: int, stop: int) -> bool:
    """Search a part of a file block by block, so that memory is taken once, and little."""
    buffer = memoryview(bytearray(max(0, min(_BLOCK_BYTES, stop - start))))
    walks: list[_Walk] = []
    while start < stop:
        data = buffer[: os.preadv(fd, [buffer[: stop - start]], start)]
        going_on = (compiled.search if compiled else _search)(data, start, stop, walks)
        if going_on is None:
            return True
        walks = going_on
        following = start + len(data) - (_HEAD_BYTES - 1)  # a head that is cut off is seen again
        if following <= start or start + len(data) >= stop:
            break
        start = following
    return False


def _search(data: memoryview, place: int, limit: int, walks: list[_Walk]) -> list[_Walk] | None:
    """Go through the entries of the heaps that begin or go on in some bytes.

    Layout: HDF5 File Format Specification 3.0, III.E: after the head of 16 bytes, entries of
    index (2 bytes), references (2), reserved (4), size (8), and the data padded to 8 bytes;
    the entry of index 0 is the free space, its head included.

    Parameters
    ----------
    data, place
        The bytes, and where they are in the file.
    limit
        Where the part of the file that is searched ends.
    walks
        What the search of the bytes before returned.

    Returns
    -------
    list or None
        The walks that go on behind these bytes. None where one has no end, or where there are more
        than heaps side by side would have: such could keep this search busy as well.
    """
    steps = len(data) // 4 + _MOST_WALKS  # sound heaps need a quarter of them
    going_on: list[_Walk] = []
    for first, end in [*walks, *_begun(data, place, limit)]:
        at = first
        while end - at >= _HEAD_BYTES:
            if at + _HEAD_BYTES > place + len(data):
                going_on.append((at, end))
                break
            entry = bytes(data[at - place : at - place + _HEAD_BYTES])
            is_free = entry[:2] == b"\0\0"
            length = int.from_bytes(entry[8:], "little")
            steps -= 1
            if steps < 0 or (is_free and length < _HEAD_BYTES):
                return None
            at += length if is_free else _HEAD_BYTES + (length + 7) // 8 * 8
    return going_on if len(going_on) <= _MOST_WALKS else None


def _begun(data: memoryview, place: int, limit: int) -> Iterator[_Walk]:
    """Yield the walks through heaps whose head lies in some bytes, in order."""
    octets = bytes(data)
    last = len(octets) - _HEAD_BYTES + len(_SIGNATURE)
    at = octets.find(_SIGNATURE, 0, max(0, last))
    while at >= 0:
        size = int.from_bytes(octets[at + 8 : at + _HEAD_BYTES], "little")
        yield place + at + _HEAD_BYTES, min(limit, place + at + size)
        at = octets.find(_SIGNATURE, at + 1, last)
