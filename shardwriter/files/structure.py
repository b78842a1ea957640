"""The structure of an HDF5 file, read from its bytes: links, attributes and datasets.

Asking HDF5 what is in a small shard takes milliseconds; its bytes say it in a tenth of that, and
nothing in them can hang or crash. Source: HDF5 File Format Specification 3.0. Invariant: what is
returned is what HDF5 would say once ``are_sound`` has compared the checksums; whatever else a
file may hold raises ``Unfamiliar``, and HDF5 has to be asked.
"""

import math
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from shardwriter.files.dense_storage import Unfamiliar, dense_messages
from shardwriter.files.lookup3 import lookup3_of_many
from shardwriter.files.stored_types import dtype_of
from shardwriter.files.symbol_table import HEAD, HEADER_BYTES, members

__all__ = [
    "UNCERTAIN",
    "Messages",
    "StoredDataset",
    "Structure",
    "Unfamiliar",
    "are_sound",
]

# What reading may raise: damaged bytes are decoded before their checksum is looked at.
UNCERTAIN = (
    Unfamiliar,
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

Messages: TypeAlias = list[tuple[int, bytes]]

_UNDEFINED = b"\xff" * 8
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DATASPACE, _LINK_INFO, _DATATYPE, _FILL, _LINK = 0x01, 0x02, 0x03, 0x05, 0x06
_EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE = 0x07, 0x08, 0x0B, 0x0C
_CONTINUATION, _SYMBOL_TABLE, _ATTRIBUTE_INFO = 0x10, 0x11, 0x15
_OF_GROUPS = {_LINK_INFO, _LINK, 0x0A, _ATTRIBUTE, _ATTRIBUTE_INFO}
_OF_DATASETS = {_DATASPACE, _DATATYPE, _FILL, _LAYOUT, _FILTERS, _ATTRIBUTE, _ATTRIBUTE_INFO}
_CONTIGUOUS, _CHUNKED = 1, 2
_MOST_BLOCKS = 256  # of one header
_MOST_BYTES = 64 << 20  # of one thing that is read
_WHOLE_BYTES = 1 << 20  # smaller files are read at once
_FIRST_BYTES = 512  # of a header, as most have fewer
_REFERENCE_BYTES = 16  # to a text

_message = struct.Struct("<BHB").unpack_from
_attribute = struct.Struct("<BBHHH").unpack_from
_heap_entry = struct.Struct("<HH4xQ").unpack_from
_heap_reference = struct.Struct("<IQI").unpack_from
_word = struct.Struct("<Q").unpack_from


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A dataset as its header describes it.

    ``dtype`` is None for text of variable length. ``chunk`` is the chunk's shape, () where the
    dataset has none; ``filters`` are the filters' numbers in order, ``index`` the kind of the
    chunk index with its parameters, ``address`` where that, or the data, is (-1: nowhere).
    ``grows`` tells whether it may do so along another axis than the first.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    chunk: tuple[int, ...]
    filters: tuple[int, ...]
    index: bytes
    address: int
    grows: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, references to text counted as 16."""
        return math.prod(self.shape) * self._item_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk before its filters."""
        return math.prod(self.chunk) * self._item_bytes

    @property
    def _item_bytes(self) -> int:
        return self.dtype.itemsize if self.dtype else _REFERENCE_BYTES


class Structure:
    """The objects of one file.

    Parameters
    ----------
    path
        The file; not a symbolic link. Or its descriptor.
    is_read_whole
        Read a small file at once, as is best where more than its root is wanted.

    Attributes
    ----------
    checksummed
        Every block read so far that ends in a checksum.
    size, mtime_ns
        Of the file when it was opened.
    whole
        All of a small file, b"" where it was not read at once.

    Raises
    ------
    OSError
        It cannot be read.
    Unfamiliar
        It is no HDF5 file of the kind that is known here.
    """

    def __init__(self, path: Path | str | int, *, is_read_whole: bool = True) -> None:
        if isinstance(path, int):
            self._fd = os.dup(path)
        else:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            stat = os.fstat(self._fd)
            self.size, self.mtime_ns = stat.st_size, stat.st_mtime_ns
            is_small = is_read_whole and self.size <= _WHOLE_BYTES
            self.whole = os.pread(self._fd, self.size, 0) if is_small else b""
            head = self.read(0, 48)
            # Superblock 2 or 3, 8-byte offsets and lengths, no base address, no extension.
            if head[:8] != _SIGNATURE or head[8] not in (2, 3) or head[9:11] != b"\x08\x08":
                raise Unfamiliar
            base, extension, end, root = struct.unpack_from("<Q8sQQ", head, 12)
            if head[11] or base or extension != _UNDEFINED or end > self.size:
                raise Unfamiliar
        except BaseException:
            os.close(self._fd)
            raise
        self.checksummed = [head]
        self.root: int = root
        self._heaps: dict[int, dict[int, bytes]] = {}

    def __enter__(self) -> "Structure":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was noted for ``are_sound`` stays."""
        self.whole = b""
        os.close(self._fd)

    def fileno(self) -> int:
        """Return the file's descriptor, while it is open."""
        return self._fd

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, exactly so many."""
        if size > _MOST_BYTES or offset + size > self.size:
            raise Unfamiliar
        if self.whole:
            return self.whole[offset : offset + size]
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise Unfamiliar
        return data

    def messages(self, address: int) -> Messages:
        """Return the messages of the object whose header is at an address."""
        first = self.read(address, min(_FIRST_BYTES, self.size - min(address, self.size)))
        if first[:5] != b"OHDR\x02":
            if first[: len(HEAD)] == HEAD:
                return [(_SYMBOL_TABLE, first[len(HEAD) : HEADER_BYTES])]
            raise Unfamiliar
        flags = first[5]
        width = 1 << (flags & 3)
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0) + width
        length = start + int.from_bytes(first[start - width : start], "little") + 4
        block = first[:length] if length <= len(first) else self.read(address, length)
        step = 6 if flags & 4 else 4
        found: Messages = []
        blocks = [(block, start)]
        for data, first_place in blocks:
            self.checksummed.append(data)
            place, end = first_place, len(data) - 4
            while place + step <= end:
                kind, length, sharing = _message(data, place)
                place += step
                following = place + length
                if following > end or sharing & 2:
                    raise Unfamiliar
                if kind == _CONTINUATION:
                    blocks.append((self._continuation(data[place:following], len(blocks)), 4))
                elif kind:
                    found.append((kind, data[place:following]))
                place = following
        single = [kind for kind, _ in found if kind not in (_LINK, _ATTRIBUTE)]
        if len(set(single)) != len(single):  # HDF5 takes the first
            raise Unfamiliar
        return found

    def _continuation(self, body: bytes, count: int) -> bytes:
        if len(body) != 16 or count > _MOST_BLOCKS:
            raise Unfamiliar
        block = self.read(*struct.unpack("<QQ", body))
        if block[:4] != b"OCHK":
            raise Unfamiliar
        return block

    def find(self, path: str) -> Messages | None:
        """Return the messages of the object at a path from the root, None where there is none."""
        address = self.place(path)
        return None if address is None else self.messages(address)

    def place(self, path: str) -> int | None:
        """Return the address of the object at a path from the root, None where there is none."""
        address = self.root
        for name in path.encode("utf-8", "surrogateescape").split(b"/"):
            messages = self.messages(address)
            found = self.links(messages).get(name) if self.is_group(messages) else None
            if found is None:
                return None
            address = found
        return address

    # -- groups ---------------------------------------------------------------------------

    @staticmethod
    def is_group(messages: Messages) -> bool:
        """Tell whether an object is a group, else a dataset."""
        kinds = {kind for kind, _ in messages}
        if kinds == {_SYMBOL_TABLE} or (_LINK_INFO in kinds and kinds <= _OF_GROUPS):
            return True
        if {_DATASPACE, _DATATYPE, _LAYOUT} <= kinds <= _OF_DATASETS:
            return False
        raise Unfamiliar

    def links(self, messages: Messages) -> dict[bytes, int]:
        """Return the addresses of a group's members by name, in the order of names."""
        found: dict[bytes, int] = {}
        for kind, body in self._every(messages, _LINK, _LINK_INFO, 8):
            if kind == _SYMBOL_TABLE:
                found = members(self.read, *struct.unpack("<QQ", body))
            elif kind == _LINK:
                flags = body[1]
                if body[0] != 1 or flags & 8:  # a link of another type than hard
                    raise Unfamiliar
                place = 2 + (8 if flags & 4 else 0) + (1 if flags & 0x10 else 0)
                width = 1 << (flags & 3)
                name = place + width
                end = name + int.from_bytes(body[place:name], "little")
                if len(body) != end + 8 or body[name:end] in found:
                    raise Unfamiliar
                found[body[name:end]] = _word(body, end)[0]
        return dict(sorted(found.items()))

    def _every(self, messages: Messages, kind: int, about: int, counter_bytes: int) -> Messages:
        """Return messages, those that lie elsewhere because they are many among them.

        Parameters
        ----------
        messages
            Those of the header.
        kind, about
            The kind wanted, and that of the message which says where they are.
        counter_bytes
            Width of a counter in that, where it has one.
        """
        elsewhere: list[bytes] = []
        for each, body in messages:
            if each == about:
                place = 2 + (counter_bytes if body[1] & 1 else 0)
                if body[0]:
                    raise Unfamiliar
                if body[place : place + 8] != _UNDEFINED:
                    places = struct.unpack_from("<QQ", body, place)
                    elsewhere += dense_messages(self.read, self.checksummed.append, *places)
        return messages + [(kind, body) for body in elsewhere] if elsewhere else messages

    # -- attributes -----------------------------------------------------------------------

    def attributes(self, messages: Messages, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return an object's attributes, as h5py gives them, but for some."""
        found: dict[str, Any] = {}
        for kind, body in self._every(messages, _ATTRIBUTE, _ATTRIBUTE_INFO, 2):
            if kind == _ATTRIBUTE:
                name, dtype, shape, start = self._form(body)
                if name in found:
                    raise Unfamiliar
                if name not in without:
                    found[name] = self._value(dtype, shape, body[start:])
        return dict(sorted(found.items()))

    def decoded(self, stored: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
        """Return attributes, each given by what comes before its value, and that; texts as such."""
        found: dict[str, Any] = {}
        for head, data in stored:
            name, dtype, shape, _ = self._form(head)
            found[name] = data.decode() if dtype is None else self._value(dtype, shape, data)
        return dict(sorted(found.items()))

    @staticmethod
    def _form(body: bytes) -> "_Form":
        version, flags, name, dtype, space = _attribute(body)
        dtype_bytes = dtype
        if version == 1:  # each of the three is padded
            name, dtype, space = (-(-size // 8) * 8 for size in (name, dtype, space))
        elif flags or version not in (2, 3):
            raise Unfamiliar
        start = 9 if version == 3 else 8
        places = start, start + name, start + name + dtype
        return _form(body[: places[2] + space], *places, dtype_bytes)

    def _value(self, dtype: np.dtype[Any] | None, shape: tuple[int, ...], data: bytes) -> Any:
        if dtype is None:
            if shape:
                raise Unfamiliar
            return self.text(data).decode()
        if len(data) < math.prod(shape) * dtype.itemsize:
            raise Unfamiliar
        if dtype.kind == "S":
            if shape:
                raise Unfamiliar
            return data[: dtype.itemsize].rstrip(b"\0").decode()
        return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape).copy()[()]

    def text(self, reference: bytes, place: int = 0) -> bytes:
        """Return the bytes of a text of variable length."""
        if len(reference) < place + 16:
            raise Unfamiliar
        length, address, number = _heap_reference(reference, place)
        if not length:
            return b""
        data = self._in_heap(address, number)
        if len(data) != length:
            raise Unfamiliar
        return data

    def _in_heap(self, address: int, number: int) -> bytes:
        """Return an object of a global heap, b"" where there is none of that number."""
        if address not in self._heaps:
            self._heaps[address] = self._heap(address)
        return self._heaps[address].get(number, b"")

    def _heap(self, address: int) -> dict[int, bytes]:
        """Read a global heap collection."""
        head = self.read(address, 16)
        if head[:5] != b"GCOL\x01":
            raise Unfamiliar
        data = self.read(address, _word(head, 8)[0])
        found: dict[int, bytes] = {}
        place = 16
        while place + 16 <= len(data):
            number, _, length = _heap_entry(data, place)
            if number == 0:  # the free space comes last
                if length != len(data) - place:  # HDF5 goes on behind it
                    raise Unfamiliar
                break
            place += 16
            found[number] = data[place : place + length]
            place += -(-length // 8) * 8
        return found

    # -- datasets -------------------------------------------------------------------------

    def virtual_mapping(self, messages: Messages) -> bytes | None:
        """Return what a virtual dataset shows, as it is stored, None for any other dataset."""
        layout = dict(messages)[_LAYOUT]
        if layout[:2] != b"\x04\x03":
            return None
        found = self._in_heap(*struct.unpack_from("<QI", layout, 2))
        self.checksummed.append(found)
        return found

    @staticmethod
    def form(messages: Messages) -> tuple[tuple[int, ...], np.dtype[Any] | None]:
        """Return a dataset's shape and dtype, None for text of variable length."""
        of = dict(messages)
        dtype = dtype_of(of[_DATATYPE])
        if _FILL in of:
            _check_fill(of[_FILL], dtype)
        return _shape(of[_DATASPACE]), dtype

    @staticmethod
    def dataset(messages: Messages) -> StoredDataset:
        """Return what a dataset's header says of it."""
        of = dict(messages)
        shape, dtype = Structure.form(messages)
        filters = _filters(of[_FILTERS]) if _FILTERS in of else ()
        layout = of[_LAYOUT]
        if layout[:2] in (b"\x03\x01", b"\x04\x01"):
            address = layout[2:10]
            chunk: tuple[int, ...] = ()
            index = b""
        elif layout[:2] in (b"\x03\x02", b"\x04\x02") and len(layout) > 5:
            chunk, item_bytes, index, address = _chunked(layout)
            if item_bytes != (dtype.itemsize if dtype else _REFERENCE_BYTES):
                raise Unfamiliar
        else:
            raise Unfamiliar
        if chunk and (0 in chunk or len(chunk) != len(shape)):
            raise Unfamiliar
        where = -1 if address == _UNDEFINED else int.from_bytes(address, "little")
        grows = _most(of[_DATASPACE])[1:] != shape[1:]
        return StoredDataset(shape, dtype, chunk, filters, index, where, grows)


_Form: TypeAlias = "tuple[str, np.dtype[Any] | None, tuple[int, ...], int]"


@lru_cache(maxsize=1024)
def _form(head: bytes, start: int, place: int, space: int, dtype_bytes: int) -> _Form:
    """Return an attribute's name, dtype and shape, and where its value starts.

    Parameters
    ----------
    head
        What comes before the value.
    start, place, space
        Where name, datatype and dataspace are in it.
    dtype_bytes
        Bytes of the datatype without its padding.
    """
    text = head[start:place].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    kind = dtype_of(head[place : place + dtype_bytes])
    if kind is not None and kind.names:
        raise Unfamiliar
    return text, kind, _shape(head[space:]), len(head)


@lru_cache(maxsize=1024)
def _shape(message: bytes) -> tuple[int, ...]:
    """Return the shape of a dataspace message."""
    version, rank = message[0], message[1]
    if version == 1:
        start = 8
    elif version == 2 and message[3] in (0, 1):
        start = 4
    else:
        raise Unfamiliar
    if len(message) < start + 8 * rank:
        raise Unfamiliar
    return struct.unpack_from(f"<{rank}Q", message, start)


@lru_cache(maxsize=1024)
def _check_fill(message: bytes, dtype: np.dtype[Any] | None) -> None:
    """Make sure that a fill value has the size of an element, and leads nowhere else."""
    if message[0] == 3 and len(message) > 1:
        has_value, start = bool(message[1] & 0x20), 2
    elif message[0] == 2 and len(message) > 3:
        has_value, start = bool(message[3]), 4
    else:
        raise Unfamiliar
    size = int.from_bytes(message[start : start + 4], "little")
    if has_value and size:
        if dtype is None or size != dtype.itemsize or len(message) != start + 4 + size:
            raise Unfamiliar
    elif len(message) not in (start, start + 4):
        raise Unfamiliar


def _chunked(layout: bytes) -> tuple[tuple[int, ...], int, bytes, bytes]:
    """Return the shape of chunks, bytes of an element, parameters and address of their index."""
    if layout[0] == 3:  # of a file that older versions of HDF5 can read: a B-tree of version 1
        rank, start, width = layout[2], 11, 4
        address, end = layout[3:11], start + 4 * rank
        index = b"\0\0"
        if len(layout) != end:
            raise Unfamiliar
    else:
        rank, width, start = layout[3], layout[4], 5
        end = start + rank * width
        address = layout[-8:]
        index = layout[2:3] + layout[end:-8]
    sizes = [layout[i : i + width] for i in range(start, end, width)]
    *chunk, item_bytes = (int.from_bytes(size, "little") for size in sizes)
    return tuple(chunk), item_bytes, index, address


@lru_cache(maxsize=1024)
def _most(message: bytes) -> tuple[int, ...]:
    """Return the shape that a dataset may grow to, of a dataspace message that ``_shape`` read."""
    shape = _shape(message)
    start = (8 if message[0] == 1 else 4) + 8 * len(shape)
    return struct.unpack_from(f"<{len(shape)}Q", message, start) if message[2] & 1 else shape


@lru_cache(maxsize=1024)
def _filters(message: bytes) -> tuple[int, ...]:
    """Return the numbers of a pipeline's filters."""
    if message[0] != 2:
        raise Unfamiliar
    found, place = [], 2
    for _ in range(message[1]):
        (number,) = struct.unpack_from("<H", message, place)
        place += 2
        name = 0
        if number >= 256:
            (name,) = struct.unpack_from("<H", message, place)
            place += 2
        _, values = struct.unpack_from("<HH", message, place)
        place += 4 + name + 4 * values
        found.append(number)
    return tuple(found)


def are_sound(several: Sequence[Structure]) -> list[bool]:
    """Tell, for each of some files, whether all blocks that were read match their checksums."""
    blocks = [block for each in several for block in each.checksummed]
    hashes = lookup3_of_many([block[:-4] for block in blocks])
    expected = np.frombuffer(b"".join(block[-4:] for block in blocks), "<u4")
    owners = np.repeat(np.arange(len(several)), [len(each.checksummed) for each in several])
    wrong = set(owners[hashes != expected].tolist())
    return [i not in wrong for i in range(len(several))]
