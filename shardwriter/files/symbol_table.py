"""The group of all episodes: names and addresses in a B-tree of version 1, written at once.

Source: HDF5 File Format Specification 3.0, III.A.1, III.B and III.D. Every HDF5 reads it, and a
member is found by a handful of small reads. Invariant: what ``written`` returns, ``members``
reads; nothing of it has a checksum, so that ``members`` checks all that HDF5 believes.
"""

import struct
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TypeAlias

from shardwriter.files.dense_storage import Unfamiliar

__all__ = ["HEAD", "HEADER_BYTES", "header", "members", "written"]

HEADER_BYTES = 40
HEAD = struct.pack("<BBHIIIHHBBBB", 1, 0, 1, 1, 24, 0, 0x11, 16, 0, 0, 0, 0)  # version 1
_NAMES = 8  # in a node of names: twice HDF5's default of 4
_CHILDREN = 32  # in a node of the tree: twice its default of 16
_MOST_NAME_BYTES = 1024
_NOWHERE = 2**64 - 1
_NO_FREE_SPACE = 1
_NAME_BYTES = 8 + 40 * _NAMES
_NODE_BYTES = 24 + 16 * _CHILDREN + 8


def header(tree: int, heap: int) -> bytes:
    """Return the header of a group whose tree and heap of names are at these addresses."""
    return HEAD + struct.pack("<QQ", tree, heap)


def written(addresses: Mapping[bytes, int], start: int) -> tuple[bytes, int, int]:
    """Return tree and heap as bytes that go to `start`, and the addresses of the two."""
    names = sorted(addresses)
    offsets, segment = {}, bytearray(8)
    for name in names:
        offsets[name] = len(segment)
        segment += name + bytes(8 - len(name) % 8)
    data = bytearray()
    children: list[tuple[int, int]] = []  # address, and offset of the greatest name below it
    for i in range(0, len(names), _NAMES):
        part = names[i : i + _NAMES]
        children.append((start + len(data), offsets[part[-1]]))
        node = struct.pack("<4sBBH", b"SNOD", 1, 0, len(part))
        node += b"".join(struct.pack("<QQ24x", offsets[name], addresses[name]) for name in part)
        data += node.ljust(_NAME_BYTES, b"\0")
    level = 0
    while level == 0 or len(children) > 1:
        children = _level(children, level, start, data)
        level += 1
    heap = start + len(data)
    data += struct.pack("<4sIQQQ", b"HEAP", 0, len(segment), _NO_FREE_SPACE, heap + 32)
    return bytes(data + segment), children[0][0], heap


def _level(
    children: list[tuple[int, int]], level: int, start: int, data: bytearray
) -> list[tuple[int, int]]:
    """Add one level of the tree; return its nodes as children of the next."""
    count = max(1, -(-len(children) // _CHILDREN))
    first = start + len(data)
    nodes, least = [], 0
    for i in range(count):
        part = children[i * _CHILDREN : (i + 1) * _CHILDREN]
        left = first + (i - 1) * _NODE_BYTES if i else _NOWHERE
        right = first + (i + 1) * _NODE_BYTES if i + 1 < count else _NOWHERE
        node = struct.pack("<4sBBHQQQ", b"TREE", 0, level, len(part), left, right, least)
        node += b"".join(struct.pack("<QQ", *child) for child in part)
        data += node.ljust(_NODE_BYTES, b"\0")
        least = part[-1][1] if part else 0
        nodes.append((first + i * _NODE_BYTES, least))
    return nodes


def members(read: Callable[[int, int], bytes], tree: int, heap: int) -> dict[bytes, int]:
    """Return the addresses of a group's members by name, in the order of names.

    Parameters
    ----------
    read
        Returns bytes of the file at an address.
    tree, heap
        The addresses that follow ``HEAD`` in the group's header.

    Raises
    ------
    Unfamiliar
        It is not a group of hard links, or HDF5 would not find in it what is there.
    """
    signature, version, size, free, place = struct.unpack("<4sIQQQ", read(heap, 32))
    if signature != b"HEAP" or version:
        raise Unfamiliar
    segment = read(place, size)
    _check_free(segment, free)
    found: dict[bytes, int] = {}
    for leaf, least, greatest in _leaves(read, tree, segment):
        last = least
        for offset, member in _entries(read(leaf, _NAME_BYTES)):
            name = _name(segment, offset)
            if name <= last:
                raise Unfamiliar
            found[name] = member
            last = name
        if last > greatest:
            raise Unfamiliar
    return found


_Node: TypeAlias = tuple[int, bytes, bytes]  # its names are above the first, up to the second


def _leaves(read: Callable[[int, int], bytes], tree: int, segment: bytes) -> list[_Node]:
    """Return a tree's nodes of names, in order; HDF5 searches each node for its range."""
    root = read(tree, _NODE_BYTES)
    level, used = root[5], int.from_bytes(root[6:8], "little")
    if level == 0 and used == 0 and root[:5] == b"TREE\0":
        return []
    nodes: list[_Node] = [(tree, b"", b"\xff")]  # no text has that byte
    for expected in range(level, -1, -1):
        below: list[_Node] = []
        for address, least, greatest in nodes:
            block = read(address, _NODE_BYTES)
            used = int.from_bytes(block[6:8], "little")
            if block[:6] != b"TREE\0" + bytes([expected]) or not 0 < used <= _CHILDREN:
                raise Unfamiliar
            words = struct.unpack_from(f"<{2 * used + 1}Q", block, 24)
            names = [_name(segment, offset) for offset in words[::2]]
            if names[0] < least or names[-1] > greatest or any(a >= b for a, b in pairwise(names)):
                raise Unfamiliar
            below += zip(words[1::2], names, names[1:], strict=False)
        nodes = below
    return nodes


def _entries(block: bytes) -> list[tuple[int, int]]:
    """Return offset of the name and address of each member that a node of names has."""
    used = int.from_bytes(block[6:8], "little")
    if block[:5] != b"SNOD\x01" or not 0 < used <= _NAMES:
        raise Unfamiliar
    entries = list(struct.iter_unpack("<QQI20x", block[8 : 8 + 40 * used]))
    if any(cached for _, _, cached in entries):  # it may be a soft link
        raise Unfamiliar
    return [(offset, member) for offset, member, _ in entries]


def _name(segment: bytes, offset: int) -> bytes:
    """Return the name at an offset of a heap's data, which has to end in there."""
    end = segment.find(b"\0", offset, offset + _MOST_NAME_BYTES)
    if end < 0:
        raise Unfamiliar
    return segment[offset:end]


def _check_free(segment: bytes, free: int) -> None:
    """Raise Unfamiliar unless a heap's list of free blocks ends, and all of them are in it."""
    left = len(segment)  # they do not overlap, so that a list of more bytes has no end
    while free != _NO_FREE_SPACE:
        if free + 16 > len(segment):
            raise Unfamiliar
        following, size = struct.unpack_from("<QQ", segment, free)
        left -= size
        if size < 16 or free + size > len(segment) or left < 0:
            raise Unfamiliar
        free = following
