"""Checks of what is logged beyond its form: order, ranges, and numbers that are numbers.

Invariant: a check that fails raises before anything is stored; a value that is merely unusual
warns once per field and episode, and is stored.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from shardwriter.errors import FieldError

__all__ = ["ContentChecks", "NonFiniteWarning"]

Array = np.ndarray[Any, Any]

_LAST_TIMESTEP = 2**63 - 1
_DOT_SIZE = 8192  # larger vectors would wake the threads of the linear algebra library


class NonFiniteWarning(UserWarning):
    """A neural state holds NaN or infinity."""


class ContentChecks:
    """The checks of one episode.

    Parameters
    ----------
    episode
        The episode's id, for errors.
    n_neurons
        Number of neurons where the network's structure is known; else the first spike vector
        sets it.
    """

    def __init__(self, episode: int, n_neurons: int | None) -> None:
        self._episode = episode
        self._n_neurons = n_neurons
        self._floor: dict[str, int] = {}
        self._warned: set[str] = set()

    def timestep(self, timestep: int, series: str) -> None:
        """Check that a timestep is not negative and not before the last of its series."""
        floor = self._floor.get(series, 0)
        if not floor <= timestep <= _LAST_TIMESTEP:
            advice = "log timesteps in order, or set validate_data=False"
            expected = f"an integer from {floor} (the last one logged) up"
            raise FieldError(self._episode, series, expected, str(timestep), advice)
        self._floor[series] = timestep

    def timesteps(self, timesteps: Array, series: str = "timestep") -> None:
        """Check the same of many."""
        falls = np.flatnonzero(timesteps[1:] < timesteps[:-1])
        if len(falls):
            before, after = (int(timesteps[falls[0] + i]) for i in (0, 1))
            advice = "log timesteps in order, or set validate_data=False"
            raise FieldError(
                self._episode, series, "timesteps that do not fall", f"{after} after {before}", advice
            )
        self.timestep(int(timesteps[0]), series)
        self._floor[series] = int(timesteps[-1])

    def finite(self, values: Sequence[Any], names: Sequence[str], timestep: int) -> None:
        """Warn of NaN and infinity in arrays of floats."""
        for i, value in enumerate(values):
            if type(value) is not np.ndarray or value.dtype.kind not in "fc":
                continue
            if value.ndim == 1 and value.size <= _DOT_SIZE:
                total = value.dot(value)
            else:
                total = np.add.reduce(value, axis=None)
            # NaN and infinity spread into the total; it may also have overflowed.
            if total - total != 0 and not np.isfinite(value).all():
                self._warn(names[i], timestep)

    def _warn(self, name: str, timestep: int) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"episode {self._episode}, neural_states/{name}: expected finite values, got NaN "
                f"or infinity at timestep {timestep}; they are stored as they are",
                NonFiniteWarning,
                stacklevel=4,
            )

    def spike_vector(self, length: int) -> None:
        """Check that a spike vector has one entry per neuron."""
        if self._n_neurons is None:
            self._n_neurons = length
        elif length != self._n_neurons:
            expected = f"one entry for each of {self._n_neurons} neurons"
            advice = "pass the whole vector, or spike_ids"
            raise FieldError(self._episode, "spikes", expected, f"{length} entries", advice)

    def spike_ids(self, ids: Array) -> None:
        """Check that ids are those of neurons."""
        if not len(ids):
            return
        if len(ids) < 64:  # faster than NumPy's reductions
            each = ids.tolist()
            low, high = min(each), max(each)
        else:
            low, high = int(ids.min()), int(ids.max())
        limit = 2**31 if self._n_neurons is None else self._n_neurons
        if low < 0 or high >= limit:
            got = str(low if low < 0 else high)
            advice = "check the ids against the network"
            raise FieldError(self._episode, "spike_ids", f"ids from 0 to {limit - 1}", got, advice)

    def weights(self, old: Any, new: Any) -> None:
        """Check that weights are finite."""
        for name, values in (("old_weights", old), ("new_weights", new)):
            if not np.isfinite(values).all():
                advice = "check the learning rule, or set validate_data=False"
                raise FieldError(
                    self._episode, f"weight_changes/{name}", "finite weights", "NaN or inf", advice
                )
