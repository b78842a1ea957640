"""Many links or attributes of one object: messages in a fractal heap, found through a B-tree.

Source: HDF5 File Format Specification 3.0, III.A.2 and III.G. Invariant: as in ``structure``;
parameters other than HDF5's own, which can crash it, and trees of more than two levels are
``Unfamiliar``.
"""

import struct
from collections.abc import Callable, Iterator

__all__ = ["Unfamiliar", "dense_messages"]

_NOWHERE = 2**64 - 1
_MOST_ROWS = 64
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
    return [store.message(identifier) for identifier in _identifiers(read, checked, tree)]


def _identifiers(read: Read, checked: Checked, tree: int) -> Iterator[bytes]:
    """Yield the heap's ids that a tree of names has, in no order."""
    head = read(tree, 38)
    checked(head)
    kind = head[5]
    if head[:5] != b"BTHD\0" or kind not in _RECORDS:
        raise Unfamiliar
    record_bytes, where = _RECORDS[kind]
    *form, depth = struct.unpack_from("<IHH", head, 6)
    root, count, total = struct.unpack_from("<QHQ", head, 16)
    if form != [_NODE_BYTES, record_bytes] or head[14:16] != _SPLIT_AND_MERGE or depth > 1:
        raise Unfamiliar
    leaves = [(root, count)]
    records: list[bytes] = []
    if depth:
        node = _node(read, checked, (root, count), b"BTIN", kind, 9 * (count + 1))
        end = 6 + count * record_bytes
        records += _cut(node[6:end], record_bytes)
        leaves = list(struct.iter_unpack("<QB", node[end:-4]))  # each child with its records
    for each in leaves:
        records += _cut(_node(read, checked, each, b"BTLF", kind)[6:-4], record_bytes)
    if len(records) != total or (kind == 8 and any(record[8] for record in records)):
        raise Unfamiliar  # an attribute with flags is one of several objects
    yield from (record[where] for record in records)


def _node(
    read: Read, checked: Checked, place: tuple[int, int], signature: bytes, kind: int, more: int = 0
) -> bytes:
    """Return a node of a tree, by its address and number of records, of so many more bytes."""
    address, count = place
    size = 10 + count * _RECORDS[kind][0] + more
    node = read(address, size)
    if size > _NODE_BYTES or node[:6] != signature + bytes([0, kind]):
        raise Unfamiliar
    checked(node)
    return node


def _cut(data: bytes, size: int) -> list[bytes]:
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
        if head[110:132] != form or root == _NOWHERE or rows > _MOST_ROWS:
            raise Unfamiliar
        self._address = address
        self._offset_bytes = bits // 8
        self._blocks: list[tuple[int, bytes]] = []
        if rows == 0:
            self._blocks.append((0, self._direct(root, first_size, 0)))
            return
        start = 13 + self._offset_bytes
        table = read(root, start + 8 * rows * _WIDTH + 4)
        checked(table)
        if table[:start] != self._head_of(b"FHIB", 0):
            raise Unfamiliar
        place = 0
        for row in range(rows):
            size = first_size << max(0, row - 1)
            for i in range(row * _WIDTH, (row + 1) * _WIDTH):
                (block,) = struct.unpack_from("<Q", table, start + 8 * i)
                if block != _NOWHERE:
                    if size > _MOST_DIRECT:
                        raise Unfamiliar
                    self._blocks.append((place, self._direct(block, size, place)))
                place += size

    def _head_of(self, signature: bytes, place: int) -> bytes:
        """Return how a block begins that holds what is from a place of the heap on."""
        address = self._address.to_bytes(8, "little")
        return signature + b"\0" + address + place.to_bytes(self._offset_bytes, "little")

    def _direct(self, address: int, size: int, place: int) -> bytes:
        block = self._read(address, size)
        end = 13 + self._offset_bytes
        if block[:end] != self._head_of(b"FHDB", place):
            raise Unfamiliar
        checksum = block[end : end + 4]
        self._checked(block[:end] + bytes(4) + block[end + 4 :] + checksum)
        return block

    def message(self, identifier: bytes) -> bytes:
        """Return the object of an identifier: a byte of flags, its offset, its length."""
        if identifier[0] & 0xF0:  # neither huge nor tiny
            raise Unfamiliar
        middle = 1 + self._offset_bytes
        offset = int.from_bytes(identifier[1:middle], "little")
        length = int.from_bytes(identifier[middle:], "little")
        for start, block in self._blocks:
            if start <= offset < start + len(block):
                found = block[offset - start : offset - start + length]
                if len(found) == length:
                    return found
        raise Unfamiliar
