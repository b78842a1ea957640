"""HDF5 objects as bytes: groups, datasets, attributes.

HDF5 takes a quarter of a millisecond for a dataset: a minute for a master of 10,000 episodes, and
most of the time that recording a short episode takes. What it would write is simple.
Source: HDF5 File Format Specification 3.0; HDF5 1.8 and later read it, virtual datasets from
1.10 on. Invariant: an object is complete, checksums included, once ``finish`` has run.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5t

from shardwriter.files.lookup3 import lookup3_of_many
from shardwriter.files.schema import fill_value

__all__ = ["AttributeTooLarge", "Encoder", "encoded", "mapping"]

Array = np.ndarray[Any, Any]

_UNDEFINED = b"\xff" * 8
_DATASPACE, _LINK_INFO, _DATATYPE, _FILL, _LINK = 0x01, 0x02, 0x03, 0x05, 0x06
_LAYOUT, _GROUP_INFO, _FILTERS = 0x08, 0x0A, 0x0B
_ATTRIBUTE, _ATTRIBUTE_INFO = 0x0C, 0x15
_MOST_MESSAGE_BYTES = 65_000
_DEFAULT_MOST = 8  # attributes or links, beyond which HDF5 keeps them elsewhere unless told
_COLLECTION_BYTES = 32 * 1024  # a reader of one object of a heap reads its collection
_LEAST_COLLECTION_BYTES = 4096
_MOST_OBJECTS = 60_000  # of a collection; they are numbered with 16 bits
_CONSTANT = 1
_CONSTANT_KINDS = {_DATATYPE, _FILL, _FILTERS}
_ADDRESS_BYTES = 8

_SCALAR = bytes([2, 0, 0, 0])
_UNLIMITED = 2**64 - 1
_SINGLE_FILTERED = 2  # of a chunked layout's flags: one chunk, which filters made shorter
_FIXED = 3
_ONE_CHUNK = b"\x01"  # kinds of chunk index; of an extensible array HDF5's own parameters
_GROWING = b"\x04\x20\x04\x04\x10\x0a"
# All of a dataset: kind 3, version 1, reserved, length 0; once for the source, once for here.
_WHOLE = struct.pack("<IIII", 3, 1, 0, 0) * 2

_prefix = struct.Struct("<BHB").pack
_object = struct.Struct("<HHIQ").pack
_reference = struct.Struct("<IQI").pack


def encoded(name: str) -> bytes:
    """Return a name's bytes; one that is not UTF-8 in its file stays as it is."""
    return name.encode("utf-8", "surrogateescape")


class Encoder:
    """Objects that follow one another in a file.

    Parameters
    ----------
    start
        The address in the file at which they begin.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._data = bytearray()
        self._checked: list[tuple[int, int]] = []  # spans before a checksum
        self._heap = bytearray()
        self._collection = bytearray()
        self._objects = 0
        self._checked_heap: list[tuple[int, int]] = []
        self._in_heap: list[int] = []  # places in the data of addresses that count from the heap

    def __len__(self) -> int:
        """Return the bytes so far."""
        return len(self._data) + len(self._heap) + len(self._collection)

    def finish(self) -> bytes:
        """Return all objects, those of the heap behind the others."""
        self._close_collection()
        heap = self._start + len(self._data)
        for place in self._in_heap:
            (offset,) = struct.unpack_from("<Q", self._data, place)
            struct.pack_into("<Q", self._data, place, heap + offset)
        shift = len(self._data)
        data = self._data + self._heap
        spans = self._checked + [(a + shift, b + shift) for a, b in self._checked_heap]
        hashes = lookup3_of_many([bytes(data[a:b]) for a, b in spans]).tolist()
        for (_, end), value in zip(spans, hashes, strict=True):
            struct.pack_into("<I", data, end, value)
        return bytes(data)

    # -- objects --------------------------------------------------------------------------

    def group(self, members: Mapping[str, int], attributes: Mapping[str, Any]) -> int:
        """Add a group of members that are there already; return its address."""
        messages = [_message(_LINK_INFO, b"\0\0" + 2 * _UNDEFINED)]
        most = struct.pack("<BBHH", 0, 1, 0xFFFF, 0) if len(members) > _DEFAULT_MOST else b"\0\0"
        messages.append(_message(_GROUP_INFO, most))
        messages += [_message(_LINK, _link(name, place)) for name, place in members.items()]
        return self._header(messages, attributes)

    def virtual(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        source: bytes,
        place: bytes,
        attributes: Mapping[str, Any],
        is_text: bool = False,
    ) -> int:
        """Add a dataset that shows a whole dataset of another file; return its address."""
        form = _form(dtype, is_text)
        if 0 in shape:
            return self._dataset(form, shape, _contiguous(_UNDEFINED, 0), attributes)
        offset, number = self._stored(mapping(source, place) + bytes(4), is_checked=True)
        layout = struct.pack("<BBQI", 4, 3, offset, number)
        return self._dataset(form, shape, layout, attributes, in_heap=2)

    def array(self, values: Array, attributes: Mapping[str, Any]) -> int:
        """Add a dataset with its data, numbers or text; return its address."""
        if values.dtype == object:
            form = _text_form()
            data, places = self._references(values)
        else:
            form, data, places = _form(values.dtype, False, is_filled=False), values.tobytes(), []
        address = len(self._data)
        self._data += data
        self._in_heap += [address + place for place in places]
        where = struct.pack("<Q", self._start + address) if data else _UNDEFINED
        return self._dataset(form, values.shape, _contiguous(where, len(data)), attributes)

    def chunk(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        gzip_level: int | None,
        stored: tuple[int, int],
        attributes: Mapping[str, Any],
        is_text: bool = False,
        is_filled: bool = True,
    ) -> int:
        """Add a dataset that is one chunk, and of which no length is 0 but the first.

        Parameters
        ----------
        dtype, shape, attributes, is_text
            As they are to be.
        gzip_level
            Of shuffle and deflate, which made the chunk; None for a chunk as it is.
        stored
            Address and bytes of the chunk, which the caller writes.
        is_filled
            Give it a fill value of this package's, not HDF5's own.
        """
        rows, *row_shape = shape
        most = shape
        if rows:
            flags, index = b"\0", _ONE_CHUNK
            if gzip_level is not None:
                flags = bytes([_SINGLE_FILTERED])
                index += struct.pack("<QI", stored[1], 0)
            index += struct.pack("<Q", stored[0])
        else:
            flags, index = b"\0", _GROWING + _UNDEFINED
            most = (_UNLIMITED, *row_shape)
        lengths = (max(rows, 1), *row_shape, dtype.itemsize)
        width = -(-max(lengths).bit_length() // 8)  # of each, as short as can be
        layout = b"\x04\x02" + flags + bytes([len(lengths), width])
        layout += b"".join(length.to_bytes(width, "little") for length in lengths) + index
        form = _form(dtype, is_text, is_filled, in_chunks=True)
        if gzip_level is not None:
            form += _message(_FILTERS, _gzip(dtype.itemsize, gzip_level), _CONSTANT)
        return self._dataset(form, shape, layout, attributes, most=most)

    def dataset(
        self,
        messages: Iterable[tuple[int, bytes]],
        attributes: Mapping[str, Any],
    ) -> int:
        """Add a dataset from the kinds and bodies of its messages; return its address."""
        whole = [
            _message(kind, body, _CONSTANT if kind in _CONSTANT_KINDS else 0)
            for kind, body in messages
        ]
        return self._header(whole, attributes)

    def texts(self, values: Iterable[str]) -> int:
        """Add the data of a dataset of text of variable length; return its address."""
        data, places = self._references(np.array(list(values), object))
        address = len(self._data)
        self._data += data
        self._in_heap += [address + place for place in places]
        return self._start + address

    def fixed_array(self, elements: Sequence[bytes]) -> tuple[bytes, int]:
        """Add HDF5's index of the chunks of a dataset that cannot grow.

        Parameters
        ----------
        elements
            For each chunk its address, and where there are filters its bytes and their mask.

        Returns
        -------
        bytes, int
            What a layout says of it, and its address.
        """
        address = self._start + len(self._data)
        width, page_bits = len(elements[0]), max(10, len(elements).bit_length())
        client = 0 if width == _ADDRESS_BYTES else 1
        head = struct.pack("<4sBBBB", b"FAHD", 0, client, width, page_bits)
        self._add_checked(head + struct.pack("<QQ", len(elements), address + 28))
        block = struct.pack("<4sBBQ", b"FADB", 0, client, address)
        self._add_checked(block + b"".join(elements))
        return bytes([_FIXED, page_bits]), address

    def _dataset(
        self,
        form: bytes,
        shape: tuple[int, ...],
        layout: bytes,
        attributes: Mapping[str, Any],
        in_heap: int | None = None,
        most: tuple[int, ...] | None = None,
    ) -> int:
        space = _message(_DATASPACE, _space(shape, most))
        before = len(space) + len(form) + 4
        places = [] if in_heap is None else [before + in_heap]
        return self._header([space, form, _message(_LAYOUT, layout)], attributes, places)

    def _header(
        self, messages: list[bytes], attributes: Mapping[str, Any], in_heap: Iterable[int] = ()
    ) -> int:
        """Add an object's header; `in_heap` are places in the messages, as one string of bytes."""
        places = list(in_heap)
        flags, most = 2, b""
        if attributes:
            messages = [*messages, _message(_ATTRIBUTE_INFO, b"\0\0" + 2 * _UNDEFINED)]
            length = sum(map(len, messages))
            for name, value in attributes.items():
                body, references = self._attribute(name, value)
                places += [length + 4 + place for place in references]
                messages.append(_message(_ATTRIBUTE, body))
                length += 4 + len(body)
            if len(attributes) > _DEFAULT_MOST:
                flags, most = 2 | 0x10, struct.pack("<HH", 0xFFFF, 0)
        body = b"".join(messages)
        address = len(self._data)
        head = b"OHDR" + bytes([2, flags]) + most + struct.pack("<I", len(body))
        self._in_heap += [address + len(head) + place for place in places]
        self._add_checked(head + body)
        return self._start + address

    def _add_checked(self, block: bytes) -> None:
        """Add a block and its checksum."""
        start = len(self._data)
        self._data += block + bytes(4)
        self._checked.append((start, start + len(block)))

    def _attribute(self, name: str, value: Any) -> tuple[bytes, list[int]]:
        """Return the body of an attribute's message, and the places of its heap addresses."""
        array = np.asarray(value, object) if isinstance(value, str) else np.asarray(value)
        places: list[int] = []
        if array.dtype == object:
            kind = _text_type()
            data, places = self._references(array)
        else:
            kind, data = _type(array.dtype, False), array.tobytes()
        raw = encoded(name) + b"\0"
        space = _space(array.shape)
        charset = 0 if name.isascii() else 1
        head = struct.pack("<BBHHHB", 3, 0, len(raw), len(kind), len(space), charset)
        head += raw + kind + space
        if len(head) + len(data) > _MOST_MESSAGE_BYTES:
            raise AttributeTooLarge(name, len(data))
        return head + data, [len(head) + place for place in places]

    # -- the heap -------------------------------------------------------------------------

    def _references(self, texts: Array) -> tuple[bytes, list[int]]:
        """Store texts; return the references to them, and where these have heap addresses."""
        parts, places = [], []
        for i, text in enumerate(texts.reshape(-1).tolist()):
            data = encoded(text)
            if data:
                offset, number = self._stored(data)
                places.append(16 * i + 4)
                parts.append(_reference(len(data), offset, number))
            else:
                parts.append(bytes(16))
        return b"".join(parts), places

    def _stored(self, data: bytes, is_checked: bool = False) -> tuple[int, int]:
        """Add an object to the heap; return its collection, from the heap's start, and number."""
        if len(self._collection) >= _COLLECTION_BYTES or self._objects >= _MOST_OBJECTS:
            self._close_collection()
        if not self._collection:
            self._collection += b"GCOL\x01\0\0\0" + bytes(8)
        self._objects += 1
        self._collection += _object(self._objects, 0, 0, len(data))
        if is_checked:
            start = len(self._heap) + len(self._collection)
            self._checked_heap.append((start, start + len(data) - 4))
        self._collection += data + bytes(-len(data) % 8)
        return len(self._heap), self._objects

    def _close_collection(self) -> None:
        if self._collection:
            free = _LEAST_COLLECTION_BYTES - len(self._collection)
            if free > 0:
                free = max(free, 16)
                self._collection += _object(0, 0, 0, free) + bytes(free - 16)
            struct.pack_into("<Q", self._collection, 8, len(self._collection))
            self._heap += self._collection
        self._collection = bytearray()
        self._objects = 0


def mapping(source: bytes, place: bytes) -> bytes:
    """Return what the heap has of a dataset that shows a whole other one, but for its checksum."""
    # "%b" in these names would stand for a block's number; "%%" is a per cent sign.
    names = b"%b\0%b\0" % (source.replace(b"%", b"%%"), place.replace(b"%", b"%%"))
    return struct.pack("<BQ", 0, 1) + names + _WHOLE


class AttributeTooLarge(Exception):
    """An attribute's value does not fit an object's header; ``args`` are name and bytes."""


def _message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return _prefix(kind, len(body), flags) + body


def _link(name: str, address: int) -> bytes:
    raw = encoded(name)
    width = 0 if len(raw) < 256 else 1
    charset = b"" if raw.isascii() else b"\x01"
    flags = width | (0x10 if charset else 0)
    length = len(raw).to_bytes(1 << width, "little")
    return bytes([1, flags]) + charset + length + raw + struct.pack("<Q", address)


def _contiguous(address: bytes, size: int) -> bytes:
    return b"\x03\x01" + address + struct.pack("<Q", size)


@lru_cache(maxsize=4096)
def _space(shape: tuple[int, ...], most: tuple[int, ...] | None = None) -> bytes:
    if not shape:
        return _SCALAR
    if most is not None:
        return struct.pack(f"<BBBB{2 * len(shape)}Q", 2, len(shape), 1, 1, *shape, *most)
    return struct.pack(f"<BBBB{len(shape)}Q", 2, len(shape), 0, 1, *shape)


@lru_cache(maxsize=1024)
def _type(dtype: np.dtype[Any], is_text: bool) -> bytes:
    """Return the body of a datatype message, as HDF5 itself writes it."""
    kind = h5py.string_dtype("utf-8", dtype.itemsize) if is_text else dtype
    return bytes(h5t.py_create(kind, logical=True).encode())[2:]


@lru_cache(maxsize=1)
def _text_type() -> bytes:
    """Return the datatype of text of variable length: in a file it is a reference of 16 bytes."""
    body = bytearray(h5t.py_create(h5py.string_dtype(), logical=True).encode())[2:]
    body[4:8] = struct.pack("<I", 16)
    return bytes(body)


@lru_cache(maxsize=1024)
def _form(
    dtype: np.dtype[Any], is_text: bool, is_filled: bool = True, in_chunks: bool = False
) -> bytes:
    """Return the messages of datatype and fill value."""
    fill = fill_value(dtype) if is_filled else None
    # Version 3; filled where a value is set; space is taken late, or chunk by chunk.
    flags = 0x0B if in_chunks else 0x0A
    body = bytes([3, flags])
    if fill is not None:
        value = np.asarray(fill).tobytes()
        body = bytes([3, flags | 0x20]) + struct.pack("<I", len(value)) + value
    kind = _message(_DATATYPE, _type(dtype, is_text), _CONSTANT)
    return kind + _message(_FILL, body, _CONSTANT)


def _gzip(item_bytes: int, level: int) -> bytes:
    """Return the pipeline of shuffle and deflate; each has one parameter, and may be skipped."""
    return b"\x02\x02" + struct.pack("<HHHIHHHI", 2, 1, 1, item_bytes, 1, 1, 1, level)


@lru_cache(maxsize=1)
def _text_form() -> bytes:
    kind = _message(_DATATYPE, _text_type(), _CONSTANT)
    return kind + _message(_FILL, b"\x03\x0a", _CONSTANT)
