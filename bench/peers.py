"""Plain h5py as people use it: a step at a time, and buffered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from bench.data import Floats, Spikes, Variant
from bench.recorder import Layout, Log, RecordedFile

__all__ = ["AppendedEpisode", "BufferedEpisode", "H5pyRecorder", "OpenH5pyEpisode"]

SMALL_ROWS = 1_000  # rows per chunk of position, velocity, reward and spike counts
SPIKES_PER_CHUNK = 32_768


@dataclass(slots=True)
class _Datasets:
    """The datasets of one episode, all empty and growing along their first axis."""

    file: h5py.File
    v: h5py.Dataset
    ids: h5py.Dataset
    counts: h5py.Dataset
    position: h5py.Dataset
    velocity: h5py.Dataset
    reward: h5py.Dataset

    @classmethod
    def create(
        cls, path: Path, variant: Variant, options: dict[str, Any], *, guess_chunks: bool = False
    ) -> _Datasets:
        """Create a file with chunks of 1 MB for the potentials, or with those h5py guesses."""
        file = h5py.File(path, "x")

        def make(name: str, dtype: str, rows: int, *row: int) -> h5py.Dataset:
            chunks = True if guess_chunks else (rows, *row)
            unlimited = (None, *row)
            return file.create_dataset(
                name, (0, *row), dtype, maxshape=unlimited, chunks=chunks, **options
            )

        return cls(
            file=file,
            v=make("v", "f4", variant.rows_per_megabyte, variant.n_neurons),
            ids=make("spike_ids", "i4", SPIKES_PER_CHUNK),
            counts=make("spike_count", "i4", SMALL_ROWS),
            position=make("position", "f4", SMALL_ROWS, 3),
            velocity=make("velocity", "f4", SMALL_ROWS, 3),
            reward=make("reward", "f4", SMALL_ROWS),
        )


def _append(dataset: h5py.Dataset, rows: NDArray[Any]) -> None:
    n = len(dataset)
    dataset.resize(n + len(rows), 0)
    dataset[n:] = rows


class OpenH5pyEpisode(Protocol):
    """A file that takes steps."""

    def log(self, t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
        """Log one step."""

    def close(self) -> None:
        """Write what is left and close the file."""


class AppendedEpisode:
    """What everyone writes first: resize by one row and assign, every signal, every step.

    Parameters
    ----------
    path, variant
        A new file, and the shape of the workload.
    options
        Filters, as for `h5py.Group.create_dataset`; the chunks are those that h5py guesses.
    """

    def __init__(self, path: Path, variant: Variant, *, options: dict[str, Any]) -> None:
        self._data = _Datasets.create(path, variant, options, guess_chunks=True)
        self._sample_every = variant.sample_every

    def log(self, t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
        """Log one step."""
        data = self._data
        if t % self._sample_every == 0:
            _append(data.v, v[None])
        if len(spikes):
            _append(data.ids, spikes)
        for dataset, value in (
            (data.counts, len(spikes)),
            (data.position, p),
            (data.velocity, q),
            (data.reward, r),
        ):
            dataset.resize(t + 1, 0)
            dataset[t] = value

    def close(self) -> None:
        """Close the file."""
        self._data.file.close()


class BufferedEpisode:
    """h5py as a careful user drives it: NumPy buffers, written a whole chunk at a time.

    Parameters
    ----------
    path, variant
        A new file, and the shape of the workload.
    options
        Filters, as for `h5py.Group.create_dataset`.
    """

    def __init__(self, path: Path, variant: Variant, *, options: dict[str, Any]) -> None:
        self._data = _Datasets.create(path, variant, options)
        self._sample_every = variant.sample_every
        self._v = np.empty((variant.rows_per_megabyte, variant.n_neurons), np.float32)
        self._position = np.empty((SMALL_ROWS, 3), np.float32)
        self._velocity = np.empty((SMALL_ROWS, 3), np.float32)
        self._reward = np.empty(SMALL_ROWS, np.float32)
        self._counts = np.empty(SMALL_ROWS, np.int32)
        self._ids: list[Spikes] = []
        self._n_v = 0
        self._n_small = 0

    def log(self, t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
        """Log one step."""
        if t % self._sample_every == 0:
            n = self._n_v
            self._v[n] = v
            self._n_v = n + 1
            if n + 1 == len(self._v):
                self._write_potentials()
        n = self._n_small
        self._position[n] = p
        self._velocity[n] = q
        self._reward[n] = r
        self._counts[n] = len(spikes)
        self._ids.append(spikes.copy())
        self._n_small = n + 1
        if n + 1 == SMALL_ROWS:
            self._write_small()

    def _write_potentials(self) -> None:
        _append(self._data.v, self._v[: self._n_v])
        self._n_v = 0

    def _write_small(self) -> None:
        data, n = self._data, self._n_small
        _append(data.position, self._position[:n])
        _append(data.velocity, self._velocity[:n])
        _append(data.reward, self._reward[:n])
        _append(data.counts, self._counts[:n])
        _append(data.ids, np.concatenate(self._ids))
        self._ids.clear()
        self._n_small = 0

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._n_v:
            self._write_potentials()
        if self._n_small:
            self._write_small()
        self._data.file.close()


class H5pyRecorder:
    """One file per episode with plain names, final once closed.

    Parameters
    ----------
    folder, variant
        Where to record, and the shape of the workload.
    open_episode
        Creates the file of one episode.
    """

    def __init__(
        self,
        folder: Path,
        variant: Variant,
        *,
        open_episode: Callable[[Path, Variant], OpenH5pyEpisode],
    ) -> None:
        self._folder, self._variant, self._open = folder, variant, open_episode
        self._episode: OpenH5pyEpisode | None = None

    def begin(self, episode: int) -> Log:
        """Create the datasets and the buffers."""
        opened = self._open(self.file(episode).path, self._variant)
        self._episode = opened
        return opened.log

    def end(self) -> None:
        """Write what is left and close the file."""
        if self._episode is not None:
            self._episode.close()

    def finish(self) -> None:
        """Do nothing: `end` closed the file."""

    def file(self, episode: int) -> RecordedFile:
        """Return the episode's file, which has plain names."""
        return RecordedFile(path=self._folder / f"{episode}.h5", layout=Layout())
