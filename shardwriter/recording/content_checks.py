"""Checks of what is logged beyond its form: order, ranges, and numbers that are numbers.

Invariant: a check that fails raises before anything is stored; a value that is merely unusual
warns once per field and episode, and is stored.
"""

import warnings
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from shardwriter.errors import FieldError

__all__ = ["ContentChecks", "NonFiniteWarning", "warn_of_non_finite"]

Array = np.ndarray[Any, Any]


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

    Attributes
    ----------
    n_neurons
        As given, or as set by what was logged.
    """

    def __init__(self, episode: int, n_neurons: int | None) -> None:
        self._episode = episode
        self.n_neurons = n_neurons
        self._given = n_neurons

    @property
    def largest_id(self) -> int:
        """The largest id that a neuron can have."""
        return 2**31 - 1 if self.n_neurons is None else self.n_neurons - 1

    def spike_vector(self, length: int) -> None:
        """Check that a spike vector has one entry per neuron."""
        self._given = length
        if self.n_neurons is not None and length != self.n_neurons:
            expected = f"one entry for each of {self.n_neurons} neurons"
            advice = "pass the whole vector, or spike_ids"
            raise FieldError(self._episode, "spikes", expected, f"{length} entries", advice)

    def accept_spikes(self) -> None:
        """Take the last vector's length as the size of the network: its call was logged."""
        if self.n_neurons is None:
            self.n_neurons = self._given

    def in_order(self, timesteps: Array, first_valid: int, series: str) -> None:
        """Check that timesteps do not fall, from the last one of their series on."""
        advice = "log timesteps in order, or set validate_data=False"
        if timesteps[0] < first_valid:
            expected = f"an integer from {first_valid} up"
            raise FieldError(self._episode, series, expected, str(timesteps[0]), advice)
        falls = np.flatnonzero(timesteps[1:] < timesteps[:-1])
        if len(falls):
            before, after = (int(timesteps[falls[0] + i]) for i in (0, 1))
            expected = "timesteps that do not fall"
            raise FieldError(self._episode, series, expected, f"{after} after {before}", advice)

    def finite_weights(self, name: str, values: Any) -> None:
        """Check that weights are finite."""
        if not np.isfinite(values).all():
            advice = "check the learning rule, or set validate_data=False"
            place = f"weight_changes/{name}"
            raise FieldError(self._episode, place, "finite weights", "NaN or infinity", advice)


def warn_of_non_finite(
    episode: int,
    names: Sequence[str],
    timesteps: Array,
    columns: Sequence[Array],
    lacking: Set[str],
) -> list[str]:
    """Warn of NaN and infinity in the float columns of some rows.

    Called with whole slots, which costs a small part of checking each row when it is logged.
    Rows of a `lacking` column that are NaN throughout were not given, and are no reason to warn.

    Returns
    -------
    list of str
        The columns that were warned of, which need no more checks.
    """
    warned = []
    for name, values in zip(names, columns, strict=True):
        if values.dtype.kind not in "fc" or values.size == 0:
            continue
        with np.errstate(all="ignore"):
            total = values.sum()
        # NaN and infinity spread into the sum; it may also have overflowed.
        if np.isfinite(total) or np.isfinite(values).all():
            continue
        rows = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if name in lacking:
            rows &= ~np.isnan(values).reshape(len(values), -1).all(axis=1)
            if not rows.any():
                continue
        warned.append(name)
        warnings.warn(
            f"episode {episode}, neural_states/{name}: expected finite values, got NaN or "
            f"infinity at timestep {timesteps[rows.argmax()]}; they are stored as they are",
            NonFiniteWarning,
            stacklevel=2,
        )
    return warned
