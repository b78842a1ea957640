"""Where a dataset's chunks are in the file, read from its bytes.

Source: HDF5 File Format Specification 3.0, VII. Invariant: as in ``structure``; an index of
another kind than those that shards have raises ``Unfamiliar``.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from shardwriter.files.dense_storage import cut
from shardwriter.files.stored_objects import StoredDataset
from shardwriter.files.structure import Structure, Unfamiliar

__all__ = ["StoredChunk", "chunks_of", "most_chunks"]

StoredChunk: TypeAlias = tuple[int, int, int]  # address, bytes, mask of filters that it skips

_TREE, _SINGLE, _FIXED, _EXTENSIBLE = 0, 1, 3, 4
_SINGLE_FILTERED = 2  # among the layout's flags
_NOWHERE = 2**64 - 1
_MOST_CHUNKS = 1 << 20
_MOST_CHILDREN = 64  # of a node of a tree
_PAGE_BITS = 10
_PAGE = 1 << _PAGE_BITS  # elements
# HDF5's own parameters of extensible arrays: bits of the number of elements, elements in the index
# itself, in the least data block, data blocks of the least super block, bits of a page's number.
_OF_ARRAYS = (32, 4, 16, 4, _PAGE_BITS)


def chunks_of(structure: Structure, dataset: StoredDataset, count: int) -> list[StoredChunk | None]:
    """Return a dataset's first chunks, in order along its first axis; None: never written."""
    if count > _MOST_CHUNKS:
        raise Unfamiliar
    if dataset.address < 0:
        return [None] * count
    if dataset.grows:  # HDF5 then numbers chunks otherwise
        raise Unfamiliar
    kind = dataset.index[1]
    size = dataset.chunk_bytes
    if kind == _SINGLE and count == 1:
        if dataset.index[0] & _SINGLE_FILTERED:
            size, mask = struct.unpack("<QI", dataset.index[2:14])
            return [(dataset.address, size, mask)]
        return [(dataset.address, size, 0)]
    if kind == _FIXED:
        elements = _fixed_elements(structure, dataset, count)
    elif kind == _EXTENSIBLE:
        elements = _ExtensibleArray(structure, dataset).elements(count)
    else:
        raise Unfamiliar
    return [_chunk(element, size) for element in elements]


def _chunk(element: bytes, size: int) -> StoredChunk | None:
    """Return what an index says of a chunk; `size` is that of one which no filter made shorter."""
    address = int.from_bytes(element[:8], "little")
    if address == _NOWHERE:
        return None
    if len(element) == 8:
        return address, size, 0
    return address, int.from_bytes(element[8:-4], "little"), int.from_bytes(element[-4:], "little")


def _element(dataset: StoredDataset) -> bytes:
    """Return the kind and the size of an index's elements, as both kinds of index begin."""
    if not dataset.filters:
        return b"\0\x08"
    size_bytes = min(8, 1 + (dataset.chunk_bytes.bit_length() + 7) // 8)
    return bytes([1, 8 + size_bytes + 4])


def _fixed_elements(structure: Structure, dataset: StoredDataset, count: int) -> list[bytes]:
    """Return the first elements of HDF5's index of chunks of a dataset that cannot grow."""
    head = structure.read(dataset.address, 28)
    if head[:7] != b"FAHD\0" + _element(dataset):
        raise Unfamiliar
    structure.note(head)
    width, page_bits = head[6], head[7]
    most, place = struct.unpack_from("<QQ", head, 8)
    if place == _NOWHERE:
        return [b"\xff" * width] * count
    if count > most or most > _MOST_CHUNKS or page_bits != _PAGE_BITS:
        raise Unfamiliar
    pages = -(-most // _PAGE) if most > _PAGE else 0
    marks = -(-pages // 8)
    block = structure.read(place, 14 + marks + (0 if pages else most * width) + 4)
    if block[:5] != b"FADB\0":
        raise Unfamiliar
    structure.note(block)
    if pages:
        is_written = _bits(block[14 : 14 + marks])[:pages]
        return _paged(structure, place + len(block), most, width, is_written)[:count]
    return cut(block[14 : 14 + count * width], width)


def _paged(
    structure: Structure, address: int, count: int, width: int, is_written: Sequence[bool]
) -> list[bytes]:
    """Return the elements of a data block whose pages start at an address."""
    found: list[bytes] = []
    for mark in is_written:
        length = min(_PAGE, count - len(found))
        size = length * width + 4
        if mark:
            page = structure.read(address, size)
            structure.note(page)
            found += cut(page[:-4], width)
        else:
            found += [b"\xff" * width] * length
        address += size
    return found


def _bits(data: bytes) -> list[bool]:
    return [bool(byte & 0x80 >> i) for byte in data for i in range(8)]


def most_chunks(structure: Structure, dataset: StoredDataset) -> int:
    """Return how many chunks of a dataset have been written at most.

    Raises
    ------
    Unfamiliar
        Something is in the index that HDF5 may not survive.
    """
    grid = zip(dataset.shape, dataset.chunk, strict=True)
    count = math.prod(-(-length // chunk) for length, chunk in grid)
    if dataset.address < 0:
        return 0
    kind = dataset.index[1]
    if kind == _SINGLE and count == 1:
        return 1
    if kind == _FIXED:
        return sum(each is not None for each in chunks_of(structure, dataset, count))
    if kind == _TREE:
        return _in_tree(structure, dataset, count)
    if kind != _EXTENSIBLE:
        raise Unfamiliar
    array = _ExtensibleArray(structure, dataset)
    if array.used > count:  # HDF5 would look for all of them
        raise Unfamiliar
    return array.used


def _in_tree(structure: Structure, dataset: StoredDataset, most: int) -> int:
    """Return how many chunks a B-tree of version 1 has; none of it has a checksum."""
    key = 8 + 8 * (len(dataset.shape) + 1)
    nodes = [(dataset.address, -1)]
    chunks = 0
    for address, expected in nodes:  # grows while it is gone through, level after level
        head = structure.read(address, 24)
        level, used = head[5], int.from_bytes(head[6:8], "little")
        is_next = level == expected or expected < 0
        if head[:5] != b"TREE\x01" or not is_next or used > _MOST_CHILDREN:
            raise Unfamiliar
        data = structure.read(address + 24, used * (key + 8) + key)
        children = [
            int.from_bytes(data[at : at + 8], "little") for at in range(key, len(data), key + 8)
        ]
        if level:
            nodes += [(child, level - 1) for child in children]
        else:
            chunks += used
        if chunks > most or len(nodes) > 2 * most + _MOST_CHILDREN:
            raise Unfamiliar
    return chunks


class _ExtensibleArray:
    """HDF5's index of chunks along one axis that can grow."""

    def __init__(self, structure: Structure, dataset: StoredDataset) -> None:
        self._structure = structure
        head = structure.read(dataset.address, 72)
        bits, self._inline, self._least, self._pointers, _ = _OF_ARRAYS
        if head[:12] != b"EAHD\0" + _element(dataset) + bytes(_OF_ARRAYS):
            raise Unfamiliar
        structure.note(head)
        self._width = head[6]
        self.used: int
        self.used, _, self._index = struct.unpack_from("<QQQ", head, 44)
        self._offset_bytes = -(-bits // 8)
        self._supers = 1 + bits - (self._least.bit_length() - 1)

    def elements(self, count: int) -> list[bytes]:
        """Return the first elements; those that were never set are nowhere."""
        nowhere = b"\xff" * self._width
        found: list[bytes] = []
        if self._index != _NOWHERE:
            for elements in self._blocks():
                found += elements
                if len(found) >= count:
                    break
        return (found + [nowhere] * (count - len(found)))[:count]

    def _blocks(self) -> Iterator[list[bytes]]:
        """Yield the elements of the index block, then of one data block after the other."""
        direct = 2 * (self._pointers - 1)
        first_super = 2 * (self._pointers.bit_length() - 1)
        pointers = direct + max(0, self._supers - first_super)
        start = 14 + self._inline * self._width
        block = self._read(self._index, b"EAIB", start + 8 * pointers)
        yield cut(block[14:start], self._width)
        addresses = struct.unpack_from(f"<{pointers}Q", block, start)
        sizes = [
            (self._least << (i + 1) // 2, 1 << i // 2) for i in range(self._supers)
        ]  # elements of a data block, and data blocks, for each super block
        blocks = iter(addresses[:direct])
        for size, number in sizes[:first_super]:
            for _ in range(number):
                yield self._data(next(blocks, _NOWHERE), size)
        for (size, number), address in zip(sizes[first_super:], addresses[direct:], strict=False):
            yield from self._super(address, size, number)

    def _super(self, address: int, size: int, number: int) -> Iterator[list[bytes]]:
        if address == _NOWHERE:
            yield [b"\xff" * self._width] * (size * number)
            return
        pages = size // _PAGE if size > _PAGE else 0
        start = 14 + self._offset_bytes
        marks = number * -(-pages // 8)
        block = self._read(address, b"EASB", start + marks + 8 * number)
        is_written = _bits(block[start : start + marks])  # without gaps between data blocks
        for i, each in enumerate(struct.unpack_from(f"<{number}Q", block, start + marks)):
            yield self._data(each, size, is_written[i * pages : (i + 1) * pages])

    def _data(self, address: int, size: int, is_written: Sequence[bool] = ()) -> list[bytes]:
        if address == _NOWHERE:
            return [b"\xff" * self._width] * size
        start = 14 + self._offset_bytes
        if not is_written:
            block = self._read(address, b"EADB", start + size * self._width)
            return cut(block[start:-4], self._width)
        head = self._read(address, b"EADB", start)
        return _paged(self._structure, address + len(head), size, self._width, is_written)

    def _read(self, address: int, signature: bytes, size: int) -> bytes:
        block = self._structure.read(address, size + 4)
        if block[:5] != signature + b"\0":
            raise Unfamiliar
        self._structure.note(block)
        return block
