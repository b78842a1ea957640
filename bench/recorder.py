"""What a benchmark asks of a recorder.

Contract: a recorder is made for a new folder. `begin(episode)` returns the function to call once
per step, `end()` ends that episode, `finish()` returns when all that was logged is in its final
files. Every recorder is offered the potentials at every step and samples them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from bench.data import Floats, Spikes

__all__ = ["Layout", "Log", "RecordedFile", "Recorder"]

Log: TypeAlias = Callable[[int, Floats, Spikes, Floats, Floats, np.float32], None]
"""Logs (timestep, potentials, spikes, position, velocity, reward); borrows them for the call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where one episode's datasets lie in its HDF5 file."""

    potentials: str = "v"
    spike_ids: str = "spike_ids"
    spike_timesteps: str | None = None
    position: str = "position"
    velocity: str = "velocity"
    reward: str = "reward"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedFile:
    """A finished episode's file; without a layout it is nothing but the raw bytes."""

    path: Path
    layout: Layout | None


class Recorder(Protocol):
    """Records episodes into one folder."""

    def begin(self, episode: int) -> Log:
        """Start an episode and return the function that logs one step."""

    def end(self) -> None:
        """End the episode."""

    def finish(self) -> None:
        """Return once everything logged is in its final files."""

    def file(self, episode: int) -> RecordedFile:
        """Return the file of an episode, which is there once the episode is finished."""
