"""What the messages in an object's header say: which kind of object it is, and of what form.

Source: HDF5 File Format Specification 3.0, IV.A.2. Invariant: as in ``structure``; a message that
HDF5 would take for something else than is returned here raises ``Unfamiliar``.
"""

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from shardwriter.files.dense_storage import Unfamiliar
from shardwriter.files.stored_types import dtype_of

__all__ = [
    "ATTRIBUTE",
    "ATTRIBUTE_INFO",
    "CONTINUATION",
    "LAYOUT",
    "LINK",
    "LINK_INFO",
    "REFERENCE_BYTES",
    "SYMBOL_TABLE",
    "UNDEFINED",
    "AttributeForm",
    "Messages",
    "StoredDataset",
    "attribute_form",
    "is_group",
    "stored_dataset",
    "stored_form",
]

Messages: TypeAlias = list[tuple[int, bytes]]
# An attribute's name, dtype (None for text of variable length), shape, and where its value starts.
AttributeForm: TypeAlias = "tuple[str, np.dtype[Any] | None, tuple[int, ...], int]"

LINK_INFO, LINK, LAYOUT, ATTRIBUTE = 0x02, 0x06, 0x08, 0x0C
CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x10, 0x11, 0x15
UNDEFINED = b"\xff" * 8  # an address
REFERENCE_BYTES = 16  # to a text of variable length

_DATASPACE, _DATATYPE, _FILL, _GROUP_INFO, _FILTERS = 0x01, 0x03, 0x05, 0x0A, 0x0B
_OF_GROUPS = {LINK_INFO, LINK, _GROUP_INFO, ATTRIBUTE, ATTRIBUTE_INFO}
_OF_DATASETS = {_DATASPACE, _DATATYPE, _FILL, LAYOUT, _FILTERS, ATTRIBUTE, ATTRIBUTE_INFO}

_attribute = struct.Struct("<BBHHH").unpack_from


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
        return self.dtype.itemsize if self.dtype else REFERENCE_BYTES


def is_group(messages: Messages) -> bool:
    """Tell whether an object is a group, else a dataset."""
    kinds = {kind for kind, _ in messages}
    if kinds == {SYMBOL_TABLE} or (LINK_INFO in kinds and kinds <= _OF_GROUPS):
        return True
    if {_DATASPACE, _DATATYPE, LAYOUT} <= kinds <= _OF_DATASETS:
        return False
    raise Unfamiliar


def attribute_form(body: bytes) -> AttributeForm:
    """Return what an attribute message says before its value."""
    version, flags, name, dtype, space = _attribute(body)
    dtype_bytes = dtype
    if version == 1:  # each of the three is padded
        name, dtype, space = (-(-size // 8) * 8 for size in (name, dtype, space))
    elif flags or version not in (2, 3):
        raise Unfamiliar
    start = 9 if version == 3 else 8
    places = start, start + name, start + name + dtype
    return _form(body[: places[2] + space], *places, dtype_bytes)


def stored_form(messages: Messages) -> tuple[tuple[int, ...], np.dtype[Any] | None]:
    """Return a dataset's shape and dtype, None for text of variable length."""
    of = dict(messages)
    dtype = dtype_of(of[_DATATYPE])
    if _FILL in of:
        _check_fill(of[_FILL], dtype)
    return _shape(of[_DATASPACE]), dtype


def stored_dataset(messages: Messages) -> StoredDataset:
    """Return what a dataset's header says of it."""
    of = dict(messages)
    shape, dtype = stored_form(messages)
    filters = _filters(of[_FILTERS]) if _FILTERS in of else ()
    layout = of[LAYOUT]
    if layout[:2] in (b"\x03\x01", b"\x04\x01"):
        address = layout[2:10]
        chunk: tuple[int, ...] = ()
        index = b""
    elif layout[:2] in (b"\x03\x02", b"\x04\x02") and len(layout) > 5:
        chunk, item_bytes, index, address = _chunked(layout)
        if item_bytes != (dtype.itemsize if dtype else REFERENCE_BYTES):
            raise Unfamiliar
    else:
        raise Unfamiliar
    if chunk and (0 in chunk or len(chunk) != len(shape)):
        raise Unfamiliar
    where = -1 if address == UNDEFINED else int.from_bytes(address, "little")
    grows = _most(of[_DATASPACE])[1:] != shape[1:]
    return StoredDataset(shape, dtype, chunk, filters, index, where, grows)


@lru_cache(maxsize=1024)
def _form(head: bytes, start: int, place: int, space: int, dtype_bytes: int) -> AttributeForm:
    """Return the form of the attribute that begins so.

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
