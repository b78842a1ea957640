"""The group of all episodes: names and addresses in a B-tree of version 1, written at once.

Source: HDF5 File Format Specification 3.0, III.A.1, III.B and III.D. Every HDF5 reads it, and a
member is found by a handful of small reads. Invariant: what ``written`` returns, ``members``
reads; nothing of it has a checksum.
"""

import struct
from collections.abc import Callable, Mapping

from shardwriter.files.dense_storage import Unfamiliar

__all__ = ["HEAD", "HEADER_BYTES", "header", "members", "written"]

HEADER_BYTES = 40
HEAD = struct.pack("<BBHIIIHHBBBB", 1, 0, 1, 1, 24, 0, 0x11, 16, 0, 0, 0, 0)  # version 1
_NAMES = 8  # in a node of names: twice HDF5's default of 4
_CHILDREN = 32  # in a node of the tree: twice its default of 16
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
    """Return the addresses of a group's members by name.

    Parameters
    ----------
    read
        Returns bytes of the file at an address.
    tree, heap
        The addresses that follow ``HEAD`` in the group's header.

    Raises
    ------
    Unfamiliar
        It is not a group that ``written`` made.
    """
    signature, _, size, _, place = struct.unpack("<4sIQQQ", read(heap, 32))
    if signature != b"HEAP":
        raise Unfamiliar
    segment = read(place, size)
    found: dict[bytes, int] = {}
    nodes = [tree]
    for node in nodes:  # grows while it is gone through, level after level
        if len(nodes) > 1 << 20:
            raise Unfamiliar
        block = read(node, 24)
        if block[:4] == b"TREE":
            (used,) = struct.unpack_from("<H", block, 6)
            entries = read(node + 24, 16 * used)
            nodes += struct.unpack(f"<{2 * used}Q", entries)[1::2]
        elif block[:4] == b"SNOD":
            (used,) = struct.unpack_from("<H", block, 6)
            for offset, member in struct.iter_unpack("<QQ24x", read(node + 8, 40 * used)):
                end = segment.find(b"\0", offset)
                found[segment[offset : max(end, offset)]] = member
        else:
            raise Unfamiliar
    return found
