"""One recorded episode, read from its shard.

Invariant: every getter gives the same form whether or not the episode has such data.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.column_reader import read_rows, search_sorted
from shardwriter.errors import ShardDamaged
from shardwriter.groups import read_attributes, read_tree
from shardwriter.layout import (
    BEHAVIOR,
    EVENTS,
    FINAL_STATE,
    NEURAL_STATES,
    REWARDS,
    SPIKES,
    SUMMARY,
    TABLES,
    TIMESTEPS,
    WEIGHT_CHANGES,
)
from shardwriter.spikes import SpikeTrain
from shardwriter.units import Units
from shardwriter.untrusted import (
    check_column,
    check_memory,
    check_path,
    check_tree,
    entries,
    file_of,
    open_child,
    readable,
)

__all__ = ["RecordedEpisode", "timestep_rows"]

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

_NOT_STATIC = {*TABLES, EVENTS, FINAL_STATE, SUMMARY}


class RecordedEpisode:
    """A handle of one recorded episode; get it from ``ExperimentLoader.get_episode``.

    Getters read from the shard when they are called. ``start`` and ``stop`` bound the timesteps,
    as in ``start <= timestep < stop``. What was not logged comes back as empty arrays.

    Attributes
    ----------
    id
        The episode's id.
    """

    def __init__(
        self,
        episode: int,
        opened: Callable[[int], AbstractContextManager[h5py.Group]],
        units: Callable[[], Units],
    ) -> None:
        self.id = episode
        self._opened = opened
        self._units = units

    def __repr__(self) -> str:
        return f"<RecordedEpisode {self.id}>"

    def opened(self) -> AbstractContextManager[h5py.Group]:
        """Lend out the episode's HDF5 group in its shard, open for reading."""
        return self._opened(self.id)

    @contextmanager
    def _reading(self) -> Iterator[h5py.Group]:
        """Lend out the group, where nothing but what is in the file can go wrong."""
        with self._opened(self.id) as group, readable(file_of(group), group.name):
            yield group

    def get_metadata(self) -> dict[str, Any]:
        """Return the episode's attributes, with its summary under ``summary``."""
        with self._reading() as group:
            values = read_attributes(group)
            values[SUMMARY] = _tree(group, SUMMARY)
            return values

    @property
    def dt(self) -> float | None:
        """Seconds from one timestep to the next; None if nobody said."""
        return self._units().dt

    def get_units(self) -> Units:
        """Return the units of the experiment's fields, and ``dt``."""
        return self._units()

    def get_neural_states(self, start: int | None = None, stop: int | None = None) -> Columns:
        """Return ``timesteps`` (S,) and each field ``(S, *shape)``."""
        return self._table(NEURAL_STATES, start, stop, {})

    def get_spikes(self, start: int | None = None, stop: int | None = None) -> SpikeTrain:
        """Return ``timesteps`` (K,) int64 and ``neuron_ids`` (K,) int32, one entry a spike.

        A window is found by search, without reading the whole train. The result also gives
        dense and compressed forms.
        """
        columns = self._table(SPIKES, start, stop, {"neuron_ids": np.int32})
        timesteps = columns[TIMESTEPS]
        low, high = (timesteps.min(), timesteps.max() + 1) if len(timesteps) else (0, 0)
        first = int(low) if start is None else start
        last = max(first, int(high)) if stop is None else stop
        return SpikeTrain(timesteps, columns["neuron_ids"], (first, last))

    def get_spikes_as_events(
        self, start: int | None = None, stop: int | None = None
    ) -> list[tuple[int, Array]]:
        """Return a pair (timestep, ids of the neurons that fired) for each with spikes."""
        spikes = self.get_spikes(start, stop)
        order = np.argsort(spikes[TIMESTEPS], kind="stable")
        timesteps, firsts = np.unique(spikes[TIMESTEPS][order], return_index=True)
        groups = np.split(spikes["neuron_ids"][order], firsts[1:])
        return list(zip(timesteps.tolist(), groups, strict=True)) if len(timesteps) else []

    def get_behavior(self, start: int | None = None, stop: int | None = None) -> Columns:
        """Return ``timesteps`` (T,) and each field ``(T, *shape)``."""
        return self._table(BEHAVIOR, start, stop, {})

    def get_rewards(self, start: int | None = None, stop: int | None = None) -> Columns:
        """Return ``timesteps`` (R,) and ``values`` (R,) float64 of the rewards that are not 0."""
        return self._table(REWARDS, start, stop, {"values": np.float64})

    def get_weight_changes(self, start: int | None = None, stop: int | None = None) -> Columns:
        """Return the weight changes, one entry each.

        ``timesteps``, ``source_ids`` and ``target_ids`` or ``synapse_ids``, ``old_weights``,
        ``new_weights``, further fields, and ``deltas``, which is new minus old.
        """
        empty = {"old_weights": np.float64, "new_weights": np.float64}
        columns = self._table(WEIGHT_CHANGES, start, stop, empty)
        columns["deltas"] = _difference(columns["new_weights"], columns["old_weights"])
        return columns

    def get_events(
        self, event_type: str | None = None, start: int | None = None, stop: int | None = None
    ) -> Any:
        """Return the events of one type as columns, or those of every type by its name."""
        if event_type is not None:
            return self._table(f"{EVENTS}/{event_type}", start, stop, {})
        with self._reading() as group:
            types = list(group[EVENTS]) if EVENTS in group else []
        return {name: self._table(f"{EVENTS}/{name}", start, stop, {}) for name in types}

    def get_static_data(self, name: str | None = None) -> Any:
        """Return what ``log_static_data`` kept under a name, or all of it by name."""
        with self._reading() as group:
            if name is not None:
                return _tree(group, name)
            return {key: _tree(group, key) for key in group if key not in _NOT_STATIC}

    def get_final_state(self) -> Any:
        """Return the ``final_state`` given at the episode's end, ``{}`` for none."""
        with self._reading() as group:
            return _tree(group, FINAL_STATE)

    def _table(
        self, name: str, start: int | None, stop: int | None, empty: Mapping[str, type]
    ) -> Columns:
        with self._reading() as group:
            path = file_of(group)
            if name not in group:
                columns: Columns = {TIMESTEPS: np.zeros(0, np.int64)}
                return columns | {key: np.zeros(0, dtype) for key, dtype in empty.items()}
            table = _safe_table(path, group, name)
            rows, chosen = timestep_rows(table[TIMESTEPS], start, stop)
            check_memory(path, name, _row_bytes(table) * (rows.stop - rows.start))
            return {key: _read(table[key], rows, chosen) for key in [TIMESTEPS, *_others(table)]}


def _tree(group: h5py.Group, name: str) -> Any:
    """Return nested static data, once nothing in it leads elsewhere, ``{}`` for none."""
    if name not in group:
        return {}
    path = file_of(group)
    check_path(path, group.id, name)
    check_tree(path, group[name].id)
    return read_tree(group[name])


def _safe_table(path: Path, group: h5py.Group, name: str) -> h5py.Group:
    """Return a table, once nothing in it leads elsewhere."""
    check_path(path, group.id, name)
    table = group[name]
    lengths = set()
    for key in entries(path, table.id):
        dataset = open_child(path, table.id, key)
        check_column(path, dataset)
        lengths.add(dataset.shape[0])
    if len(lengths) != 1 or TIMESTEPS not in table:
        raise ShardDamaged(path, name, f"expected columns of one length, got {lengths}")
    return table


def _row_bytes(table: h5py.Group) -> int:
    return sum(math.prod(dataset.shape[1:]) * dataset.dtype.itemsize for dataset in table.values())


def _difference(new: Array, old: Array) -> Array:
    """Return new minus old; of unsigned integers as signed ones, which do not wrap around."""
    wide = np.result_type(new, old)
    if wide.kind in "bu":
        wide = np.result_type(wide, np.int64)
    return np.asarray(new.astype(wide) - old.astype(wide))


def _others(table: h5py.Group) -> Iterator[str]:
    return (key for key in table if key != TIMESTEPS)


def timestep_rows(
    timesteps: h5py.Dataset, start: int | None, stop: int | None
) -> tuple[slice, Array | None]:
    """Return the rows of a window of timesteps, and which of them where they are not sorted."""
    if start is None and stop is None:
        return slice(0, len(timesteps)), None
    low = np.iinfo(np.int64).min if start is None else start
    high = np.iinfo(np.int64).max if stop is None else stop
    if timesteps.attrs.get("is_sorted", False) and len(timesteps):
        first, last = search_sorted(timesteps, low), search_sorted(timesteps, high)
        return slice(first, max(first, last)), None
    values = read_rows(timesteps, 0, len(timesteps))
    chosen = np.flatnonzero((values >= low) & (values < high))
    if len(chosen) == 0:
        return slice(0, 0), None
    span = slice(int(chosen[0]), int(chosen[-1]) + 1)
    return span, chosen - span.start


def _read(dataset: h5py.Dataset, rows: slice, chosen: Array | None) -> Array:
    text = h5py.check_string_dtype(dataset.dtype) is not None
    values = dataset.asstr()[rows] if text else read_rows(dataset, rows.start, rows.stop)
    return np.asarray(values if chosen is None else values[chosen])
