"""PyTables: one enlargeable array per signal, Blosc with byte shuffle."""

from __future__ import annotations

from pathlib import Path

import tables

from bench.data import Floats, Ints, Variant
from bench.libraries.buffered import SMALL_ROWS, SPIKES_PER_CHUNK
from bench.recorder import Signals

__all__ = ["PyTablesStorage", "read"]

_SIGNALS = ("potentials", "spike_ids", "position", "velocity", "reward")


class PyTablesStorage:
    """One file with an `EArray` per signal."""

    def __init__(self, path: Path, variant: Variant) -> None:
        self._file = tables.open_file(path, "w")
        filters = tables.Filters(complib="blosc", complevel=5, shuffle=True)
        float32, int32 = tables.Float32Atom(), tables.Int32Atom()

        def make(name: str, atom: tables.Atom, rows: int, *row: int) -> tables.EArray:
            return self._file.create_earray(
                "/", name, atom, (0, *row), filters=filters, chunkshape=(rows, *row)
            )

        n = variant.n_neurons
        self._potentials = make("potentials", float32, variant.rows_per_megabyte, n)
        self._ids = make("spike_ids", int32, SPIKES_PER_CHUNK)
        self._counts = make("spike_count", int32, SMALL_ROWS)
        self._position = make("position", float32, SMALL_ROWS, 3)
        self._velocity = make("velocity", float32, SMALL_ROWS, 3)
        self._reward = make("reward", float32, SMALL_ROWS)

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
        self._ids.append(ids)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> Signals:
    """Read an episode back."""
    with tables.open_file(path) as file:
        return Signals(**{name: file.get_node("/", name)[:] for name in _SIGNALS})
