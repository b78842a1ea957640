"""What the page needs to draw one episode, packed small.

Invariant: nothing is longer than its bound, however long the episode: of many spikes those of every
k-th neuron are kept, whole; of a long curve the lowest and highest value of equal stretches.
"""

import base64
import zlib
from typing import Any

import numpy as np

from shardwriter.files.layout import BEHAVIOR, NEURAL_STATES, REWARDS, TIMESTEPS
from shardwriter.plot.recording import Recording, read_recording
from shardwriter.plot.style import PALETTE
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.reading.shard_episode import table_columns

__all__ = ["drawing"]

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

_MOST_SPIKES = 200_000
_MOST_POINTS = 4_000
_MOST_BINS = 1_000
_MOST_READ = 256_000_000  # bytes of neural states
_ONE_READ = 32_000_000


def drawing(episode: RecordedEpisode) -> Json:
    """Return what one episode recorded, as JSON values with arrays as packed bytes."""
    r = read_recording(episode, None, None)
    curves = [_potentials(episode, r), *_behaviour(r), _return(r)]
    return {
        "id": episode.id,
        "title": r.title,
        "dt": r.units.dt,
        "first": r.first,
        "stop": r.stop,
        "populations": [
            {"name": name, "first": first, "stop": stop, "colour": colour}
            for colour, (name, (first, stop)) in zip(PALETTE, r.populations.items(), strict=False)
        ],
        "spikes": _spikes(r),
        "curves": [curve for curve in curves if curve],
        "path": _path(r),
    }


def _spikes(r: Recording) -> Json | None:
    times, ids = np.asarray(r.spikes[TIMESTEPS]), np.asarray(r.spikes["neuron_ids"])
    if len(times) == 0:
        return None
    neurons = max([int(ids.max()) + 1, *(stop for _, stop in r.populations.values())])
    bins = min(_MOST_BINS, r.stop - r.first)
    counts, _ = np.histogram(times, bins=bins, range=(r.first, r.stop))
    every = 1
    while np.count_nonzero(ids % every == 0) > _MOST_SPIKES and every < neurons:
        every += 1
    kept = np.flatnonzero(ids % every == 0)[:_MOST_SPIKES]
    kept = kept[np.argsort(times[kept], kind="stable")]
    return {
        "count": len(times),
        "neurons": neurons,
        "every": every,
        "steps": _steps(times[kept], r.first),
        "ids": _packed(ids[kept].astype(np.min_scalar_type(neurons))),
        "counts": _packed(counts.astype(np.uint32)),
    }


def _potentials(episode: RecordedEpisode, r: Recording) -> Json | None:
    """Return the potentials of those neurons that a picture shows, over the whole episode."""
    if not r.traces:
        return None
    times, traces = r.trace_times, np.stack(list(r.traces.values()), axis=1)
    note = ""
    if r.has_long_span:
        stop = _readable_stop(episode, r)
        times, traces = _read_traces(episode, r, stop)
        note = "" if stop == r.stop else f"read up to timestep {stop:,} only"
    names = [f"neuron {neuron}" for neuron in r.traces]
    label = r.label(NEURAL_STATES, r.trace_name)
    return _curve(label, names, times, traces, r.first, note=note, stacked=True)


def _bytes_per_timestep(r: Recording, episode: RecordedEpisode) -> float:
    with episode.opened() as group:
        columns = table_columns(group, NEURAL_STATES)
        size = sum(column.nbytes for column in columns.values())
    return float(size) / (r.stop - r.first)


def _readable_stop(episode: RecordedEpisode, r: Recording) -> int:
    return min(r.stop, r.first + max(1, int(_MOST_READ / _bytes_per_timestep(r, episode))))


def _read_traces(episode: RecordedEpisode, r: Recording, stop: int) -> tuple[Array, Array]:
    length = max(1, int(_ONE_READ / _bytes_per_timestep(r, episode)))
    neurons = list(r.traces)
    times, traces = [], []
    for begin in range(r.first, stop, length):
        states = episode.get_neural_states(begin, min(begin + length, stop))
        times.append(states[TIMESTEPS])
        traces.append(states[r.trace_name][:, neurons])
    return np.concatenate(times), np.concatenate(traces)


def _behaviour(r: Recording) -> list[Json | None]:
    found = []
    for name, values in r.series.items():
        width = values.shape[1]
        names = [name] if width == 1 else [f"{name}[{i}]" for i in range(width)]
        found.append(_curve(r.label(BEHAVIOR, name), names, r.series_times, values, r.first))
    return found


def _return(r: Recording) -> Json | None:
    """Return the running sum of the rewards, from the episode's first timestep to its last."""
    times, values = r.rewards[TIMESTEPS], np.cumsum(r.rewards["values"])
    if len(times) == 0:
        return None
    times = np.concatenate([[r.first], times, [r.stop - 1]])
    values = np.concatenate([[0.0], values, values[-1:]])[:, np.newaxis]
    name = r.label(REWARDS, "values", "return so far")
    return _curve(name, ["return so far"], times, values, r.first, steps_hold=True)


def _path(r: Recording) -> Json | None:
    if len(r.path) == 0:
        return None
    every = -(-len(r.path) // _MOST_POINTS)
    return {
        "label": r.label(BEHAVIOR, r.path_name),
        "steps": _steps(r.path_times[::every], r.first),
        "x": _packed(r.path[::every, 0].astype(np.float32)),
        "y": _packed(r.path[::every, 1].astype(np.float32)),
    }


def _curve(
    label: str,
    names: list[str],
    times: Array,
    values: Array,
    first: int,
    *,
    note: str = "",
    **how: bool,
) -> Json | None:
    """Return curves of ``(rows, len(names))`` values over one axis of time."""
    if len(times) == 0:
        return None
    order = np.argsort(times, kind="stable")
    thin_times, thin_values = _thinned(times[order], values[order].astype(np.float32))
    return {
        "label": label,
        "names": names,
        "note": note,
        "is_whole": len(thin_times) == len(times),
        "steps": _steps(thin_times, first),
        "values": [_packed(column) for column in thin_values.T],
        **how,
    }


def _thinned(times: Array, values: Array) -> tuple[Array, Array]:
    """Keep the lowest and the highest value of equal stretches of rows, where there are many."""
    rows = len(times)
    if rows <= _MOST_POINTS:
        return times, values
    edges = np.linspace(0, rows, _MOST_POINTS // 2, endpoint=False).astype(int)
    low, high = (each.reduceat(values, edges, axis=0) for each in (np.fmin, np.fmax))
    pairs = np.stack([low, high], axis=1).reshape(-1, values.shape[1])
    return np.repeat(times[edges], 2), pairs


def _steps(times: Array, first: int) -> Json:
    """Pack ascending timesteps as differences, the first of them from `first`."""
    differences = np.diff(times, prepend=first)
    if differences.size and differences.min() < 0:
        return _packed((times - first).astype(np.float64), kind="plain")
    kind = np.min_scalar_type(int(differences.max(initial=0)))
    return _packed(differences.astype(kind if kind.itemsize < 8 else np.float64), kind="steps")


def _packed(values: Array, kind: str = "plain") -> Json:
    """Pack numbers as text: little-endian, zlib, base64."""
    dtype = values.dtype.newbyteorder("<")
    data = zlib.compress(np.ascontiguousarray(values.astype(dtype)).tobytes(), 9)
    text = base64.b64encode(data).decode()
    return {"dtype": dtype.str[1:], "kind": kind, "n": len(values), "data": text}
