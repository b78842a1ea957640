"""Parquet through pyarrow: a row group per chunk, byte-stream split and Zstandard 1.

Two files per episode, since sampled potentials have fewer rows than steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.data import Floats, Ints, Variant
from bench.recorder import Signals

__all__ = ["ParquetStorage", "read"]

_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
}


def _vectors(rows: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


class ParquetStorage:
    """A folder with two files."""

    def __init__(self, path: Path, variant: Variant) -> None:
        path.mkdir()
        vector = pa.list_(pa.float32(), 3)
        self._states = pa.schema([("potentials", pa.list_(pa.float32(), variant.n_neurons))])
        self._steps = pa.schema(
            [
                ("position", vector),
                ("velocity", vector),
                ("reward", pa.float32()),
                ("spike_ids", pa.list_(pa.int32())),
            ]
        )
        split = ["potentials.list.element"]
        self._state_writer = pq.ParquetWriter(
            path / "states.parquet", self._states, use_byte_stream_split=split, **_OPTIONS
        )
        self._step_writer = pq.ParquetWriter(path / "steps.parquet", self._steps, **_OPTIONS)

    def potentials(self, rows: Floats) -> None:
        """Write a row group."""
        self._state_writer.write_batch(pa.record_batch([_vectors(rows)], schema=self._states))

    def steps(
        self, position: Floats, velocity: Floats, reward: Floats, counts: Ints, ids: Ints
    ) -> None:
        """Write a row group."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        spikes = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
        columns = [_vectors(position), _vectors(velocity), pa.array(reward), spikes]
        self._step_writer.write_batch(pa.record_batch(columns, schema=self._steps))

    def close(self) -> None:
        """Write the footers."""
        self._state_writer.close()
        self._step_writer.close()


def read(path: Path) -> Signals:
    """Read an episode back."""
    columns = {}
    for file in ("states", "steps"):
        table = pq.read_table(path / f"{file}.parquet")
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            kind = column.type
            values = column.flatten() if pa.types.is_nested(kind) else column
            flat = values.to_numpy()
            is_matrix = pa.types.is_fixed_size_list(kind)
            columns[name] = flat.reshape(-1, kind.list_size) if is_matrix else flat
    return Signals(**columns)
