"""How often neurons fire in each episode.

Invariant: a rate is one of neurons only where their number is known; what it is one of, it says.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwriter.errors import ShardWriterError
from shardwriter.files.layout import NEURAL_STATES, SPIKES, TIMESTEPS
from shardwriter.loader import ExperimentLoader
from shardwriter.reading.shard_episode import table_columns

__all__ = ["FiringRate", "firing_rate"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class FiringRate:
    """The mean firing rate of episodes.

    Attributes
    ----------
    values
        One for each episode, NaN for one without timesteps.
    unit
        ``Hz``, spikes per neuron and second; per timestep where ``dt`` is unknown, of all neurons
        together where their number is.
    neurons
        How many neurons a rate is the mean of; None where nobody knows.
    """

    values: Array
    unit: str
    neurons: int | None


def firing_rate(loader: ExperimentLoader, index: Array) -> FiringRate:
    """Return the firing rate of the episodes in rows of the index."""
    dt, neurons = loader.get_units().dt, _neurons(loader, index)
    spent = index["steps"] * (dt or 1.0) * (neurons or 1)
    values = np.full(len(index), np.nan)
    np.divide(index["spikes"], spent, out=values, where=spent > 0)
    if neurons is None:
        unit = "spikes / step" if dt is None else "spikes / s"
    else:
        unit = "spikes / neuron / step" if dt is None else "Hz"
    return FiringRate(values=values, unit=unit, neurons=neurons)


def _neurons(loader: ExperimentLoader, index: Array) -> int | None:
    """Return how many neurons there are, as the network or an episode's states tell."""
    try:
        fields = loader.get_network_structure("neurons").values()
        lengths = {len(field) for field in fields if isinstance(field, (np.ndarray, list))}
        firing = index["episode_id"][index["spikes"] > 0]
        if not lengths and len(firing):
            lengths = _widths(loader, int(firing[0]))
    except ShardWriterError:  # whoever reads that episode will hear of it
        return None
    return lengths.pop() if len(lengths) == 1 else None


def _widths(loader: ExperimentLoader, episode: int) -> set[int]:
    """Return how many neurons the fields of neural states have, if no other neuron fired."""
    with loader.get_episode(episode).opened() as group:
        states = table_columns(group, NEURAL_STATES) if NEURAL_STATES in group else {}
        shapes = [column.shape[1:] for name, column in states.items() if name != TIMESTEPS]
    fired, _ = loader.concat(f"{SPIKES}/neuron_ids", [episode])
    return {shape[0] for shape in shapes if len(shape) == 1 and shape[0] > fired.max()}
