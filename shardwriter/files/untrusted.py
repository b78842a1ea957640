"""What a file may hold: checks before anything in it is read.

Shards and masters travel between people, so they are hostile input. Invariant: a dataset's storage
and filters are looked at before its data are read, and a size before memory is taken.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5i, h5p, h5t

from shardwriter.errors import ShardDamaged, ShardOutside, TooLarge, not_opened
from shardwriter.files.compression import optional
from shardwriter.files.links import DEEPEST, MOST_NODES, Node, entries, open_child, place_of
from shardwriter.files.published import open_published

__all__ = [
    "UNREADABLE",
    "Reading",
    "as_object",
    "check_column",
    "check_filters",
    "check_memory",
    "check_own",
    "check_tree",
    "file_of",
    "is_at_hand",
    "is_inside",
    "is_safe_chunk",
    "opened",
    "read_attributes_of",
    "read_text_attribute",
    "readable",
]

# What HDF5 and decoding raise about content, which may be of any kind where another is expected.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_MOST_ATTRIBUTES = 10_000
_MOST_ATTRIBUTE_BYTES = 64 << 20
_MOST_CHUNK_BYTES = 1 << 30
_STORED_KINDS = "biufcS"
_REFERENCE_BYTES = 16  # to a text of variable length

_DEFLATE, _SHUFFLE, _LZF = 1, 2, 32000
_STOCK_FILTERS = {_DEFLATE, _SHUFFLE, _LZF}  # not Fletcher32, which crashes on a short chunk
_PLUGIN_FILTERS = {32001, 32004, 32015}  # Blosc, LZ4, Zstd: ``chunk_sizes`` knows them


def file_of(node: h5py.Group | h5py.Dataset) -> Path:
    """Return the path of the file that an object is in."""
    return Path(os.fsdecode(h5f.get_name(node.id)))


@contextmanager
def readable(path: Path, place: str = "structure") -> Iterator[None]:
    """Turn whatever HDF5 and decoding raise about a file's content into one error.

    Raises
    ------
    ShardDamaged
        What is read in the block cannot be.
    """
    try:
        yield
    except UNREADABLE as error:
        raise ShardDamaged(path, place, f"cannot be read: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[h5g.GroupID]:
    """Open a file to read, and give its root; all that was opened in it is closed at the end.

    What HDF5 may not survive in it is for ``vetted`` to find, or for a process that can be lost.

    Raises
    ------
    ShardDamaged
        It is no HDF5 file, or what is read in the block cannot be.
    """
    try:
        file = open_published(path)
    except OSError as error:
        raise not_opened(path, "structure", error) from error
    with readable(path):
        try:
            yield h5g.open(file, b"/")
        finally:
            h5py.File(file).close()  # which a damaged file may prevent


def check_column(path: Path, dataset: h5d.DatasetID) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Make sure that a dataset of a table is safe to read; return its dtype and chunk shape.

    Raises
    ------
    ShardDamaged
        Its data lie outside the file, its type or chunks are none that a table has, or it needs
        a filter that this package does not know.
    MissingDependency
        Its filter comes with an extra that is not installed.
    """
    properties = dataset.get_create_plist()
    if properties.get_layout() != h5d.CHUNKED:
        raise ShardDamaged(path, place_of(dataset), "expected chunks in this file, got none")
    dtype = dataset.dtype
    if dtype.kind not in _STORED_KINDS or dtype.names is not None or dtype.subdtype is not None:
        problem = f"expected numbers or text of fixed length, got {dtype}"
        raise ShardDamaged(path, place_of(dataset), problem)
    chunk: tuple[int, ...] = properties.get_chunk()
    size = dtype.itemsize * math.prod(chunk)
    if not is_safe_chunk(dtype, chunk):
        problem = f"expected chunks of at most 1 GiB, got {size} bytes"
        raise ShardDamaged(path, place_of(dataset), problem)
    check_filters(path, dataset, properties)
    return dtype, chunk


def is_safe_chunk(dtype: np.dtype[Any] | None, chunk: tuple[int, ...]) -> bool:
    """Tell whether a chunk of a table is of a size that may be read whole."""
    return dtype is not None and dtype.itemsize * math.prod(chunk) <= _MOST_CHUNK_BYTES


def is_at_hand(number: int) -> bool:
    """Tell whether a filter needs no plugin, or one that is installed with this package."""
    return number in _STOCK_FILTERS or (number in _PLUGIN_FILTERS and _has_plugins())


@cache
def _has_plugins() -> bool:
    return find_spec("hdf5plugin") is not None


def check_filters(path: Path, dataset: h5d.DatasetID, properties: h5p.PropDCID) -> None:
    """Refuse filters that HDF5 would look for in a plugin path.

    Those of the extra ``codecs`` are registered from that package, never searched for.
    """
    for i in range(properties.get_nfilters()):
        number = properties.get_filter(i)[0]
        if number in _STOCK_FILTERS:
            continue
        if number not in _PLUGIN_FILTERS:
            problem = f"expected a filter of this package, got number {number}"
            raise ShardDamaged(path, place_of(dataset), problem)
        optional("hdf5plugin")


def check_memory(path: Path, place: str, size: int) -> None:
    """Refuse to take more memory than the machine has left.

    Raises
    ------
    TooLarge
        `size` bytes are not available.
    """
    if size < _MOST_ATTRIBUTE_BYTES:
        return
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable()
    if size > available:
        raise TooLarge(path, place, size, available)


def _reclaimable() -> int:
    """Return the bytes of the page cache, which the kernel gives back when asked."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    sizes = dict(line.split(":") for line in lines)
    return int(sizes["Cached"].split()[0]) * 1024


def read_attributes_of(path: Path, node: Node) -> dict[str, Any]:
    """Return the attributes of an object, as they stand in the file.

    Raises
    ------
    ShardDamaged
        There are too many, or one is neither numbers nor text, or is too large.
    """
    count = h5a.get_num_attrs(node)
    if count > _MOST_ATTRIBUTES:
        raise ShardDamaged(path, place_of(node), f"expected fewer attributes, got {count}")
    return dict(_attributes(path, node, count))


def _attributes(path: Path, node: Node, count: int) -> Iterator[tuple[str, Any]]:
    for i in range(count):
        attribute = h5a.open(node, index=i)
        name = attribute.name.decode("utf-8", "surrogateescape")
        if attribute.get_storage_size() > _MOST_ATTRIBUTE_BYTES:
            raise ShardDamaged(path, f"{place_of(node)}@{name}", "expected at most 64 MiB")
        kind = attribute.get_type()
        shape: tuple[int, ...] = attribute.shape
        if isinstance(kind, h5t.TypeStringID):
            yield name, as_object(node).attrs[name] if shape else _text(attribute)
            continue
        dtype = kind.dtype
        if dtype.kind not in _STORED_KINDS:
            problem = f"expected numbers or text, got {dtype}"
            raise ShardDamaged(path, f"{place_of(node)}@{name}", problem)
        value = np.empty(shape, dtype)
        attribute.read(value)
        yield name, value if shape else value[()]


def _text(attribute: h5a.AttrID) -> str:
    """Return an attribute's text; what is not UTF-8 raises UnicodeError."""
    value = np.empty((), attribute.dtype)
    attribute.read(value)
    text: Any = value[()]
    data: bytes = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return data.decode("utf-8")


def as_object(node: Node) -> h5py.Group | h5py.Dataset:
    """Return the high-level object of an open identifier."""
    return h5py.Group(node) if isinstance(node, h5g.GroupID) else h5py.Dataset(node)


def read_text_attribute(path: Path, node: Node, name: str) -> str:
    """Return one attribute that is text.

    Raises
    ------
    ShardDamaged
        There is none of that name, or it is something else.
    """
    try:
        attribute = h5a.open(node, name.encode())
        if isinstance(attribute.get_type(), h5t.TypeStringID) and not attribute.shape:
            return _text(attribute)
    except (KeyError, OSError, RuntimeError) as error:
        raise ShardDamaged(path, f"@{name}", f"cannot be read: {error}") from error
    raise ShardDamaged(path, f"@{name}", "expected text")


class Reading:
    """What reading objects of a file takes: how many they are, and of memory.

    Parameters
    ----------
    path
        The file, for errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._nodes = 0
        self._nbytes = 0
        self._text_bytes = 0

    def count(self, node: Node, depth: int) -> None:
        """Take note of an object that lies so deep.

        Raises
        ------
        ShardDamaged
            It lies too deep, or there are too many.
        """
        self._nodes += 1
        if depth > DEEPEST:
            raise ShardDamaged(
                self._path, place_of(node), f"expected groups at most {DEEPEST} deep"
            )
        if self._nodes > MOST_NODES:
            raise ShardDamaged(self._path, place_of(node), f"expected at most {MOST_NODES} objects")

    def add(self, node: h5d.DatasetID) -> None:
        """Take note of a dataset that is to be read whole.

        Raises
        ------
        ShardDamaged
            It holds neither numbers nor text; or many references to one text, so that all have
            more bytes than the file.
        TooLarge
            All that was noted does not fit into memory.
        """
        place, dtype = place_of(node), node.dtype
        items = math.prod(node.shape)
        self._nbytes += items * dtype.itemsize
        if dtype.hasobject:
            if h5py.check_string_dtype(dtype) is None:
                raise ShardDamaged(self._path, place, f"expected numbers or text, got {dtype}")
            check_memory(self._path, place, items * _REFERENCE_BYTES)
            size = os.fstat(h5i.get_file_id(node).get_vfd_handle()).st_size
            for length in _text_lengths(node):
                self._text_bytes += length
                if self._text_bytes > max(size, _MOST_ATTRIBUTE_BYTES):
                    problem = "expected texts of no more bytes than the file has"
                    raise ShardDamaged(self._path, place, problem)
        check_memory(self._path, place, self._nbytes + self._text_bytes)


def _text_lengths(node: h5d.DatasetID) -> Iterator[int]:
    """Yield the bytes of each text, or of several, before any but the one at hand is read."""
    if node.get_create_plist().get_layout() == h5d.CONTIGUOUS:
        offset = node.get_offset()
        if offset is not None:  # else nothing was written
            fd = h5i.get_file_id(node).get_vfd_handle()
            data = os.pread(fd, math.prod(node.shape) * _REFERENCE_BYTES, offset)
            yield int(np.frombuffer(data, "<u4")[:: _REFERENCE_BYTES // 4].sum(dtype=np.int64))
        return
    dataset = h5py.Dataset(node)
    for place in np.ndindex(dataset.shape):
        yield len(dataset[place])


def check_tree(
    path: Path,
    node: Node,
    *,
    may_be_virtual: bool = False,
    reading: Reading | None = None,
    depth: int = 0,
) -> None:
    """Make sure that what lies below a group is safe to read whole.

    Parameters
    ----------
    path
        The file, for errors.
    node
        The group or dataset.
    may_be_virtual
        Let virtual datasets pass; their sources are the caller's to check.
    reading
        What is read besides.
    depth
        How deep it lies.

    Raises
    ------
    ShardDamaged
        It holds links, cycles, data of other files or unknown filters.
    TooLarge
        All datasets together do not fit into memory.
    """
    reading = reading or Reading(path)
    reading.count(node, depth)
    if isinstance(node, h5g.GroupID):
        for name in entries(path, node):
            child = open_child(path, node, name)
            check_tree(path, child, may_be_virtual=may_be_virtual, reading=reading, depth=depth + 1)
        return
    properties = node.get_create_plist()
    is_virtual = properties.get_layout() == h5d.VIRTUAL
    if properties.get_external_count() or (is_virtual and not may_be_virtual):
        raise ShardDamaged(path, place_of(node), "expected data of its own, got a reference")
    check_filters(path, node, properties)
    reading.add(node)


def check_own(path: Path, directory: Path) -> None:
    """Make sure that a file lies below its experiment's directory, once links are followed.

    Raises
    ------
    ShardOutside
        It does not.
    """
    if not is_inside(path, directory):
        raise ShardOutside(path, directory, "put a copy in the place of the link")


def is_inside(path: Path, root: Path) -> bool:
    """Tell whether a file lies below a directory, once links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
