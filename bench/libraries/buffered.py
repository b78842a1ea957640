"""Buffers in front of a storage library: what its careful user writes, once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from bench.data import Floats, Ints, Spikes, Variant
from bench.recorder import Log, Signals

__all__ = ["SMALL_ROWS", "SPIKES_PER_CHUNK", "BufferedRecorder", "OpenStorage", "Storage"]

SMALL_ROWS = 1_000  # rows per chunk of position, velocity, reward and spike counts
SPIKES_PER_CHUNK = 32_768


class Storage(Protocol):
    """One open episode in some library. Rows are borrowed for the call."""

    def potentials(self, rows: Floats) -> None:
        """Append a chunk of potentials, 1 MB; the last may be shorter."""

    def steps(
        self, position: Floats, velocity: Floats, reward: Floats, counts: Ints, ids: Ints
    ) -> None:
        """Append a chunk of everything else; `counts` says how many of `ids` each step has."""

    def close(self) -> None:
        """Make the files final."""


OpenStorage: TypeAlias = Callable[[Path, Variant], Storage]


class BufferedRecorder:
    """Collects steps in NumPy buffers and hands whole chunks to a storage library.

    Parameters
    ----------
    folder, variant
        Where to record, and the shape of the workload.
    open_storage, read
        The library: creates one episode, and reads it back.
    suffix
        Of an episode's file or folder.
    """

    def __init__(
        self,
        folder: Path,
        variant: Variant,
        *,
        open_storage: OpenStorage,
        read: Callable[[Path], Signals],
        suffix: str,
    ) -> None:
        self._folder, self._variant = folder, variant
        self._open, self._read, self._suffix = open_storage, read, suffix
        self._v = np.empty((variant.rows_per_megabyte, variant.n_neurons), np.float32)
        self._position = np.empty((SMALL_ROWS, 3), np.float32)
        self._velocity = np.empty((SMALL_ROWS, 3), np.float32)
        self._reward = np.empty(SMALL_ROWS, np.float32)
        self._counts = np.empty(SMALL_ROWS, np.int32)
        self._ids: list[Spikes] = []
        self._n_v = 0
        self._n_small = 0

    def begin(self, episode: int) -> Log:
        """Create the episode's storage."""
        self._storage = self._open(self.path(episode), self._variant)
        return self._log

    def _log(self, t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
        if t % self._variant.sample_every == 0:
            n = self._n_v
            self._v[n] = v
            self._n_v = n + 1
            if n + 1 == len(self._v):
                self._hand_potentials()
        n = self._n_small
        self._position[n] = p
        self._velocity[n] = q
        self._reward[n] = r
        self._counts[n] = len(spikes)
        self._ids.append(spikes.copy())
        self._n_small = n + 1
        if n + 1 == SMALL_ROWS:
            self._hand_steps()

    def _hand_potentials(self) -> None:
        self._storage.potentials(self._v[: self._n_v])
        self._n_v = 0

    def _hand_steps(self) -> None:
        n = self._n_small
        ids = np.concatenate(self._ids).astype(np.int32, copy=False)
        self._storage.steps(
            self._position[:n], self._velocity[:n], self._reward[:n], self._counts[:n], ids
        )
        self._ids.clear()
        self._n_small = 0

    def end(self) -> None:
        """Hand over what is left, and close the storage."""
        if self._n_v:
            self._hand_potentials()
        if self._n_small:
            self._hand_steps()
        self._storage.close()

    def finish(self) -> None:
        """Do nothing: `end` made the files final."""

    def close(self) -> None:
        """Do nothing: `end` made the files final."""

    def path(self, episode: int) -> Path:
        """Return the episode's file or folder."""
        return self._folder / f"{episode}{self._suffix}"

    def read(self, episode: int) -> Signals:
        """Read the episode back."""
        return self._read(self.path(episode))
