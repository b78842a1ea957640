"""What a finished shard says of itself, read without trust and without its data.

Invariant: describing a shard follows no link, loads no filter and reads no column; what it
returns holds no open file, so that it can travel between processes.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o

from shardwriter.errors import FormatError, ShardDamaged
from shardwriter.files.column_reader import read_value
from shardwriter.files.global_heap import check_heaps
from shardwriter.files.layout import (
    EPISODES,
    EVENTS,
    FORMAT,
    FORMAT_VERSION,
    TABLES,
    TIMESTEPS,
    episode_group,
)
from shardwriter.files.links import MOST_NODES, entries, open_child
from shardwriter.files.schema import readable_version
from shardwriter.files.untrusted import (
    Reading,
    check_column,
    check_filters,
    opened,
    read_attributes_of,
)

__all__ = [
    "COPIED_BYTES",
    "OF_STORAGE",
    "ColumnDescription",
    "ShardDescription",
    "StaticNode",
    "TableDescription",
    "check_count",
    "check_format",
    "check_required",
    "describe",
    "describe_tree",
    "interned",
]

COPIED_BYTES = 64 * 1024  # larger arrays outside tables stay where they are
_MOST_TEXT_BYTES = 256 << 20
OF_STORAGE = ("crc32", "is_sorted")  # attributes of columns: of the chunks, not of the values
_INTEGERS = {
    "episode_id": (0, 2**63),
    "seed": (0, 2**64),
    "total_timesteps": (0, 2**63),
    "total_spikes": (0, 2**63),
}
_REQUIRED = ("episode_id", "status", "seed", "start_time", "end_time")


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """One dataset of a table: its name, dtype and the shape of a row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class TableDescription:
    """One table: its rows and its columns.

    ``attributes`` are those of its columns that say what the values mean, by column.
    """

    rows: int
    columns: tuple[ColumnDescription, ...]
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StaticNode:
    """A group or dataset outside the tables, by its path below the episode.

    ``value`` is an array, None for a group and for a dataset that stays in the shard; such a
    dataset has its ``shape`` and ``dtype``.
    """

    path: str
    attributes: Mapping[str, Any]
    value: np.ndarray[Any, Any] | None = None
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None


@dataclass(frozen=True, slots=True)
class ShardDescription:
    """What a merge needs to know of one episode in a finished shard.

    ``group`` is the episode's group in the file, at ``address`` (-1: not known); ``uuid``, ``size``
    and ``mtime_ns`` are those of the file.
    """

    path: Path
    group: str
    episode: int
    uuid: str
    size: int
    mtime_ns: int
    attributes: Mapping[str, Any]
    tables: Mapping[str, TableDescription]
    static: tuple[StaticNode, ...]
    address: int = -1

    def rows(self, table: str) -> int:
        """Return the rows of a table, -1 where the episode has none."""
        return self.tables[table].rows if table in self.tables else -1


def describe(path: Path) -> list[ShardDescription]:
    """Read the descriptions of a file's episodes, one in a shard, many in a packed one.

    Raises
    ------
    FormatError
        The file is of another format or version.
    ShardDamaged
        The file cannot be read, or holds what no shard holds.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ShardDamaged(path, "file", f"cannot be read: {error}") from error
    check_heaps(path)
    with opened(path) as root:
        attributes = read_attributes_of(path, root)
        check_format(path, attributes)
        if EPISODES.encode() not in entries(path, root):
            raise ShardDamaged(path, EPISODES, "expected a shard, which has such a group")
        episodes = _group(path, root, EPISODES.encode())
        names = entries(path, episodes, 10 * MOST_NODES)
        check_count(path, len(names), attributes)
        found = []
        for name in names:
            group = _group(path, episodes, name)
            values = read_attributes_of(path, group)
            check_required(path, name, values)
            tables, static = _content(path, group)
            found.append(
                ShardDescription(
                    path,
                    f"{EPISODES}/{os.fsdecode(name)}",
                    int(values["episode_id"]),
                    str(attributes.get("uuid", "")),
                    stat.st_size,
                    stat.st_mtime_ns,
                    values,
                    tables,
                    static,
                    h5o.get_info(group).addr,
                )
            )
        return found


def check_format(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a file of another format, or of a version that this release cannot read."""
    version = str(attributes.get("format_version", "none"))
    if attributes.get("format") != FORMAT or not readable_version(version):
        got = f"{attributes['format']} {version}" if "format" in attributes else "none"
        expected = f"format {FORMAT} {FORMAT_VERSION.split('.')[0]}.x"
        raise FormatError(path, f"{expected}, which this release reads", got)


def check_count(path: Path, count: int, attributes: Mapping[str, Any]) -> None:
    """Make sure that a file has all its episodes, as the names of them have no checksum.

    Raises
    ------
    ShardDamaged
        There are more or fewer than its attributes say, or than the one of a shard.
    """
    expected = int(attributes.get("episode_count", 1))
    if count != expected:
        raise ShardDamaged(path, EPISODES, f"expected {expected} in it, got {count}")


def check_required(path: Path, name: bytes, values: Mapping[str, Any]) -> None:
    """Make sure that an episode has the attributes that an index is made of.

    Raises
    ------
    ShardDamaged
        One is not there, or is not what it should be.
    """
    place = f"{EPISODES}/{os.fsdecode(name)}"
    lacking = [key for key in _REQUIRED if key not in values]
    if lacking:
        raise ShardDamaged(path, place, f"expected attributes {', '.join(lacking)}; got none")
    for key, (low, high) in _INTEGERS.items():
        if not low <= int(values.get(key, 0)) < high:
            raise ShardDamaged(
                path, f"{place}@{key}", f"expected an id or count, got {values[key]}"
            )
    if place != episode_group(int(values["episode_id"])):
        problem = f"expected the id in its name, got {values['episode_id']}"
        raise ShardDamaged(path, f"{place}@episode_id", problem)
    float(values.get("total_reward", 0.0))
    for key in ("start_time", "end_time"):
        try:
            datetime.fromisoformat(str(values[key])).timestamp()
        except (ValueError, OverflowError) as error:
            raise ShardDamaged(path, f"{place}@{key}", f"expected a time: {error}") from error


def _group(path: Path, parent: h5g.GroupID, name: bytes) -> h5g.GroupID:
    node = open_child(path, parent, name)
    if not isinstance(node, h5g.GroupID):
        raise ShardDamaged(path, os.fsdecode(name), "expected a group, got a dataset")
    return node


def _content(
    path: Path, group: h5g.GroupID
) -> tuple[dict[str, TableDescription], tuple[StaticNode, ...]]:
    tables: dict[str, TableDescription] = {}
    static: list[StaticNode] = []
    reading = Reading(path)
    for raw in entries(path, group):
        name = raw.decode("utf-8", "surrogateescape")
        if name in TABLES:
            tables[name] = _table(path, _group(path, group, raw))
        elif name == EVENTS:
            events = _group(path, group, raw)
            for event in entries(path, events):
                key = f"{EVENTS}/{event.decode('utf-8', 'surrogateescape')}"
                tables[key] = _table(path, _group(path, events, event))
        else:
            static += _nodes(path, name, open_child(path, group, raw), reading, 0)
    return tables, tuple(static)


def _table(path: Path, group: h5g.GroupID) -> TableDescription:
    columns: list[ColumnDescription] = []
    lengths: dict[str, int] = {}
    attributes: dict[str, dict[str, Any]] = {}
    for raw in entries(path, group):
        name = raw.decode("utf-8", "surrogateescape")
        dataset = open_child(path, group, raw)
        if not isinstance(dataset, h5d.DatasetID) or dataset.rank == 0:
            raise ShardDamaged(path, name, "expected a column, got something else")
        dtype, chunk = check_column(path, dataset)
        shape = dataset.shape
        if name == TIMESTEPS and dataset.get_num_chunks() * chunk[0] < shape[0]:
            raise ShardDamaged(path, name, f"expected {shape[0]} rows, got fewer chunks than that")
        columns.append(interned(ColumnDescription(name, dtype, shape[1:], dtype.kind == "S")))
        lengths[name] = shape[0]
        if h5a.get_num_attrs(dataset) > 1 + (name == TIMESTEPS):
            values = read_attributes_of(path, dataset)
            attributes[name] = {k: v for k, v in values.items() if k not in OF_STORAGE}
    if TIMESTEPS not in lengths or len(set(lengths.values())) != 1:
        where = os.fsdecode(h5py.h5i.get_name(group) or b"?")
        raise ShardDamaged(path, where, f"expected columns of one length, got {lengths}")
    return TableDescription(lengths[TIMESTEPS], interned(tuple(columns)), attributes)


_seen: dict[Any, Any] = {}
_Shared = TypeVar("_Shared", ColumnDescription, tuple[ColumnDescription, ...])


def interned(described: _Shared) -> _Shared:
    """Return one object for equal ones, so that descriptions share it, pickled or not."""
    if len(_seen) > MOST_NODES:
        _seen.clear()
    return cast(_Shared, _seen.setdefault(described, described))


def describe_tree(path: Path, group: h5g.GroupID, name: str) -> list[StaticNode]:
    """Return what a group holds under a name, and all below it.

    Raises
    ------
    ShardDamaged
        It holds links, data of other files, too much, or more than 64 levels.
    """
    node = open_child(path, group, name.encode())
    return list(_nodes(path, name, node, Reading(path), 0))


def _nodes(
    path: Path, place: str, node: h5g.GroupID | h5d.DatasetID, reading: Reading, depth: int
) -> Iterator[StaticNode]:
    reading.count(node, depth)
    attributes = read_attributes_of(path, node)
    if isinstance(node, h5d.DatasetID):
        yield _array(path, place, node, attributes, reading)
        return
    yield StaticNode(place, attributes)
    for raw in entries(path, node):
        name = raw.decode("utf-8", "surrogateescape")
        child = open_child(path, node, raw)
        yield from _nodes(path, f"{place}/{name}", child, reading, depth + 1)


def _array(
    path: Path,
    place: str,
    node: h5d.DatasetID,
    attributes: Mapping[str, Any],
    reading: Reading,
) -> StaticNode:
    properties = node.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
        raise ShardDamaged(path, place, "expected data of its own, got a reference")
    check_filters(path, node, properties)
    dataset = h5py.Dataset(node)
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    if not is_text and dataset.dtype.kind not in "biufcS":
        raise ShardDamaged(path, place, f"expected numbers or text, got {dataset.dtype}")
    if not is_text and dataset.nbytes > COPIED_BYTES:
        return StaticNode(place, attributes, None, dataset.shape, dataset.dtype)
    if dataset.nbytes > _MOST_TEXT_BYTES:
        raise ShardDamaged(path, place, f"expected less text, got {dataset.nbytes} bytes")
    reading.add(node)
    value = np.asarray(read_value(dataset), object if is_text else None)
    return StaticNode(place, attributes, value, dataset.shape, None if is_text else dataset.dtype)
