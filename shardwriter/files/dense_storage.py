"""Many links or attributes of one object: messages in a fractal heap, found through a B-tree.

Source: HDF5 File Format Specification 3.0, III.A.2 and III.G. Invariant: as in ``structure``;
more than fits one node of the tree is ``Unfamiliar``.
"""

import struct
from collections.abc import Callable

__all__ = ["Unfamiliar", "dense_messages"]

_NOWHERE = 2**64 - 1
_MOST_ROWS = 64
_ID_OF_TYPE = {5: slice(4, 11), 8: slice(0, 8)}  # where a record of a tree has the heap's id

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
    head = read(tree, 38)
    checked(head)
    if head[:5] != b"BTHD\0" or head[5] not in _ID_OF_TYPE:
        raise Unfamiliar
    record_bytes, depth = struct.unpack_from("<HH", head, 10)
    root, count = struct.unpack_from("<QH", head, 16)
    if depth or root == _NOWHERE:
        raise Unfamiliar
    leaf = read(root, 10 + record_bytes * count)
    checked(leaf)
    if leaf[:5] != b"BTLF\0":
        raise Unfamiliar
    where = _ID_OF_TYPE[head[5]]
    records = (leaf[6 + i * record_bytes :][:record_bytes] for i in range(count))
    return [store.message(record[where]) for record in records]


class _Heap:
    def __init__(self, read: Read, checked: Checked, address: int) -> None:
        self._read = read
        self._checked = checked
        head = read(address, 146)
        checked(head)
        if head[:5] != b"FRHP\0" or head[7:9] != b"\0\0":  # its blocks are not compressed
            raise Unfamiliar
        self._has_checksums = bool(head[9] & 2)
        width, first_size, most_direct, bits, _, root, rows = struct.unpack_from(
            "<HQQHHQH", head, 110
        )
        self._offset_bytes = -(-bits // 8)
        if root == _NOWHERE or rows > _MOST_ROWS:
            raise Unfamiliar
        self._blocks: list[tuple[int, bytes]] = []
        if rows == 0:
            self._blocks.append((0, self._direct(root, first_size)))
            return
        start = 13 + self._offset_bytes
        table = read(root, start + 8 * rows * width + 4)
        checked(table)
        if table[:5] != b"FHIB\0":
            raise Unfamiliar
        place = 0
        for row in range(rows):
            size = first_size << max(0, row - 1)
            for i in range(row * width, (row + 1) * width):
                (block,) = struct.unpack_from("<Q", table, start + 8 * i)
                if block != _NOWHERE:
                    if size > most_direct:
                        raise Unfamiliar
                    self._blocks.append((place, self._direct(block, size)))
                place += size

    def _direct(self, address: int, size: int) -> bytes:
        block = self._read(address, size)
        if block[:5] != b"FHDB\0":
            raise Unfamiliar
        if self._has_checksums:
            place = 13 + self._offset_bytes
            checksum = block[place : place + 4]
            self._checked(block[:place] + bytes(4) + block[place + 4 :] + checksum)
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
