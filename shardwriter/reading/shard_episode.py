"""A finished episode's data, read from its shard.

Invariant: nothing is read from a group before it is known that nothing in it leads elsewhere.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g

from shardwriter.errors import ShardDamaged
from shardwriter.files.column_reader import read_rows, read_texts, read_value, search_sorted
from shardwriter.files.groups import read_attributes, read_tree
from shardwriter.files.layout import EVENTS, TIMESTEPS
from shardwriter.files.links import check_path, entries, members, open_child
from shardwriter.files.untrusted import check_column, check_memory, check_tree, file_of, readable

__all__ = ["ShardEpisode", "table_columns", "timestep_rows"]

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]


class ShardEpisode:
    """The source of an episode that has a shard.

    Parameters
    ----------
    opened
        Lends out the episode's group, open for reading.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[h5py.Group]]) -> None:
        self.opened = opened

    @contextmanager
    def _reading(self) -> Iterator[h5py.Group]:
        """Lend out the group, where nothing but what is in the file can go wrong."""
        with self.opened() as group, readable(file_of(group), group.name):
            yield group

    def attributes(self) -> dict[str, Any]:
        """Return the episode's attributes."""
        with self._reading() as group:
            return read_attributes(group)

    def names(self) -> list[str]:
        """Return the names of what lies directly below the episode."""
        with self._reading() as group:
            return list(group)

    def event_types(self) -> list[str]:
        """Return the types of the events, in order."""
        with self._reading() as group:
            return members(file_of(group), group.id, EVENTS)

    def tree(self, name: str) -> Any:
        """Return nested static data, ``{}`` for none."""
        with self._reading() as group:
            return _tree(group, name)

    def table(self, name: str, start: int | None, stop: int | None) -> Columns | None:
        """Return a table's columns in a window of timesteps, None where there is no such table."""
        with self._reading() as group:
            path = file_of(group)
            if name not in group:
                return None
            table = table_columns(group, name)
            timesteps = table.pop(TIMESTEPS)
            rows, chosen = timestep_rows(timesteps, start, stop)
            table = {TIMESTEPS: timesteps, **table}
            check_memory(path, name, _row_bytes(table) * (rows.stop - rows.start))
            return {key: _read(dataset, rows, chosen) for key, dataset in table.items()}


def _tree(group: h5py.Group, name: str) -> Any:
    """Return nested static data, once nothing in it leads elsewhere, ``{}`` for none."""
    if name not in group:
        return {}
    path = file_of(group)
    check_path(path, group.id, name)
    check_tree(path, group[name].id)
    return read_tree(group[name], read_value)


def table_columns(group: h5py.Group, name: str) -> dict[str, h5py.Dataset]:
    """Return the columns of an episode's table by name, once nothing in it leads elsewhere."""
    path = file_of(group)
    check_path(path, group.id, name)
    table = h5g.open(group.id, name.encode())
    columns = {}
    for key in entries(path, table):
        node = open_child(path, table, key)
        if not isinstance(node, h5d.DatasetID):
            raise ShardDamaged(path, name, "expected columns, got a group")
        check_column(path, node)
        columns[os.fsdecode(key)] = h5py.Dataset(node)
    lengths = {dataset.shape[0] for dataset in columns.values()}
    if len(lengths) != 1 or TIMESTEPS not in columns:
        raise ShardDamaged(path, name, f"expected columns of one length, got {lengths}")
    return columns


def _row_bytes(table: Mapping[str, h5py.Dataset]) -> int:
    return sum(math.prod(dataset.shape[1:]) * dataset.dtype.itemsize for dataset in table.values())


def timestep_rows(
    timesteps: h5py.Dataset, start: int | None, stop: int | None
) -> tuple[slice, Array | None]:
    """Return the rows of a window of timesteps, and which of them where they are not sorted."""
    if start is None and stop is None:
        return slice(0, len(timesteps)), None
    low = np.iinfo(np.int64).min if start is None else start
    high = np.iinfo(np.int64).max if stop is None else stop
    if timesteps.attrs.get("is_sorted", False) and len(timesteps):
        return slice(*search_sorted(timesteps, low, high)), None
    values = read_rows(timesteps, 0, len(timesteps))
    chosen = np.flatnonzero((values >= low) & (values < high))
    if len(chosen) == 0:
        return slice(0, 0), None
    span = slice(int(chosen[0]), int(chosen[-1]) + 1)
    return span, chosen - span.start


def _read(dataset: h5py.Dataset, rows: slice, chosen: Array | None) -> Array:
    text = h5py.check_string_dtype(dataset.dtype) is not None
    values = (read_texts if text else read_rows)(dataset, rows.start, rows.stop)
    return np.asarray(values if chosen is None else values[chosen])
