"""What a picture shows, read from an episode.

Invariant: potentials are read for a short window only, however long the episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import ConfigError
from shardwriter.files.column_reader import read_rows
from shardwriter.files.layout import (
    BEHAVIOR,
    NEURAL_STATES,
    REWARDS,
    SPIKES,
    TIMESTEPS,
    WEIGHT_CHANGES,
)
from shardwriter.files.units import Units
from shardwriter.files.untrusted import check_column, file_of
from shardwriter.plot.style import PALETTE
from shardwriter.reading.across import found_column
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.reading.shard_episode import timestep_rows
from shardwriter.reading.spikes import SpikeTrain

__all__ = ["Recording", "read_recording"]

Array = np.ndarray[Any, Any]

_DETAIL_STEPS = 400
_MOST_TRACES = 6
_MOST_SERIES = 4
_MOST_COMPONENTS = 6
_LONGEST_IN_MS = 2.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """All that a picture needs; an absent group is None or empty."""

    title: str
    units: Units
    populations: Mapping[str, tuple[int, int]]
    first: int
    stop: int
    spikes: Mapping[str, Array]
    rewards: Mapping[str, Array]
    changes: Mapping[str, Array]
    path_name: str
    path_times: Array
    path: Array
    series: Mapping[str, Array]
    series_times: Array
    detail: tuple[int, int]
    trace_name: str
    trace_times: Array
    traces: Mapping[int, Array]

    @property
    def has_long_span(self) -> bool:
        """Whether the potentials need a closer look than the other panels."""
        return self.detail != (self.first, self.stop)

    @property
    def hertz(self) -> float | None:
        """Events per timestep times this are events per second; None where ``dt`` is unknown."""
        return None if self.units.dt is None else 1 / self.units.dt

    def clock(self, timesteps: Any) -> Any:
        """Scale timesteps to what the time axis shows."""
        if self.units.dt is None:
            return np.asarray(timesteps)
        return np.asarray(timesteps) * self.units.dt * (1.0 if self._shows_seconds else 1e3)

    @property
    def _shows_seconds(self) -> bool:
        return (self.stop - self.first) * (self.units.dt or 0.0) > _LONGEST_IN_MS

    @property
    def time_label(self) -> str:
        """Return the label of the time axis."""
        if self.units.dt is None:
            return "timestep"
        return "time (s)" if self._shows_seconds else "time (ms)"

    def label(self, table: str, field: str, text: str | None = None) -> str:
        """Return a field's name with its unit, where it has one."""
        unit = self.units.of(table, field)
        name = text or field.replace("_", " ")
        return f"{name} ({unit})" if unit else name


def read_recording(
    episode: RecordedEpisode,
    start: int | None,
    stop: int | None,
    fields: Sequence[str] | None = None,
) -> Recording:
    """Read what a picture of ``start <= timestep < stop`` shows.

    `fields` are those to show, None for a choice of them.
    """
    chosen = _chosen(episode, fields)
    spikes = episode.get_spikes(start, stop)
    if SPIKES not in chosen:
        nothing = np.zeros(0, np.int64)
        spikes = SpikeTrain(nothing, nothing.astype(np.int32), (0, 0))
    rewards = _kept(episode.get_rewards(start, stop), REWARDS in chosen)
    changes = _kept(episode.get_weight_changes(start, stop), WEIGHT_CHANGES in chosen)
    behavior = episode.get_behavior(start, stop)
    behavior = {k: v for k, v in behavior.items() if f"{BEHAVIOR}/{k}" in chosen or k == TIMESTEPS}
    static = episode.get_static_data()
    populations = _populations(static.get("populations"))
    groups = (spikes, rewards, changes, behavior)
    sampled = _sampled(episode, start, stop)
    times = np.concatenate([sampled, *(group[TIMESTEPS] for group in groups)])
    first = int(times.min()) if len(times) else start or 0
    last = int(times.max()) + 1 if len(times) else first + 1
    detail = _detail(first, last, rewards[TIMESTEPS])
    trace_name, trace_times, traces = _traces(episode, detail, chosen, spikes, populations)
    path_name, path = _path(behavior)
    return Recording(
        title=_title(episode),
        units=episode.get_units(),
        populations=populations,
        first=first,
        stop=last,
        spikes=spikes,
        rewards=rewards,
        changes=changes,
        path_name=path_name,
        path_times=behavior[TIMESTEPS],
        path=path,
        series=_series(behavior, path_name, None if fields is None else len(fields)),
        series_times=behavior[TIMESTEPS],
        detail=detail,
        trace_name=trace_name,
        trace_times=trace_times,
        traces=traces,
    )


def _chosen(episode: RecordedEpisode, fields: Sequence[str] | None) -> set[str]:
    """Return tables and ``table/field`` to show; a bare name of a field means that field."""
    with episode.opened() as group:
        known = {table for table in (SPIKES, REWARDS, WEIGHT_CHANGES) if table in group}
        for table in (NEURAL_STATES, BEHAVIOR):
            names = set(group[table]) - {TIMESTEPS} if table in group else set()
            known |= {f"{table}/{name}" for name in names}
    if fields is None:
        return known
    found = set()
    for field in fields:
        mine = {name for name in known if field in (name, *name.split("/", 1))}
        if not mine:
            raise ConfigError("fields", f"some of {', '.join(sorted(known)) or 'none'}", field)
        found |= mine
    return found


def _sampled(episode: RecordedEpisode, start: int | None, stop: int | None) -> Array:
    """Return the timesteps of the neural states, without reading these."""
    with episode.opened() as group:
        path = file_of(group)
        found = found_column(path, group, f"{NEURAL_STATES}/{TIMESTEPS}")
        if found is None:
            return np.zeros(0, np.int64)
        check_column(path, found)
        dataset = h5py.Dataset(found)
        rows, chosen = timestep_rows(dataset, start, stop)
        timesteps = read_rows(dataset, rows.start, rows.stop)
    return timesteps if chosen is None else timesteps[chosen]


def _kept(columns: dict[str, Array], keeps: bool) -> dict[str, Array]:
    return columns if keeps else {name: values[:0] for name, values in columns.items()}


def _title(episode: RecordedEpisode) -> str:
    facts = episode.get_metadata()
    parts = [f"episode {episode.id}", str(facts.get("status", ""))]
    for key, text in (("total_timesteps", "timesteps"), ("total_spikes", "spikes")):
        if facts.get(key):
            parts.append(f"{facts[key]:,} {text}")
    if facts.get("total_reward"):
        parts.append(f"reward {facts['total_reward']:g}")
    return " · ".join(part for part in parts if part)


def _populations(value: Any) -> dict[str, tuple[int, int]]:
    """Return `value` as populations in the order of their ids, or nothing if it is not that."""
    if not isinstance(value, dict) or not 0 < len(value) <= len(PALETTE):
        return {}
    ranges = {name: np.asarray(bounds) for name, bounds in value.items()}
    if any(b.shape != (2,) or b.dtype.kind not in "iu" for b in ranges.values()):
        return {}
    return {
        name: (int(b[0]), int(b[1])) for name, b in sorted(ranges.items(), key=lambda kv: kv[1][0])
    }


def _detail(first: int, last: int, rewarded: Array) -> tuple[int, int]:
    """Choose the window of the potentials: all, or the surroundings of a reward."""
    if last - first <= 4 * _DETAIL_STEPS:
        return first, last
    middle = (first + last) // 2
    if len(rewarded):
        middle = int(rewarded[np.abs(rewarded - middle).argmin()])
    begin = min(max(first, middle - _DETAIL_STEPS // 2), last - _DETAIL_STEPS)
    return begin, begin + _DETAIL_STEPS


def _path(behavior: Mapping[str, Array]) -> tuple[str, Array]:
    """Find the field that is a position in two or three dimensions."""
    vectors = [
        name
        for name, values in behavior.items()
        if values.ndim == 2 and values.shape[1] in (2, 3) and len(values) > 1
    ]
    vectors.sort(key=lambda name: "pos" not in name)
    if not vectors or "pos" not in vectors[0]:
        return "", np.zeros((0, 2))
    return vectors[0], behavior[vectors[0]]


def _series(behavior: Mapping[str, Array], path_name: str, most: int | None) -> dict[str, Array]:
    """Choose the numbers and short vectors to draw over time, ``(T, components)`` each."""
    series = {}
    for name, values in behavior.items():
        if name in (path_name, TIMESTEPS) or values.dtype.kind not in "biuf":
            continue
        columns = values.reshape(len(values), -1) if values.size else np.zeros((0, 1))
        if len(columns) and columns.shape[1] <= _MOST_COMPONENTS:
            series[name] = columns
    return dict(list(series.items())[: most or _MOST_SERIES])


def _traces(
    episode: RecordedEpisode,
    window: tuple[int, int],
    chosen: set[str],
    spikes: Mapping[str, Array],
    populations: Mapping[str, tuple[int, int]],
) -> tuple[str, Array, dict[int, Array]]:
    """Read the potentials of a few neurons: the liveliest of each population."""
    states = episode.get_neural_states(*window)
    fields = [
        name
        for name, values in states.items()
        if f"{NEURAL_STATES}/{name}" in chosen
        and values.ndim == 2
        and values.dtype.kind == "f"
        and values.size
    ]
    fields.sort(key=lambda name: "potential" not in name)
    if not fields:
        return "", states["timesteps"], {}
    values = states[fields[0]]
    count = values.shape[1]
    inside = (spikes["timesteps"] >= window[0]) & (spikes["timesteps"] < window[1])
    ids = spikes["neuron_ids"][inside]
    fired = np.bincount(ids[ids < count], minlength=count)
    parts = list(populations.values()) or _parts(count)
    liveliest = [a + int(fired[a:b].argmax()) for a, b in parts if a < b <= count][:_MOST_TRACES]
    return fields[0], states["timesteps"], {neuron: values[:, neuron] for neuron in liveliest}


def _parts(count: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, count, min(count, _MOST_TRACES) + 1).astype(int).tolist()
    return list(pairwise(edges))
