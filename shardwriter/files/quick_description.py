"""Describing shards from their bytes, many at a time.

Invariant: what it returns is what ``shard_description.describe`` would; a file that is unlike
those this package writes, or unsound, is left to that, and so are the errors.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from shardwriter.errors import ShardWriterError
from shardwriter.files.chunk_index import most_chunks
from shardwriter.files.layout import EPISODES, EVENTS, TABLES, TIMESTEPS
from shardwriter.files.links import DEEPEST, MOST_NODES
from shardwriter.files.shard_description import (
    COPIED_BYTES,
    OF_STORAGE,
    ColumnDescription,
    ShardDescription,
    StaticNode,
    TableDescription,
    check_count,
    check_format,
    check_required,
    describe,
    interned,
)
from shardwriter.files.stored_episode import group, outline
from shardwriter.files.stored_objects import Messages, StoredDataset, is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar, are_sound
from shardwriter.files.untrusted import is_at_hand, is_safe_chunk
from shardwriter.files.vetting import vet

__all__ = ["describe_quickly", "describe_several", "describe_vetted", "described"]

Described = list[ShardDescription]
_Group: TypeAlias = tuple[dict[str, Any], dict[bytes, int]]  # its attributes and members

_MOST_TABLES = 1024
_tables: dict[bytes, TableDescription] = {}  # by their outlines; the rows are of one of them


def describe_several(paths: Sequence[Path]) -> "list[Described | ShardWriterError]":
    """Return the description of each of some files, or the error that ``describe`` raises."""
    quick = zip(paths, describe_quickly(paths), strict=True)
    return [described(path) if found is None else found for path, found in quick]


def describe_quickly(paths: Sequence[Path]) -> list[Described | None]:
    """Return the description of each of some files, None for what only HDF5 can read or refuse."""
    found: dict[int, Described] = {}
    read: list[tuple[int, Structure]] = []
    for i, path in enumerate(paths):
        try:
            with Structure(path) as structure:
                found[i] = _File(path, structure).episodes()
            read.append((i, structure))
        except (*UNCERTAIN, ShardWriterError):
            found.pop(i, None)
    sound = are_sound([structure for _, structure in read])
    quick = {i: found[i] for (i, _), good in zip(read, sound, strict=True) if good}
    return [quick.get(i) for i in range(len(paths))]


def describe_vetted(path: Path) -> Described:
    """Return the description of a file; HDF5 reads it only where another process survived that.

    Raises
    ------
    FormatError, ShardDamaged
        As ``describe``.
    """
    [found] = describe_quickly([path])
    if found is None:
        vet(path, "")
        found = describe(path)
    return found


def described(path: Path) -> "Described | ShardWriterError":
    """Return the description of a file, read by HDF5, or the error that ``describe`` raises."""
    try:
        return describe(path)
    except ShardWriterError as error:
        return error


class _File:
    def __init__(self, path: Path, structure: Structure) -> None:
        self._path = path
        self._structure = structure
        self._nodes = 0

    def episodes(self) -> Described:
        attributes, members = self._group(self._structure.root)
        check_format(self._path, attributes)
        uuid = str(attributes.get("uuid", ""))
        _, groups = self._group(members[EPISODES.encode()])
        if len(groups) > 10 * MOST_NODES:
            raise Unfamiliar
        check_count(self._path, len(groups), attributes)
        return [self._episode(name, address, uuid) for name, address in groups.items()]

    def _episode(self, name: bytes, address: int, uuid: str) -> ShardDescription:
        structure = self._structure
        self._nodes = 0
        values, members = self._group(address)
        check_required(self._path, name, values)
        tables: dict[str, TableDescription] = {}
        static: list[StaticNode] = []
        for place, member in self._counted(members):
            if place in TABLES:
                tables[place] = self._table(member)
            elif place == EVENTS:
                for event, table in self._counted(self._group(member)[1]):
                    tables[f"{EVENTS}/{event}"] = self._table(table)
            else:
                static += self._tree(place, member, 0)
        return ShardDescription(
            self._path,
            f"{EPISODES}/{os.fsdecode(name)}",
            int(values["episode_id"]),
            uuid,
            structure.size,
            structure.mtime_ns,
            values,
            tables,
            tuple(static),
            address,
        )

    def _group(self, address: int) -> _Group:
        return self._known_group(address) or self._read_group(self._structure.messages(address))

    def _known_group(self, address: int) -> _Group | None:
        found = group(self._structure, address)
        if found is None:
            return None
        members, attributes = found
        return self._structure.decoded(attributes), dict(sorted(members.items()))

    def _read_group(self, messages: Messages) -> _Group:
        if not is_group(messages):
            raise Unfamiliar
        return self._structure.attributes(messages), self._structure.links(messages)

    def _counted(self, members: Mapping[bytes, int]) -> Iterator[tuple[str, int]]:
        for name, address in members.items():
            self._nodes += 1
            if self._nodes > MOST_NODES:
                raise Unfamiliar
            yield name.decode("utf-8", "surrogateescape"), address

    def _table(self, address: int) -> TableDescription:
        """Return what a table has; of many episodes' equal tables one is read."""
        structure = self._structure
        known = outline(structure, address)
        if known is None:
            return self._read_table(address)
        headers, rows = known
        if headers in _tables:
            equal = _tables[headers]
            return TableDescription(rows, equal.columns, equal.attributes)
        table = self._read_table(address)
        if outline(structure, address) == known:  # else it changed in between
            if len(_tables) >= _MOST_TABLES:
                _tables.clear()
            _tables[headers] = table
        return table

    def _read_table(self, table: int) -> TableDescription:
        structure = self._structure
        columns: list[ColumnDescription] = []
        attributes: dict[str, dict[str, Any]] = {}
        lengths = set()
        for name, address in self._counted(self._group(table)[1]):
            header = structure.messages(address)
            column = self._column(header)
            rows = most_chunks(structure, column) * column.chunk[0]
            dtype = column.dtype
            if dtype is None or dtype.names or (name == TIMESTEPS and rows < column.shape[0]):
                raise Unfamiliar
            description = ColumnDescription(name, dtype, column.shape[1:], dtype.kind == "S")
            columns.append(interned(description))
            lengths.add(column.shape[0])
            values = structure.attributes(header, OF_STORAGE)
            if values:
                attributes[name] = values
        if len(lengths) != 1 or not any(column.name == TIMESTEPS for column in columns):
            raise Unfamiliar
        return TableDescription(lengths.pop(), interned(tuple(columns)), attributes)

    def _column(self, header: Messages) -> StoredDataset:
        if is_group(header):
            raise Unfamiliar
        column = stored_dataset(header)
        if not column.chunk or not column.shape or not is_safe_chunk(column.dtype, column.chunk):
            raise Unfamiliar
        if not all(is_at_hand(number) for number in column.filters):
            raise Unfamiliar
        return column

    def _tree(self, place: str, address: int, depth: int) -> Iterator[StaticNode]:
        if depth > DEEPEST:
            raise Unfamiliar
        known = self._known_group(address)
        messages = [] if known else self._structure.messages(address)
        if known or is_group(messages):
            attributes, members = known or self._read_group(messages)
            yield StaticNode(place, attributes)
            for name, below in self._counted(members):
                yield from self._tree(f"{place}/{name}", below, depth + 1)
        else:
            yield self._array(place, messages)

    def _array(self, place: str, messages: Messages) -> StaticNode:
        structure = self._structure
        attributes = structure.attributes(messages)
        node = stored_dataset(messages)
        if not all(is_at_hand(number) for number in node.filters):
            raise Unfamiliar
        if node.dtype is not None and node.dtype.names:
            raise Unfamiliar
        if node.chunk:
            most_chunks(structure, node)  # to count them is to go through all of it
        if node.dtype is not None and node.nbytes > COPIED_BYTES:
            return StaticNode(place, attributes, None, node.shape, node.dtype)
        if node.chunk:  # compressed: HDF5 knows how
            raise Unfamiliar
        return StaticNode(place, attributes, self._value(node), node.shape, node.dtype)

    def _value(self, node: StoredDataset) -> "np.ndarray[Any, Any]":
        """Return a small array that lies in the file as it is."""
        if node.nbytes > COPIED_BYTES or (node.address < 0 and node.nbytes):
            raise Unfamiliar
        data = self._structure.read(node.address, node.nbytes) if node.nbytes else b""
        if node.dtype is not None:
            return np.frombuffer(data, node.dtype).reshape(node.shape)
        texts = [self._structure.text(data, i).decode() for i in range(0, len(data), 16)]
        return np.array(texts, object).reshape(node.shape)
