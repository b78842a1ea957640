"""Check that files hold what was recorded, so that a recorder that drops data cannot win."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data import Recording
from bench.recorder import Recorder, stored_bytes

__all__ = ["ReadBackError", "check_episode"]


class ReadBackError(Exception):
    """A file differs from what was recorded.

    Parameters
    ----------
    signal
        What differs.
    problem
        Expected and got.
    """

    def __init__(self, signal: str, problem: str) -> None:
        super().__init__(signal, problem)
        self.signal, self.problem = signal, problem

    def __str__(self) -> str:
        return f"{self.signal}: {self.problem}; this recorder's figures are worthless"


def check_episode(
    recorder: Recorder, episode: int, recording: Recording, *, n_steps: int, sample_every: int
) -> None:
    """Compare every value of an episode, bit for bit.

    A recorder that cannot read has to have stored as many bytes as there are raw.

    Raises
    ------
    ReadBackError
        If a length or a value differs.
    """
    signals = recorder.read(episode)
    if signals is None:
        size = stored_bytes(recorder.path(episode))
        expected = recording.raw_bytes(n_steps, sample_every)
        if size != expected:
            raise ReadBackError("size", f"expected {expected} bytes, got {size}")
        return
    pool = np.arange(n_steps) % recording.n_steps
    n_rows = -(-n_steps // sample_every)
    _compare("potentials", signals.potentials, recording.stored_rows(0, n_rows))
    _compare("spike_ids", signals.spike_ids, recording.stored_spikes(n_steps)[1])
    _compare("position", signals.position, recording.position[pool])
    _compare("velocity", signals.velocity, recording.velocity[pool])
    _compare("reward", signals.reward, recording.reward[pool])


def _compare(name: str, got: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    if got.shape != expected.shape:
        raise ReadBackError(name, f"expected shape {expected.shape}, got {got.shape}")
    if not np.can_cast(expected.dtype, got.dtype, "safe"):  # a wider type holds the same values
        raise ReadBackError(name, f"expected {expected.dtype}, got {got.dtype}")
    if got.tobytes() != expected.astype(got.dtype).tobytes():
        raise ReadBackError(name, "values differ from those recorded")
