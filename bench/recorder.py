"""What a benchmark asks of a recorder.

Contract: a recorder is made for a new folder. `begin(episode)` returns the function to call once
per step, `end()` ends that episode, `finish()` returns when all that was logged is in its final
files, `close()` lets go of processes. Every recorder is offered the potentials at every step and
samples them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.data import Floats, Spikes

__all__ = ["Log", "Recorder", "Signals", "stored_bytes"]

Log: TypeAlias = Callable[[int, Floats, Spikes, Floats, Floats, np.float32], None]
"""Logs (timestep, potentials, spikes, position, velocity, reward); borrows them for the call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signals:
    """One episode as it was read back: (S, N), (K,), (T, 3), (T, 3), (T,)."""

    potentials: NDArray[Any]
    spike_ids: NDArray[Any]
    position: NDArray[Any]
    velocity: NDArray[Any]
    reward: NDArray[Any]


class Recorder(Protocol):
    """Records episodes into one folder."""

    def begin(self, episode: int) -> Log:
        """Start an episode and return the function that logs one step."""

    def end(self) -> None:
        """End the episode."""

    def finish(self) -> None:
        """Return once everything logged is in its final files."""

    def close(self) -> None:
        """Let go of everything; not timed."""

    def path(self, episode: int) -> Path:
        """Return the file or folder of an episode, which is there once it is finished."""

    def read(self, episode: int) -> Signals | None:
        """Read a finished episode back; None if it is nothing but the raw bytes."""


def stored_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
