"""Check that a file holds what was recorded, so that a recorder that drops data cannot win."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from bench.data import Recording
from bench.recorder import RecordedFile

__all__ = ["ReadBackError", "check_episode"]

SAMPLED_BLOCKS = 12
BLOCK_ROWS = 8


class ReadBackError(Exception):
    """A file differs from what was recorded.

    Parameters
    ----------
    dataset
        The dataset that differs.
    problem
        Expected and got.
    """

    def __init__(self, dataset: str, problem: str) -> None:
        super().__init__(dataset, problem)
        self.dataset, self.problem = dataset, problem

    def __str__(self) -> str:
        return f"{self.dataset}: {self.problem}; this recorder's figures are worthless"


def check_episode(
    recorded: RecordedFile, recording: Recording, *, n_steps: int, sample_every: int
) -> None:
    """Compare all small signals and samples of the potentials, bit for bit, through plain h5py.

    A file without a layout has to have the size of the raw bytes.

    Raises
    ------
    ReadBackError
        If a length, a dtype or a value differs.
    """
    path, layout = recorded.path, recorded.layout
    if layout is None:
        size, expected = path.stat().st_size, recording.raw_bytes(n_steps, sample_every)
        if size != expected:
            raise ReadBackError(path.name, f"expected {expected} bytes, got {size}")
        return
    timesteps, ids = recording.stored_spikes(n_steps)
    pool = np.arange(n_steps) % recording.n_steps
    with h5py.File(path, "r") as file:
        _check_rows(file[layout.potentials], layout.potentials, recording, n_steps, sample_every)
        _compare(layout.position, file[layout.position][:], recording.position[pool])
        _compare(layout.velocity, file[layout.velocity][:], recording.velocity[pool])
        _compare(layout.reward, file[layout.reward][:], recording.reward[pool])
        _compare(layout.spike_ids, file[layout.spike_ids][:], ids)
        if layout.spike_timesteps is not None:
            _compare(layout.spike_timesteps, file[layout.spike_timesteps][:], timesteps)


def _check_rows(
    dataset: h5py.Dataset, name: str, recording: Recording, n_steps: int, sample_every: int
) -> None:
    n_rows = -(-n_steps // sample_every)
    if len(dataset) != n_rows:
        raise ReadBackError(name, f"expected {n_rows} rows, got {len(dataset)}")
    last = max(0, n_rows - BLOCK_ROWS)
    for start in np.linspace(0, last, SAMPLED_BLOCKS).astype(int).tolist():
        stop = min(n_rows, start + BLOCK_ROWS)
        _compare(name, dataset[start:stop], recording.stored_rows(start, stop))


def _compare(name: str, got: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    if np.can_cast(expected.dtype, got.dtype, "safe"):  # a wider type holds the same values
        expected = expected.astype(got.dtype)
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        raise ReadBackError(
            name, f"expected {expected.dtype} {expected.shape}, got {got.dtype} {got.shape}"
        )
    if got.tobytes() != expected.tobytes():
        raise ReadBackError(name, "values differ from those recorded")
