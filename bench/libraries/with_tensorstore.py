"""TensorStore: zarr 3 arrays, Blosc-Zstandard with byte shuffle, several writes under way.

Its arrays are made at full length, which it would otherwise have to be told with each chunk.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from bench.data import Floats, Ints, Variant
from bench.libraries.aligned import WholeChunks
from bench.libraries.buffered import SMALL_ROWS, SPIKES_PER_CHUNK
from bench.recorder import Signals

__all__ = ["TensorStoreStorage", "read"]

_SIGNALS = ("potentials", "spike_ids", "position", "velocity", "reward")
_MOST_UNDER_WAY = 8
_MOST_FIRING = 0.06


def _spec(path: Path, name: str) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{name}/"}}


def _codecs() -> list[dict[str, Any]]:
    blosc = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": 4}
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": blosc},
    ]


class TensorStoreStorage:
    """One folder with a file per chunk, written by TensorStore's threads."""

    def __init__(self, path: Path, variant: Variant) -> None:
        self._under_way: deque[Any] = deque()
        self._whole = WholeChunks()
        n, steps = variant.n_neurons, variant.n_steps
        rows = -(-steps // variant.sample_every)
        shapes = {
            "potentials": ("float32", (rows, n), min(rows, variant.rows_per_megabyte)),
            "spike_ids": ("int32", (int(_MOST_FIRING * n * steps),), SPIKES_PER_CHUNK),
            "spike_count": ("int32", (steps,), SMALL_ROWS),
            "position": ("float32", (steps, 3), SMALL_ROWS),
            "velocity": ("float32", (steps, 3), SMALL_ROWS),
            "reward": ("float32", (steps,), SMALL_ROWS),
        }
        opening = {name: self._create(path, name, *shape) for name, shape in shapes.items()}
        self._arrays = {name: future.result() for name, future in opening.items()}
        self._length = dict.fromkeys(shapes, 0)

    @staticmethod
    def _create(path: Path, name: str, dtype: str, shape: tuple[int, ...], rows: int) -> Any:
        grid = {"name": "regular", "configuration": {"chunk_shape": [rows, *shape[1:]]}}
        metadata = {
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": grid,
            "codecs": _codecs(),
        }
        return tensorstore.open(_spec(path, name) | {"metadata": metadata}, create=True)

    def _write(self, name: str, rows: NDArray[Any]) -> None:
        while len(self._under_way) >= _MOST_UNDER_WAY:
            self._under_way.popleft().result()
        start = self._length[name]
        self._length[name] = stop = start + len(rows)
        self._under_way.append(self._arrays[name][start:stop].write(rows.copy()))

    def potentials(self, rows: Floats) -> None:
        """Begin to write a chunk."""
        self._write("potentials", rows)

    def steps(
        self, position: Floats, velocity: Floats, reward: Floats, counts: Ints, ids: Ints
    ) -> None:
        """Begin to write a chunk each."""
        self._write("position", position)
        self._write("velocity", velocity)
        self._write("reward", reward)
        self._write("spike_count", counts)
        if len(whole := self._whole.take(ids)):
            self._write("spike_ids", whole)

    def close(self) -> None:
        """Wait for all writes, and cut the arrays to their lengths."""
        self._write("spike_ids", self._whole.rest)
        for write in self._under_way:
            write.result()
        for name, array in self._arrays.items():
            length = self._length[name]
            if length != array.shape[0]:
                array.resize(exclusive_max=[length, *array.shape[1:]]).result()


def read(path: Path) -> Signals:
    """Read an episode back."""
    reading = {name: tensorstore.open(_spec(path, name)).result().read() for name in _SIGNALS}
    return Signals(**{name: np.asarray(each.result()) for name, each in reading.items()})
