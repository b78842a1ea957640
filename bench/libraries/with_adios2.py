"""ADIOS2: BP5, one output step per chunk; the wheel on PyPI has no compressor."""

from __future__ import annotations

from pathlib import Path

import adios2
import numpy as np
from numpy.typing import NDArray

from bench.data import Floats, Ints, Variant
from bench.recorder import Signals

__all__ = ["Adios2Storage", "read"]

_SIGNALS = ("potentials", "spike_ids", "position", "velocity", "reward")


class Adios2Storage:
    """One BP5 folder per episode."""

    def __init__(self, path: Path, variant: Variant) -> None:
        self._stream = adios2.Stream(str(path), "w")

    def _write(self, **arrays: NDArray[np.generic]) -> None:
        self._stream.begin_step()
        for name, rows in arrays.items():
            shape = list(rows.shape)
            self._stream.write(name, rows, shape, [0] * rows.ndim, shape)
        self._stream.end_step()

    def potentials(self, rows: Floats) -> None:
        """Write a step."""
        self._write(potentials=rows)

    def steps(
        self, position: Floats, velocity: Floats, reward: Floats, counts: Ints, ids: Ints
    ) -> None:
        """Write a step."""
        self._write(
            position=position, velocity=velocity, reward=reward, spike_count=counts, spike_ids=ids
        )

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


def read(path: Path) -> Signals:
    """Read an episode back."""
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in _SIGNALS}
    with adios2.Stream(str(path), "r") as stream:
        for _ in stream.steps():
            there = stream.available_variables()
            for name in parts.keys() & there.keys():
                shape = [int(n) for n in there[name]["Shape"].split(",")]
                parts[name].append(stream.read(name, [0] * len(shape), shape))
    return Signals(**{name: np.concatenate(rows) for name, rows in parts.items()})
