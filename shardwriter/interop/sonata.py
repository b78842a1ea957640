"""Episodes as SONATA output: a spikes file, and a report for each field of the neurons.

Format: the SONATA developer guide, "Spike file" and "Reports". Invariant: an episode is one
simulation of its own, whose time begins at timestep 0. Reports are float32, as the format wants
it. Nothing is compressed: libsonata's HDF5 knows no filters.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import ConfigError
from shardwriter.files.layout import NEURAL_STATES, TIMESTEPS
from shardwriter.files.units import Units
from shardwriter.interop.new_path import new_path
from shardwriter.interop.recorded import seconds_per_timestep
from shardwriter.interop.timeline import Field, Timeline
from shardwriter.loader import ExperimentLoader
from shardwriter.progress import progress_bar

__all__ = ["SonataReport", "export_sonata"]

_SORTING = h5py.enum_dtype({"none": 0, "by_id": 1, "by_time": 2}, basetype="u1")
_BUFFER_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SonataReport:
    """What an export wrote; ``left_out`` names, by episode, fields that are no report."""

    directory: str
    episodes: int
    spikes: int
    reports: int
    left_out: dict[int, tuple[str, ...]]


def export_sonata(
    directory: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dt: float | None = None,
    episodes: Sequence[int] | None = None,
    population: str = "neurons",
    root: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> SonataReport:
    """Write episodes as SONATA spikes and reports.

    ``episode_0003/spikes.h5`` has ``/spikes/<population>``, and ``episode_0003/<field>.h5`` has
    ``/report/<population>`` for each neural state with a number per neuron and evenly spaced
    rows, rounded to float32. Times are in ms. Node ids are those of the neurons, in a report 0 to
    N. Data are copied in windows of some MB.

    Parameters
    ----------
    directory
        The experiment.
    output
        The directory to make; it must not exist.
    dt
        Seconds of a timestep; by default what ``save_units`` was given.
    episodes
        Ids; by default all.
    population
        The name of the population of nodes.
    root
        The directory that no shard may lie outside of; by default the master's own.
    progress
        Show a progress bar.

    Raises
    ------
    ConfigError
        Nobody said what a timestep is in seconds; `output` exists; `population` is no name.
    ExperimentNotFound, EpisodeNotFound, ShardMissing, MasterStale, ShardDamaged, ShardOutside
        The experiment, or an episode's shard, cannot be read.
    """
    if not population or "/" in population or "\0" in population or population == ".":
        raise ConfigError("population", "a name without slashes", population)
    left_out: dict[int, tuple[str, ...]] = {}
    spikes = reports = 0
    with new_path(output) as hidden, ExperimentLoader(directory, root=root) as loader:
        units = loader.get_units()
        step = seconds_per_timestep(units, dt)
        ids = loader.list_episodes() if episodes is None else sorted(set(episodes))
        hidden.mkdir()
        with progress_bar("export", "episode", len(ids), shown=progress) as bar:
            for episode in ids:
                timeline = Timeline(loader, step, [episode])
                folder = hidden / f"episode_{episode:04d}"
                folder.mkdir()
                spikes += _write_spikes(folder / "spikes.h5", timeline, population)
                others = []
                for field in timeline.fields:
                    if field.table != NEURAL_STATES or field.name == TIMESTEPS:
                        continue
                    if _is_report(timeline, field):
                        _write_report(folder, timeline, field, population, units)
                        reports += 1
                    else:
                        others.append(field.name)
                if others:
                    left_out[episode] = tuple(others)
                bar.update()
    return SonataReport(
        directory=os.fspath(output),
        episodes=len(ids),
        spikes=spikes,
        reports=reports,
        left_out=left_out,
    )


def _write_spikes(path: Path, timeline: Timeline, population: str) -> int:
    """Write an episode's spikes as they come; return how many there are."""
    written, last, is_sorted = 0, -1, True
    with h5py.File(path, "x") as file:
        group = file.create_group(f"spikes/{population}")
        options: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (1 << 16,)}
        times = group.create_dataset("timestamps", dtype="f8", **options)
        nodes = group.create_dataset("node_ids", dtype="u8", **options)
        times.attrs["units"] = "ms"
        for steps, ids in timeline.spikes():
            rows = slice(written, written + len(ids))
            times.resize((rows.stop,))
            nodes.resize((rows.stop,))
            times[rows] = steps * (timeline.dt * 1e3)
            nodes[rows] = ids
            is_sorted = is_sorted and bool((np.diff(steps, prepend=last) >= 0).all())
            written, last = rows.stop, int(steps[-1])
        sorting = 2 if is_sorted else 0
        group.attrs.create("sorting", sorting, dtype=_SORTING)
    return written


def _is_report(timeline: Timeline, field: Field) -> bool:
    """Tell whether a field has a number for each neuron, at evenly spaced steps."""
    is_number = field.dtype.kind in "fiu" and len(field.shape) == 1 and field.shape[0] > 0
    return is_number and (field.rows == 1 or timeline.period(field) is not None)


def _write_report(
    folder: Path, timeline: Timeline, field: Field, population: str, units: Units
) -> None:
    name = f"{field.name}.h5" if field.name != "spikes" else "spikes_report.h5"
    with h5py.File(folder / name, "x") as file:
        group = file.create_group(f"report/{population}")
        (neurons,) = field.shape
        rows = max(1, _BUFFER_BYTES // (neurons * 4))
        data = group.create_dataset(
            "data",
            (field.rows, neurons),
            np.float32,
            chunks=(min(field.rows, max(1, rows >> 4)), neurons),
        )
        data.attrs["units"] = units.of(field.table, field.name) or "n.a."
        for start in range(0, field.rows, rows):
            stop = min(field.rows, start + rows)
            data[start:stop] = timeline.read(field, start, stop)
        mapping = group.create_group("mapping")
        mapping["node_ids"] = np.arange(neurons, dtype=np.uint64)
        mapping["node_ids"].attrs["sorted"] = np.uint8(1)
        mapping["index_pointers"] = np.arange(neurons + 1, dtype=np.uint64)
        mapping["element_ids"] = np.zeros(neurons, np.uint32)
        dt = timeline.dt * 1e3
        first = int(timeline.timesteps(field, 0, 1)[0])
        period = timeline.period(field) or 1
        mapping["time"] = np.array([first, first + field.rows * period, period]) * dt
        mapping["time"].attrs["units"] = "ms"
