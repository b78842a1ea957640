"""zarr 3: one array per signal in a group, Blosc-LZ4 with shuffle (faster than its default)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec

from bench.data import Floats, Ints, Variant
from bench.libraries.aligned import WholeChunks
from bench.libraries.buffered import SMALL_ROWS, SPIKES_PER_CHUNK
from bench.recorder import Signals

__all__ = ["ZarrStorage", "read"]

_SIGNALS = ("potentials", "spike_ids", "position", "velocity", "reward")


class ZarrStorage:
    """One folder with a file per chunk."""

    def __init__(self, path: Path, variant: Variant) -> None:
        group = zarr.create_group(store=path, zarr_format=3)
        codec = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=4)

        def make(name: str, dtype: str, rows: int, *row: int) -> Any:
            return group.create_array(
                name, shape=(0, *row), chunks=(rows, *row), dtype=dtype, compressors=codec
            )

        self._potentials = make("potentials", "f4", variant.rows_per_megabyte, variant.n_neurons)
        self._ids = make("spike_ids", "i4", SPIKES_PER_CHUNK)
        self._counts = make("spike_count", "i4", SMALL_ROWS)
        self._position = make("position", "f4", SMALL_ROWS, 3)
        self._velocity = make("velocity", "f4", SMALL_ROWS, 3)
        self._reward = make("reward", "f4", SMALL_ROWS)
        self._whole = WholeChunks()

    def potentials(self, rows: Floats) -> None:
        """Append a chunk."""
        self._potentials.append(rows)

    def steps(
        self, position: Floats, velocity: Floats, reward: Floats, counts: Ints, ids: Ints
    ) -> None:
        """Append a chunk each."""
        self._position.append(position)
        self._velocity.append(velocity)
        self._reward.append(reward)
        self._counts.append(counts)
        if len(whole := self._whole.take(ids)):
            self._ids.append(whole)

    def close(self) -> None:
        """Append the rest; every chunk is a file of its own already."""
        self._ids.append(self._whole.rest)


def read(path: Path) -> Signals:
    """Read an episode back."""
    group = zarr.open_group(path, mode="r")
    return Signals(**{name: group[name][:] for name in _SIGNALS})
