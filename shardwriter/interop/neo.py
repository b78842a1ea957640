"""One episode as Neo objects, which Elephant analyses."""

from typing import TYPE_CHECKING, Any

import numpy as np

from shardwriter.files.compression import optional
from shardwriter.files.layout import BEHAVIOR, NEURAL_STATES, REWARDS, TIMESTEPS
from shardwriter.files.units import Units
from shardwriter.interop.recorded import Columns, Recorded, seconds_per_timestep

if TYPE_CHECKING:
    from neo import Block

__all__ = ["episode_to_neo"]

Array = np.ndarray[Any, Any]


def episode_to_neo(
    episode: Recorded, *, dt: float | None = None, n_neurons: int | None = None
) -> "Block":
    """Return an episode as a Neo block; see ``RecordedEpisode.to_neo``."""
    neo = optional("neo", "neo")
    units = episode.get_units()
    step = seconds_per_timestep(units, dt)
    facts = {k: v for k, v in episode.get_metadata().items() if not isinstance(v, dict)}
    block = neo.Block(name=f"episode {episode.id}", **facts)
    segment = neo.Segment(name=f"episode {episode.id}", index=episode.id)
    tables = {
        NEURAL_STATES: episode.get_neural_states(),
        BEHAVIOR: episode.get_behavior(),
        REWARDS: episode.get_rewards(),
    }
    spikes = episode.get_spikes()
    times = [np.asarray(table[TIMESTEPS]) for table in (*tables.values(), spikes)]
    last = max((int(each.max()) for each in times if len(each)), default=-1)
    stop = step * max(last + 1, int(facts.get("total_timesteps", 0)))
    segment.spiketrains.extend(_trains(spikes, step, stop, n_neurons))
    for table, columns in tables.items():
        for name, values in columns.items():
            if name != TIMESTEPS and len(values) and values.dtype.kind in "fiub":
                _add_signal(segment, table, name, values, columns[TIMESTEPS] * step, units)
    for name, events in episode.get_events().items():
        segment.events.append(_event(name, events, step))
    block.segments.append(segment)
    return block


def _trains(spikes: Columns, step: float, stop: float, n_neurons: int | None) -> list[Any]:
    neo = optional("neo", "neo")
    ids = spikes["neuron_ids"]
    order = np.lexsort((spikes[TIMESTEPS], ids))
    ids, times = ids[order], spikes[TIMESTEPS][order] * step
    neurons = np.union1d(ids, np.arange(n_neurons or 0))
    firsts, lasts = np.searchsorted(ids, neurons), np.searchsorted(ids, neurons, side="right")
    return [
        neo.SpikeTrain(
            times[a:b], units="s", t_stop=stop, name=f"neuron {neuron}", neuron_id=int(neuron)
        )
        for neuron, a, b in zip(neurons.tolist(), firsts, lasts, strict=True)
    ]


def _add_signal(
    segment: Any, table: str, name: str, values: Array, times: Array, units: Units
) -> None:
    """Add a field as a signal of (time, channel), a regular one where its steps are."""
    neo = optional("neo", "neo")
    flat = values.reshape(len(values), -1)
    if values.dtype.kind == "b":
        flat = flat.astype(np.int8)
    unit, notes = _quantity(units.of(table, name))
    notes |= {"table": table, "shape": str(values.shape[1:])}
    steps = np.diff(times)
    if len(times) > 1 and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-6):
        period = optional("quantities", "neo").Quantity(steps.mean(), "s")
        start = optional("quantities", "neo").Quantity(times[0], "s")
        signal = neo.AnalogSignal(
            flat, units=unit, sampling_period=period, t_start=start, name=name, **notes
        )
        segment.analogsignals.append(signal)
    else:
        signal = neo.IrregularlySampledSignal(
            times, flat, units=unit, time_units="s", name=name, **notes
        )
        segment.irregularlysampledsignals.append(signal)


def _quantity(unit: str | None) -> tuple[Any, dict[str, str]]:
    """Return a unit that Neo knows; where it does not, none, and the text as an annotation."""
    if unit is None:
        return "dimensionless", {}
    try:
        return optional("quantities", "neo").Quantity(1, unit).units, {}
    except (LookupError, ValueError, TypeError, SyntaxError):
        return "dimensionless", {"recorded_unit": unit}


def _event(name: str, events: Columns, step: float) -> Any:
    neo = optional("neo", "neo")
    fields = {k: v for k, v in events.items() if k != TIMESTEPS and v.ndim == 1}
    labels = [name] * len(events[TIMESTEPS])
    return neo.Event(
        times=events[TIMESTEPS] * step,
        units="s",
        labels=labels,
        name=name,
        array_annotations=fields,
    )
