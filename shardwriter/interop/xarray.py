"""One episode as an xarray tree: a dataset for each table, with units."""

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from shardwriter.files.column_reader import read_rows, read_texts
from shardwriter.files.compression import optional
from shardwriter.files.layout import (
    BEHAVIOR,
    EVENTS,
    NEURAL_STATES,
    REWARDS,
    SPIKES,
    TIMESTEPS,
    WEIGHT_CHANGES,
)
from shardwriter.files.links import open_child
from shardwriter.files.units import Units
from shardwriter.files.untrusted import check_column, file_of
from shardwriter.interop.recorded import Columns, Recorded

if TYPE_CHECKING:
    from xarray import DataTree

__all__ = ["episode_to_xarray"]

# The dimension that counts a table's rows. Those of spikes and the like are occurrences: several
# may share a timestep.
_ROWS = {SPIKES: "spike", WEIGHT_CHANGES: "change"}
_DENSE = (NEURAL_STATES, BEHAVIOR, REWARDS)


def episode_to_xarray(episode: Recorded, *, chunks: int | None = None) -> "DataTree[Any]":
    """Return an episode as a tree; see ``RecordedEpisode.to_xarray``."""
    xarray = optional("xarray", "xarray")
    if chunks is not None:
        optional("dask.array", "xarray")
    units = episode.get_units()
    datasets = {}
    for table, columns in _tables(episode, chunks).items():
        rows = "event" if table.startswith(f"{EVENTS}/") else _ROWS.get(table, "timestep")
        datasets[f"/{table}"] = _dataset(table, columns, rows, units)
    attributes = {k: v for k, v in episode.get_metadata().items() if not isinstance(v, dict)}
    if units.dt is not None:
        attributes["dt"] = units.dt
    datasets["/"] = xarray.Dataset(attrs=attributes)
    return xarray.DataTree.from_dict(datasets, name=f"episode_{episode.id:04d}")


def _tables(episode: Recorded, chunks: int | None) -> dict[str, Columns]:
    """Return the columns of each table, those of steps as Dask arrays where `chunks` is given."""
    with episode.opened() as group:
        names = [name for name in (*_DENSE, SPIKES, WEIGHT_CHANGES) if name in group]
        names += [f"{EVENTS}/{name}" for name in group.get(EVENTS, ())]
    read = {
        NEURAL_STATES: episode.get_neural_states,
        BEHAVIOR: episode.get_behavior,
        REWARDS: episode.get_rewards,
        SPIKES: episode.get_spikes,
        WEIGHT_CHANGES: episode.get_weight_changes,
    }
    tables: dict[str, Columns] = {}
    for name in names:
        if chunks is not None and name in (NEURAL_STATES, BEHAVIOR):
            tables[name] = _lazy(episode, name, chunks)
        elif name in read:
            tables[name] = read[name]()
    for name, events in episode.get_events().items():
        tables[f"{EVENTS}/{name}"] = events
    return tables


def _dataset(table: str, columns: Columns, rows: str, units: Units) -> Any:
    xarray = optional("xarray", "xarray")
    timesteps = columns[TIMESTEPS]
    coordinates: dict[str, Any] = {"timestep": (rows, timesteps)}
    if units.dt is not None:
        coordinates["time"] = (rows, timesteps * units.dt, {"units": "s"})
    fields = {name: values for name, values in columns.items() if name != TIMESTEPS}
    widths = [v.shape[1] for v in fields.values() if v.ndim == 2] if table == NEURAL_STATES else []
    variables = {}
    for name, values in fields.items():
        others = [f"{name}_{axis}" for axis in range(1, values.ndim)]
        if widths and values.ndim == 2 and values.shape[1] == widths[0]:
            others = ["neuron"]
        unit = units.of(table, name)
        variables[name] = ((rows, *others), values, {"units": unit} if unit else {})
    return xarray.Dataset(variables, coordinates)


def _lazy(episode: Recorded, table: str, chunks: int) -> dict[str, Any]:
    """Return columns that are read block by block, when they are computed."""
    dask = optional("dask.array", "xarray")
    columns: dict[str, Any] = {}
    with episode.opened() as group:
        for name in group[table]:
            column = _Column(episode, f"{table}/{name}", group)
            blocks = (chunks, *column.shape[1:])
            columns[name] = dask.from_array(column, chunks=blocks, name=False, asarray=False)
    columns[TIMESTEPS] = columns[TIMESTEPS].compute()
    return columns


class _Column:
    """A column as Dask sees an array; read in this process, while the loader is open."""

    def __init__(self, episode: Recorded, place: str, group: h5py.Group) -> None:
        dataset = _checked(group, place)
        self._episode = episode
        self._place = place
        self._is_text = h5py.check_string_dtype(dataset.dtype) is not None
        self.shape = dataset.shape
        self.ndim = dataset.ndim
        self.dtype = np.dtype(object) if self._is_text else dataset.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        rows, others = index[0], index[1:]
        with self._episode.opened() as group:
            dataset = _checked(group, self._place)
            start, stop, step = rows.indices(self.shape[0])
            if self._is_text:
                return read_texts(dataset, start, stop)[(slice(None, None, step), *others)]
            return read_rows(dataset, start, stop)[(slice(None, None, step), *others)]


def _checked(group: h5py.Group, place: str) -> h5py.Dataset:
    table, _, column = place.rpartition("/")
    path = file_of(group)
    dataset = open_child(path, group[table].id, column.encode())
    check_column(path, dataset)
    return h5py.Dataset(dataset) if not isinstance(dataset, h5py.Dataset) else dataset
