"""Many links or attributes of one object: messages in a fractal heap, found through a B-tree.

Source: HDF5 File Format Specification 3.0, III.A.2 and III.G. Invariant: as in ``structure``;
parameters other than HDF5's own, which can crash it, are ``Unfamiliar``.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

__all__ = ["Inconsistent", "Unfamiliar", "cut", "dense_messages", "is_name"]

_NOWHERE = 2**64 - 1
_DEEPEST = 8  # levels of a tree above its leaves
_WIDTH = 4  # blocks in a row
_MOST_DIRECT = 64 * 1024  # bytes of a block that is not one of blocks
# By length of a heap's ids, 7 for links and 8 for attributes: its first block, bits of its size.
_SIZES = {7: (512, 32), 8: (1024, 40)}
# By type of a tree, 5 of links and 8 of attributes: bytes of a record, where it has the heap's id.
_RECORDS = {5: (11, slice(4, 11)), 8: (17, slice(0, 8))}
_NODE_BYTES = 512
_SPLIT_AND_MERGE = b"\x64\x28"  # a tree's nodes, at so many per cent

Read = Callable[[int, int], bytes]
Checked = Callable[[bytes], object]


class Unfamiliar(Exception):
    """A file has something that this package does not read itself, or that is damaged."""


class Inconsistent(Unfamiliar):
    """A file has what no version of HDF5 writes, and what may damage the memory of its reader."""


def dense_messages(read: Read, checked: Checked, heap: int, tree: int) -> list[bytes]:
    """Return the bodies of all messages that an object keeps in a heap.

    Parameters
    ----------
    read
        Returns bytes of the file at an address.
    checked
        Takes note of a block that ends in its checksum.
    heap, tree
        The addresses of the heap and of the tree of names.
    """
    store = _Heap(read, checked, heap)
    places = sorted(store.place(each) for each in _identifiers(read, checked, tree))
    if any(start + length > following for (start, length), (following, _) in pairwise(places)):
        raise Inconsistent("messages that overlap")
    return [store.message(*place) for place in places]


def _identifiers(read: Read, checked: Checked, tree: int) -> Iterator[bytes]:
    """Yield the heap's ids that a tree of names has, in no order."""
    head = read(tree, 38)
    checked(head)
    kind = head[5]
    if head[:5] != b"BTHD\0" or kind not in _RECORDS:
        raise Unfamiliar
    record_bytes, where = _RECORDS[kind]
    *form, depth = struct.unpack_from("<IHH", head, 6)
    if form != [_NODE_BYTES, record_bytes] or head[14:16] != _SPLIT_AND_MERGE or depth > _DEEPEST:
        raise Inconsistent("a tree of names with other parameters than HDF5's")
    nodes: list[_Place] = [struct.unpack_from("<QHQ", head, 16)]
    widths = _widths(record_bytes, depth)
    seen: set[int] = set()
    for level in range(depth, -1, -1):
        below: list[_Place] = []
        for address, count, total in nodes:
            if not count or address in seen:
                raise Inconsistent("a tree of names with a node that is empty, or there twice")
            seen.add(address)
            records, children = _node(read, checked, (address, count), kind, widths[:level])
            if total != count + sum(child[2] for child in children):
                raise Inconsistent("a tree of names with another number of them than it says")
            if kind == 8 and any(record[8] for record in records):
                raise Unfamiliar  # an attribute with flags is one of several objects
            yield from (record[where] for record in records)
            below += children
        nodes = below


_Place: TypeAlias = tuple[int, int, int]  # of a node: address, records in it, and with all below


def _widths(record_bytes: int, depth: int) -> list[int]:
    """Return, for each level of nodes that have a parent, the width of the last of a ``_Place``."""
    most = (_NODE_BYTES - 10) // record_bytes
    widths = [0]  # of leaves, which have nothing below
    while len(widths) < depth:
        place = 9 + widths[-1]
        records = (_NODE_BYTES - 10 - place) // (record_bytes + place)
        most = records + (records + 1) * most
        widths.append((most.bit_length() + 7) // 8)
    return widths


def _node(
    read: Read, checked: Checked, place: tuple[int, int], kind: int, widths: list[int]
) -> tuple[list[bytes], list[_Place]]:
    """Return records and children of a node; `widths` are those of all levels below its own."""
    address, count = place
    record_bytes = _RECORDS[kind][0]
    child_bytes = 9 + widths[-1] if widths else 0
    end = 6 + count * record_bytes
    size = end + (count + 1) * child_bytes + 4
    if size > _NODE_BYTES:
        raise Unfamiliar
    node = read(address, size)
    if node[:6] != (b"BTIN\0" if widths else b"BTLF\0") + bytes([kind]):
        raise Unfamiliar
    checked(node)
    children: list[_Place] = []
    for child in cut(node[end:-4], child_bytes) if widths else ():
        where, records = struct.unpack_from("<QB", child)
        total = int.from_bytes(child[9:], "little") if widths[-1] else records
        children.append((where, records, total))
    return cut(node[6:end], record_bytes), children


def is_name(name: bytes) -> bool:
    """Tell whether a link's name is one, not a path that leads elsewhere."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def cut(data: bytes, size: int) -> list[bytes]:
    """Return bytes in pieces of equal size."""
    return [data[i : i + size] for i in range(0, len(data), size)]


class _Heap:
    def __init__(self, read: Read, checked: Checked, address: int) -> None:
        self._read = read
        self._checked = checked
        head = read(address, 146)
        checked(head)
        (id_bytes,) = struct.unpack_from("<H", head, 5)
        if head[:5] != b"FRHP\0" or id_bytes not in _SIZES:
            raise Unfamiliar
        first_size, bits = _SIZES[id_bytes]
        form = struct.pack("<HQQHH", _WIDTH, first_size, _MOST_DIRECT, bits, 1)
        # No filters, checksums of blocks, objects of at most 4 KiB, all of them in blocks.
        if head[7:30] != b"\0\0\x02\0\x10\0\0" + bytes(8) + b"\xff" * 8 or any(head[78:110]):
            raise Unfamiliar
        root, rows = struct.unpack_from("<QH", head, 132)
        if head[110:132] != form or root == _NOWHERE or rows > _rows(1 << bits, first_size):
            raise Unfamiliar
        self._address = address
        self._first_size = first_size
        self._offset_bytes = bits // 8
        self._starts: list[int] = []
        self._blocks: list[bytes] = []
        if rows:
            self._indirect(root, rows, 0)
        else:
            self._direct(root, first_size, 0)

    def _indirect(self, address: int, rows: int, place: int) -> None:
        """Read a block of blocks, each row of which has larger ones."""
        start = 13 + self._offset_bytes
        table = self._read(address, start + 8 * rows * _WIDTH + 4)
        self._checked(table)
        if table[:start] != self._head_of(b"FHIB", place):
            raise Unfamiliar
        blocks = struct.unpack_from(f"<{rows * _WIDTH}Q", table, start)
        for i, block in enumerate(blocks):
            size = self._first_size << max(0, i // _WIDTH - 1)
            if block == _NOWHERE:
                pass
            elif size > _MOST_DIRECT:
                self._indirect(block, _rows(size, self._first_size), place)
            else:
                self._direct(block, size, place)
            place += size

    def _head_of(self, signature: bytes, place: int) -> bytes:
        """Return how a block begins that holds what is from a place of the heap on."""
        address = self._address.to_bytes(8, "little")
        return signature + b"\0" + address + place.to_bytes(self._offset_bytes, "little")

    def _direct(self, address: int, size: int, place: int) -> None:
        block = self._read(address, size)
        end = 13 + self._offset_bytes
        if block[:end] != self._head_of(b"FHDB", place):
            raise Unfamiliar
        checksum = block[end : end + 4]
        self._checked(block[:end] + bytes(4) + block[end + 4 :] + checksum)
        self._starts.append(place)
        self._blocks.append(block)

    def place(self, identifier: bytes) -> tuple[int, int]:
        """Return offset and length of the object of an identifier, which begins with flags."""
        if identifier[0] & 0xF0:  # neither huge nor tiny
            raise Unfamiliar
        middle = 1 + self._offset_bytes
        offset = int.from_bytes(identifier[1:middle], "little")
        return offset, int.from_bytes(identifier[middle:], "little")

    def message(self, offset: int, length: int) -> bytes:
        """Return an object of the heap."""
        i = bisect_right(self._starts, offset) - 1
        start = offset - self._starts[i]
        found = self._blocks[i][start : start + length]
        if i < 0 or len(found) != length:
            raise Unfamiliar
        return found


def _rows(size: int, first_size: int) -> int:
    """Return of how many rows a block of blocks is that has so many bytes of a heap."""
    return (size // (_WIDTH * first_size)).bit_length()
