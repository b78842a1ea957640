"""An experiment as one NWB file: units, time series, events and trials on one time axis.

Invariant: what is written is what was recorded, row by row; only times are computed, as timestep
times ``dt``.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
from tqdm import tqdm

from shardwriter import __version__
from shardwriter.errors import MissingDependency
from shardwriter.files.layout import BEHAVIOR, EVENTS, NEURAL_STATES, REWARDS, SPIKES, TIMESTEPS
from shardwriter.interop.new_path import new_path
from shardwriter.interop.spike_order import SpikeOrder
from shardwriter.interop.timeline import Field, Timeline
from shardwriter.loader import ExperimentLoader

try:
    from hdmf.backends.hdf5.h5_utils import H5DataIO
    from hdmf.common import ElementIdentifiers, VectorData, VectorIndex
    from hdmf.data_utils import GenericDataChunkIterator
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import BehavioralTimeSeries
    from pynwb.event import EventsTable, TimestampVectorData
    from pynwb.file import ProcessingModule, Subject
    from pynwb.misc import Units
except ImportError as error:
    raise MissingDependency("pynwb", "nwb") from error

__all__ = ["NwbReport", "export_nwb"]

Array = np.ndarray[Any, Any]

_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 16 << 20
_SPIKE_BUFFER_BYTES = 128 << 20  # each buffer of spike times is one pass over all spikes
_OWN_COLUMNS = ("timestamp", "duration", "annotation")  # which NWB gives a meaning
_TRIALS = {
    "episode_id": "id of the episode in the experiment",
    "status": "how the episode ended: completed, failed, interrupted or empty",
    "steps": "timesteps recorded",
    "total_reward": "sum of its rewards",
    "seed": "seed of its random numbers",
}
_AXIS = "Episodes are trials, in the order of their ids, each beginning where the last one ended."


@dataclass(frozen=True, kw_only=True, slots=True)
class NwbReport:
    """What an export wrote; ``left_out`` names fields of a kind that NWB has no place for."""

    file: str
    trials: int
    seconds: float
    units: int
    spikes: int
    time_series: tuple[str, ...]
    events: tuple[str, ...]
    left_out: tuple[str, ...]


def export_nwb(
    directory: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    dt: float | None = None,
    episodes: Sequence[int] | None = None,
    n_neurons: int | None = None,
    subject: Subject | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> NwbReport:
    """Write an experiment as an NWB file.

    Trials are the episodes, one after the other on one time axis without a gap. ``units`` has the
    spike times in seconds; neural states are in ``acquisition``, behaviour and rewards in the
    processing module ``behavior``; weight changes and each type of event are a table in
    ``events``. Where the rows of a field are evenly spaced over all episodes it has a rate, else
    timestamps. Configuration, git state, runtime and attributes are JSON in ``notes``. Data are
    read and written in windows of some MB; of text, a column at a time.

    Parameters
    ----------
    directory
        The experiment.
    file
        The file to write; it must not exist.
    dt
        Seconds of a timestep; by default what ``save_units`` was given.
    episodes
        Ids; by default all.
    n_neurons
        Give the neurons 0 to `n_neurons` a unit each, silent ones too; by default those that fired.
    subject
        Who was recorded; by default a simulation, of sex U and age 0 days.
    root
        The directory that no shard may lie outside of; by default the master's own.
    progress
        Show a progress bar.

    Raises
    ------
    ConfigError
        Nobody said what a timestep is in seconds; `file` exists; there is no episode.
    FieldsDiffer
        A field is not of one dtype and shape in all the episodes.
    ExperimentNotFound, EpisodeNotFound, ShardMissing, MasterStale, ShardDamaged, ShardOutside
        The experiment, or an episode's shard, cannot be read.
    MissingDependency
        PyNWB is not installed; raised when this module is imported.
    """
    with new_path(file) as hidden, ExperimentLoader(directory, root=root) as loader:
        timeline = Timeline(loader, dt, episodes)
        spikes = SpikeOrder.of(timeline, n_neurons)
        with tqdm(desc="export", unit="B", unit_scale=True, disable=not progress) as bar:
            session = _Session(timeline, _nwb_file(loader, timeline.dt, subject), bar.update)
            session.add_trials(loader.episode_index)
            session.add_units(spikes)
            session.add_fields(loader.get_units().of)
            bar.reset(session.bytes)
            with NWBHDF5IO(hidden, "w") as io:
                io.write(session.nwb)
    return NwbReport(
        file=os.fspath(file),
        trials=len(timeline.stretches),
        seconds=timeline.length * timeline.dt,
        units=len(spikes.neurons),
        spikes=spikes.rows,
        time_series=tuple(session.series),
        events=tuple(session.events),
        left_out=tuple(session.left_out),
    )


class _Session:
    """An NWB file being composed; its data are read when it is written."""

    def __init__(self, timeline: Timeline, nwb: Any, done: Callable[[int], object]) -> None:
        self._timeline = timeline
        self._done = done
        self._timed: dict[object, dict[str, Any]] = {}  # times by what has the same ones
        self._behavior: Any = None
        self.nwb = nwb
        self.bytes = 0
        self.series: list[str] = []
        self.events: list[str] = []
        self.left_out: list[str] = []

    def add_trials(self, index: Array) -> None:
        """Add a trial for each episode."""
        for name, description in _TRIALS.items():
            self.nwb.add_trial_column(name, description)
        rows = {int(row["episode_id"]): row for row in index}
        dt = self._timeline.dt
        for each in self._timeline.stretches:
            row = {name: rows[each.episode][name] for name in _TRIALS}
            row["status"] = row["status"].decode(errors="backslashreplace")
            stop = each.first + each.length
            self.nwb.add_trial(start_time=each.first * dt, stop_time=stop * dt, **row)

    def add_units(self, spikes: SpikeOrder) -> None:
        """Add a unit for each neuron, its id that of the neuron."""
        dt = self._timeline.dt
        times: Any = np.zeros(0)
        if spikes.rows:
            times = self._streamed(
                lambda start, stop: spikes.timesteps(start, stop) * dt,
                (spikes.rows,),
                np.dtype(np.float64),
                _SPIKE_BUFFER_BYTES,
            )
        if len(spikes.neurons):
            column = VectorData(name="spike_times", description="times of spikes in s", data=times)
            index = VectorIndex(name="spike_times_index", data=spikes.ends, target=column)
            self.nwb.units = Units(
                name="units",
                description="The neurons; ids are those of the experiment.",
                id=spikes.neurons,
                columns=[index, column],  # in this order: HDMF cannot count the rows of a stream
                colnames=["spike_times"],
                resolution=dt,
            )

    def add_fields(self, unit_of: Callable[[str, str], str | None]) -> None:
        """Add all that was recorded but spikes."""
        tables: dict[str, list[Field]] = {}
        for field in self._timeline.fields:
            if field.dtype.kind == "c" or 0 in field.shape:
                self.left_out.append(field.place)
            elif field.table != SPIKES:
                tables.setdefault(field.table, []).append(field)
        for table, fields in tables.items():
            (timesteps,) = [field for field in fields if field.name == TIMESTEPS]
            events = [timesteps]
            for field in fields:
                is_step = table in (NEURAL_STATES, BEHAVIOR, REWARDS)
                if is_step and field.dtype.kind != "O":
                    if field is not timesteps:
                        self._add_series(field, unit_of(table, field.name))
                elif field.episodes != timesteps.episodes or is_step:
                    # NWB's tables have no missing values: what only some episodes have is its own.
                    self._add_events(f"{_plain_name(table)}.{field.name}", [field])
                elif field is not timesteps:
                    events.append(field)
            if table not in (NEURAL_STATES, BEHAVIOR, REWARDS):
                self._add_events(_plain_name(table), events)

    def _add_series(self, field: Field, unit: str | None) -> None:
        """Add a field that has a value at each step."""
        times = self._times(field)
        series = TimeSeries(
            name="rewards" if field.table == REWARDS else field.name,
            description=f"{field.place} of the experiment",
            data=self._values(field),
            unit=unit or "n.a.",
            **times,
        )
        shared = times if "rate" in times else {"timestamps": series}
        self._timed.setdefault((field.table, field.episodes), shared)
        self.series.append(field.place)
        if field.table == NEURAL_STATES:
            self.nwb.add_acquisition(series)
            return
        if self._behavior is None:
            self._behavior = ProcessingModule(name="behavior", description="what the agent did")
            self._behavior.add(BehavioralTimeSeries(name="BehavioralTimeSeries"))
            self.nwb.add_processing_module(self._behavior)
        if field.table == REWARDS:
            self._behavior.add(series)
        else:
            self._behavior["BehavioralTimeSeries"].add_timeseries(series)

    def _add_events(self, name: str, fields: Sequence[Field]) -> None:
        """Add fields of the same rows as a table of events."""
        one = fields[0]
        while name in self.events:  # an event type may be called weight_changes
            name += "_"
        ids = self._streamed(np.arange, (one.rows,), np.dtype(np.int64))
        columns = [
            TimestampVectorData(
                name="timestamp", description="time in s", data=self._timestamps(one)
            )
        ]
        for field in fields:
            if field.name != TIMESTEPS:
                is_taken = field.name in _OWN_COLUMNS or hasattr(EventsTable, field.name)
                own = f"recorded_{field.name}" if is_taken else field.name
                about = f"{field.place} of the experiment"
                columns.append(VectorData(name=own, description=about, data=self._values(field)))
        table = EventsTable(
            name=name,
            description=f"{one.table} of the experiment, at timestep times dt. {_AXIS}",
            id=ElementIdentifiers(name="id", data=ids),
            columns=columns,
            colnames=[column.name for column in columns],
        )
        self.nwb.add_events_table(table)
        self.events.append(name)

    def _times(self, field: Field) -> dict[str, Any]:
        """Return a series' times: a rate, timestamps, or the series that has the same ones."""
        rows = (field.table, field.episodes)
        if rows in self._timed:
            return self._timed[rows]
        period = self._timeline.period(field)
        if period is None:
            return {"timestamps": self._timestamps(field)}
        first = int(self._timeline.timesteps(field, 0, 1)[0])
        dt = self._timeline.dt
        return {"starting_time": first * dt, "rate": 1 / (period * dt)}

    def _timestamps(self, field: Field) -> Any:
        dt = self._timeline.dt
        return self._streamed(
            lambda start, stop: self._timeline.timesteps(field, start, stop) * dt,
            (field.rows,),
            np.dtype(np.float64),
        )

    def _values(self, field: Field) -> Any:
        if field.dtype.kind == "O":
            return self._timeline.read(field, 0, field.rows).tolist()
        return self._streamed(
            lambda start, stop: self._timeline.read(field, start, stop),
            (field.rows, *field.shape),
            field.dtype,
        )

    def _streamed(
        self,
        read: Callable[[int, int], Array],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        buffer_bytes: int = _BUFFER_BYTES,
    ) -> Any:
        self.bytes += int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        stream = _Stream(read, shape, dtype, buffer_bytes, self._done)
        return H5DataIO(stream, compression="gzip", compression_opts=1, shuffle=True)


class _Stream(GenericDataChunkIterator):  # type: ignore[misc]  # HDMF is optional: Any
    """Rows that are read when they are written, a buffer of whole chunks at a time."""

    def __init__(
        self,
        read: Callable[[int, int], Array],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        buffer_bytes: int,
        done: Callable[[int], object],
    ) -> None:
        self._read, self._shape, self._type, self._done = read, shape, dtype, done
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        chunk_rows = min(shape[0], max(1, _CHUNK_BYTES // row_bytes))
        chunks = max(1, buffer_bytes // (chunk_rows * row_bytes))
        super().__init__(
            chunk_shape=(chunk_rows, *shape[1:]),
            buffer_shape=(min(shape[0], chunks * chunk_rows), *shape[1:]),
        )

    def _get_data(self, selection: tuple[slice, ...]) -> Array:
        rows = self._read(selection[0].start, selection[0].stop)
        self._done(rows.nbytes)
        return rows

    def _get_maxshape(self) -> tuple[int, ...]:
        return self._shape

    def _get_dtype(self) -> np.dtype[Any]:
        return self._type


def _plain_name(table: str) -> str:
    """Return a table's name without slashes: an event's type."""
    return table.removeprefix(f"{EVENTS}/")


def _nwb_file(loader: ExperimentLoader, dt: float, subject: Subject | None) -> Any:
    metadata = loader.get_metadata()
    name = str(metadata.get("experiment_name", loader.path.stem))
    notes = {
        "experiment": metadata,
        "config": loader.get_config(),
        "git_info": loader.get_git_info(),
        "runtime": loader.get_runtime_info(),
        "units": loader.get_units().to_attributes(),
        "dt": dt,
    }
    if subject is None:
        subject = Subject(subject_id="simulation", description="no animal", sex="U", age="P0D")
    return NWBFile(
        session_description=f"Experiment {name}, recorded by shardwriter. {_AXIS}",
        experiment_description=f"A simulation in timesteps of {dt} s. {_AXIS}",
        identifier=str(uuid4()),
        session_id=name.replace("/", "-"),
        session_start_time=_start(metadata.get("start_time")),
        keywords=["simulation"],
        notes=json.dumps(notes, indent=1, default=_plain),
        was_generated_by=[["shardwriter", __version__]],
        subject=subject,
    )


def _start(text: object) -> datetime:
    """Return when the experiment began; for one that does not say, the beginning of 1970."""
    try:
        start = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return start if start.tzinfo else start.replace(tzinfo=UTC)


def _plain(value: object) -> object:
    """Return what JSON has a form for."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
