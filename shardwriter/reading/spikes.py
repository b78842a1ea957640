"""Spike trains: sparse (timestep, neuron) pairs, and their dense and compressed forms."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from shardwriter.errors import MissingDependency
from shardwriter.files.layout import TIMESTEPS

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["SpikeTrain"]

Array = np.ndarray[Any, Any]


class SpikeTrain(Mapping[str, Array]):
    """The spikes of an episode, or of a window of it, one entry each.

    A mapping with ``timesteps`` (K,) int64 and ``neuron_ids`` (K,) int32.

    Parameters
    ----------
    timesteps, neuron_ids
        The entries, in the order of recording.
    span
        First timestep of the window, and the one after its last.
    """

    def __init__(self, timesteps: Array, neuron_ids: Array, span: tuple[int, int]) -> None:
        self._columns = {TIMESTEPS: timesteps, "neuron_ids": neuron_ids}
        self._span = span

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        start, stop = self._span
        return f"<SpikeTrain: {len(self[TIMESTEPS])} spikes in timesteps {start} to {stop}>"

    def counts(self, n_neurons: int | None = None) -> Array:
        """Return the number of spikes of each neuron, shape ``(n_neurons,)`` int64."""
        return np.bincount(self["neuron_ids"], minlength=n_neurons or 0)

    def to_dense(self, n_neurons: int) -> Array:
        """Return a bool array ``(timesteps, n_neurons)`` whose first row is the span's first.

        Raises
        ------
        IndexError
            A neuron's id is negative, or not below `n_neurons`.
        """
        start, stop = self._span
        ids = self["neuron_ids"]
        for found in (ids.min(), ids.max()) if len(ids) else ():
            if not 0 <= found < n_neurons:
                expected = f"n_neurons: expected ids from 0 to {n_neurons - 1}"
                raise IndexError(f"{expected}, got {found}; pass the size of the network")
        dense = np.zeros((stop - start, n_neurons), bool)
        dense[self[TIMESTEPS] - start, ids] = True
        return dense

    def to_csr(self, n_neurons: int) -> "csr_array":
        """Return the same as a SciPy CSR array of spike counts, int8.

        Raises
        ------
        MissingDependency
            SciPy is not installed.
        ValueError
            A neuron's id is not below `n_neurons`.
        """
        try:
            from scipy.sparse import coo_array
        except ImportError as error:
            raise MissingDependency("scipy", "scipy") from error
        start, stop = self._span
        rows = self[TIMESTEPS] - start
        ones = np.ones(len(rows), np.int8)
        shape = (stop - start, n_neurons)
        return coo_array((ones, (rows, self["neuron_ids"])), shape=shape).tocsr()
