"""HDF5's global heaps, where texts of any length lie: the one structure that can hang its reader.

Invariant: a file is searched as bytes, before HDF5 sees it.
"""

import os
from pathlib import Path
from typing import cast

from shardwriter.compiled import compiled_module
from shardwriter.errors import ShardDamaged

__all__ = ["check_heaps"]

_HEAP = b"GCOL\x01"  # HDF5 ignores the three reserved bytes that follow
_HEAP_SEARCH = 128 * 1024
_MOST_SEARCHED = 256 << 20

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
        There is such a heap, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            parts = [
                file.read(_MOST_SEARCHED if whole and size <= _MOST_SEARCHED else _HEAP_SEARCH)
            ]
            if size > len(parts[0]):
                file.seek(max(_HEAP_SEARCH, size - _HEAP_SEARCH))
                parts.append(file.read())
    except OSError as error:
        raise ShardDamaged(path, "structure", f"cannot be opened: {error}") from error
    if any(map(_is_endless, parts)):
        raise ShardDamaged(path, "global heap", "expected entries of some length, got 0")


def _is_endless(data: bytes) -> bool:
    if compiled:
        return cast(bool, compiled.is_endless(data))
    at = data.find(_HEAP)
    while at >= 0:
        if _loops(data, at):
            return True
        at = data.find(_HEAP, at + 1)
    return False


def _loops(data: bytes, at: int) -> bool:
    """Tell whether a global heap has an entry for free space that takes no space.

    Layout: HDF5 File Format Specification 3.0, III.E: after the head of 16 bytes, entries of
    index (2 bytes), references (2), reserved (4), size (8), and the data padded to 8 bytes;
    the entry of index 0 is the free space, its head included.
    """
    end = min(len(data), at + int.from_bytes(data[at + 8 : at + 16], "little"))
    at += 16
    while at + 16 <= end:
        index = int.from_bytes(data[at : at + 2], "little")
        length = int.from_bytes(data[at + 8 : at + 16], "little")
        if index == 0 and length < 16:
            return True
        at += length if index == 0 else 16 + (length + 7) // 8 * 8
    return False
