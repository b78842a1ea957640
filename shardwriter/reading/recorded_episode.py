"""One recorded episode, finished or still being recorded.

Invariant: every getter gives the same form whether or not the episode has such data.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np

from shardwriter.errors import ConfigError, ShardDamaged
from shardwriter.files.layout import (
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
from shardwriter.files.units import Units
from shardwriter.files.untrusted import file_of
from shardwriter.interop.neo import episode_to_neo
from shardwriter.interop.xarray import episode_to_xarray
from shardwriter.notebook import episode_facts, facts_html
from shardwriter.reading.spikes import SpikeTrain

if TYPE_CHECKING:
    from neo import Block
    from xarray import DataTree

__all__ = ["EpisodeSource", "RecordedEpisode", "check_window"]

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

_NOT_STATIC = {*TABLES, EVENTS, FINAL_STATE, SUMMARY}


class EpisodeSource(Protocol):
    """Where an episode's data come from: its shard, or while it is recorded buffer and part."""

    def opened(self) -> AbstractContextManager[h5py.Group]:
        """Lend out the episode's HDF5 group."""

    def attributes(self) -> dict[str, Any]:
        """Return the episode's attributes."""

    def names(self) -> list[str]:
        """Return the names of what lies directly below the episode."""

    def event_types(self) -> list[str]:
        """Return the types of the events, in order."""

    def tree(self, name: str) -> Any:
        """Return nested static data, ``{}`` for none."""

    def table(self, name: str, start: int | None, stop: int | None) -> Columns | None:
        """Return a table's columns in a window of timesteps, None where there is no such table."""


class RecordedEpisode:
    """A handle of one recorded episode; get it from ``ExperimentLoader.get_episode``.

    Getters read when they are called. ``start`` and ``stop`` bound the timesteps,
    as in ``start <= timestep < stop``. What was not logged comes back as empty arrays.

    Attributes
    ----------
    id
        The episode's id.
    """

    def __init__(
        self,
        episode: int,
        source: EpisodeSource,
        units: Callable[[], Units],
        row: Callable[[], np.void],
    ) -> None:
        self.id = episode
        self._source = source
        self._units = units
        self._row = row

    def __repr__(self) -> str:
        facts = episode_facts(self._row())
        counts = f"{facts['steps']} steps, {facts['spikes']} spikes"
        return f"<RecordedEpisode {self.id}: {facts['status']}, {counts}>"

    def _repr_html_(self) -> str:
        return facts_html(f"RecordedEpisode {self.id}", episode_facts(self._row()))

    def opened(self) -> AbstractContextManager[h5py.Group]:
        """Lend out the episode's HDF5 group in its shard, open for reading.

        Raises
        ------
        EpisodeUnfinished
            The episode is still being recorded: it has no shard yet.
        """
        return self._source.opened()

    def get_metadata(self) -> dict[str, Any]:
        """Return the episode's attributes, with its summary under ``summary``."""
        return {**self._source.attributes(), SUMMARY: self._source.tree(SUMMARY)}

    @property
    def dt(self) -> float | None:
        """Seconds from one timestep to the next; None if nobody said."""
        return self._units().dt

    def get_units(self) -> Units:
        """Return the units of the experiment's fields, and ``dt``."""
        return self._units()

    def to_xarray(self, *, chunks: int | None = None) -> "DataTree[Any]":
        """Return the episode as an xarray tree, one dataset for each table.

        ``tree["neural_states"]["membrane_potential"]`` has the dimensions ``timestep`` and
        ``neuron``, the coordinates ``timestep`` and, with ``dt``, ``time`` in seconds, and its
        unit as the attribute ``units``. Spikes are a dataset over ``spike``, weight changes over
        ``change``, events over ``event``.

        Parameters
        ----------
        chunks
            Rows of a block: neural states and behaviour become Dask arrays, which are read when
            they are computed, in this process and while the loader is open. None reads at once.

        Raises
        ------
        MissingDependency
            xarray, or Dask where it is needed, is not installed.
        """
        return episode_to_xarray(self, chunks=chunks)

    def to_neo(self, *, dt: float | None = None, n_neurons: int | None = None) -> "Block":
        """Return the episode as a Neo block of one segment, as Elephant takes it.

        A spike train for each neuron that fired, in seconds, with the annotation ``neuron_id``;
        an analog signal (time, channel) for each field, irregularly sampled where its timesteps
        are; events by type. A unit that Neo does not know becomes the annotation
        ``recorded_unit``.

        Parameters
        ----------
        dt
            Seconds of a timestep; by default what ``save_units`` was given.
        n_neurons
            Give the neurons 0 to `n_neurons` a train each, silent ones too; so have those that
            fired beyond.

        Raises
        ------
        MissingDependency
            Neo is not installed.
        ConfigError
            Nobody said what a timestep is in seconds.
        """
        return episode_to_neo(self, dt=dt, n_neurons=n_neurons)

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
        """Return the events of one type as columns, or those of every type by its name.

        A type that this episode did not log has columns without rows, as another may have some.
        """
        if event_type is not None:
            return self._table(f"{EVENTS}/{event_type}", start, stop, {})
        types = self._source.event_types()
        return {name: self._table(f"{EVENTS}/{name}", start, stop, {}) for name in types}

    def get_static_data(self, name: str | None = None) -> Any:
        """Return what ``log_static_data`` kept under a name, or all of it by name.

        A name that this episode did not log gives ``{}``.
        """
        if name is not None:
            return self._source.tree(name)
        names = self._source.names()
        return {key: self._source.tree(key) for key in names if key not in _NOT_STATIC}

    def get_final_state(self) -> Any:
        """Return the ``final_state`` given at the episode's end, ``{}`` for none."""
        return self._source.tree(FINAL_STATE)

    def _table(
        self, name: str, start: int | None, stop: int | None, empty: Mapping[str, type]
    ) -> Columns:
        check_window(start, stop)
        columns = self._source.table(name, start, stop)
        if columns is None:
            nothing: Columns = {TIMESTEPS: np.zeros(0, np.int64)}
            return nothing | {key: np.zeros(0, dtype) for key, dtype in empty.items()}
        lacking = empty.keys() - columns.keys()
        if lacking:
            with self.opened() as group:
                where = f"{group.name}/{name}"
                problem = f"expected a column {', '.join(sorted(lacking))}, got none"
                raise ShardDamaged(file_of(group), where, problem)
        return columns


def check_window(start: int | None, stop: int | None) -> None:
    """Raise ConfigError where a bound of timesteps is not one."""
    for option, bound in (("start", start), ("stop", stop)):
        if bound is not None and not isinstance(bound, int | np.integer):
            raise ConfigError(option, "a timestep, an int", bound)


def _difference(new: Array, old: Array) -> Array:
    """Return new minus old; of unsigned integers as signed ones, which do not wrap around."""
    wide = np.result_type(new, old)
    if wide.kind in "bu":
        wide = np.result_type(wide, np.int64)
    return np.asarray(new.astype(wide) - old.astype(wide))
