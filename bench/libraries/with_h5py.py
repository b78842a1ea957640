"""Plain h5py as people use it: a step at a time, and buffered, with stock and plugin filters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bench.data import Floats, Ints, Spikes, Variant
from bench.libraries.buffered import SMALL_ROWS, SPIKES_PER_CHUNK
from bench.recorder import Log, Signals

__all__ = ["AppendedRecorder", "H5pyStorage", "plugin_filter", "read"]


def plugin_filter(name: str) -> dict[str, Any]:
    """Return the options of hdf5plugin's LZ4 or Zstandard filter, byte-shuffled first."""
    import hdf5plugin

    chosen = hdf5plugin.LZ4() if name == "lz4" else hdf5plugin.Zstd(clevel=4)
    return {"shuffle": True, **chosen}


class _Datasets:
    """The datasets of one episode, all empty and growing along their first axis."""

    def __init__(
        self, path: Path, variant: Variant, options: Mapping[str, Any], *, guess_chunks: bool
    ) -> None:
        self.file = h5py.File(path, "x")

        def make(name: str, dtype: str, rows: int, *row: int) -> h5py.Dataset:
            chunks = True if guess_chunks else (rows, *row)
            unlimited = (None, *row)
            return self.file.create_dataset(
                name, (0, *row), dtype, maxshape=unlimited, chunks=chunks, **options
            )

        self.v = make("v", "f4", variant.rows_per_megabyte, variant.n_neurons)
        self.ids = make("spike_ids", "i4", SPIKES_PER_CHUNK)
        self.counts = make("spike_count", "i4", SMALL_ROWS)
        self.position = make("position", "f4", SMALL_ROWS, 3)
        self.velocity = make("velocity", "f4", SMALL_ROWS, 3)
        self.reward = make("reward", "f4", SMALL_ROWS)


def _append(dataset: h5py.Dataset, rows: NDArray[Any]) -> None:
    n = len(dataset)
    dataset.resize(n + len(rows), 0)
    dataset[n:] = rows


def read(path: Path) -> Signals:
    """Read an episode back."""
    with h5py.File(path) as file:
        names = ("spike_ids", "position", "velocity", "reward")
        return Signals(potentials=file["v"][:], **{name: file[name][:] for name in names})


class H5pyStorage:
    """Chunks of 1 MB for the potentials, with the filters given."""

    def __init__(self, path: Path, variant: Variant, options: Mapping[str, Any]) -> None:
        self._data = _Datasets(path, variant, options, guess_chunks=False)

    def potentials(self, rows: Floats) -> None:
        """Append a chunk."""
        _append(self._data.v, rows)

    def steps(
        self, position: Floats, velocity: Floats, reward: Floats, counts: Ints, ids: Ints
    ) -> None:
        """Append a chunk each."""
        data = self._data
        _append(data.position, position)
        _append(data.velocity, velocity)
        _append(data.reward, reward)
        _append(data.counts, counts)
        _append(data.ids, ids)

    def close(self) -> None:
        """Close the file."""
        self._data.file.close()


class AppendedRecorder:
    """What everyone writes first: resize by one row and assign, every signal, every step.

    Parameters
    ----------
    folder, variant
        Where to record, and the shape of the workload.
    options
        Filters, as for `h5py.Group.create_dataset`; the chunks are those that h5py guesses.
    """

    def __init__(self, folder: Path, variant: Variant, *, options: Mapping[str, Any]) -> None:
        self._folder, self._variant, self._options = folder, variant, options

    def begin(self, episode: int) -> Log:
        """Create the datasets."""
        self._data = _Datasets(self.path(episode), self._variant, self._options, guess_chunks=True)
        return self._log

    def _log(self, t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
        data = self._data
        if t % self._variant.sample_every == 0:
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

    def end(self) -> None:
        """Close the file."""
        self._data.file.close()

    def finish(self) -> None:
        """Do nothing: `end` closed the file."""

    def close(self) -> None:
        """Do nothing: `end` closed the file."""

    def path(self, episode: int) -> Path:
        """Return the episode's file."""
        return self._folder / f"{episode}.h5"

    def read(self, episode: int) -> Signals:
        """Read the episode back."""
        return read(self.path(episode))
