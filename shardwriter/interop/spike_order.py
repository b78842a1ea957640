"""The spikes of an experiment neuron by neuron, in bounded memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwriter.interop.timeline import Timeline

__all__ = ["SpikeOrder"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class SpikeOrder:
    """All spikes, those of the first neuron first, each neuron's in time.

    Attributes
    ----------
    neurons
        Ids, (N,), sorted.
    ends
        (N,) int64: the row behind the last spike of each.
    """

    timeline: Timeline
    neurons: Array
    ends: Array

    @classmethod
    def of(cls, timeline: Timeline, n_neurons: int | None = None) -> "SpikeOrder":
        """Return the order, with the neurons 0 to `n_neurons` even if they were silent."""
        neurons = np.arange(n_neurons or 0)
        counts = np.zeros(len(neurons), np.int64)
        for _, ids in timeline.spikes():
            fired, times = np.unique(ids, return_counts=True)
            together = np.union1d(neurons, fired)
            sums = np.zeros(len(together), np.int64)
            sums[np.searchsorted(together, neurons)] += counts
            sums[np.searchsorted(together, fired)] += times
            neurons, counts = together, sums
        return cls(timeline, neurons, np.cumsum(counts))

    @property
    def rows(self) -> int:
        """How many spikes there are."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def timesteps(self, start: int, stop: int) -> Array:
        """Return the timesteps of some rows, from one pass over all spikes."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, stop, side="left"))
        begin = int(self.ends[first - 1]) if first else 0
        found = []
        for steps, ids in self.timeline.spikes():
            chosen = (ids >= self.neurons[first]) & (ids <= self.neurons[last])
            found.append((steps[chosen], ids[chosen]))
        steps = np.concatenate([each for each, _ in found])
        ids = np.concatenate([each for _, each in found])
        order = np.lexsort((steps, ids))[start - begin : stop - begin]
        return np.asarray(steps[order])
