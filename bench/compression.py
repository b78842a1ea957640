"""How well and how fast does each codec compress what simulations record?

Its tables are those of ``docs/compression.md``: every codec and level on LIF potentials, spikes,
behaviour and timesteps, shuffled first as in a shard; the encoder that serves each gzip level and
its size against zlib's; and the ratio against the precision that values are rounded to.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import h5py
import numpy as np

from bench.data import VARIANTS, Recording, simulate
from bench.findings import Figure, Findings, Setting, Table
from shardwriter.files.codec import Deflater, shuffle
from shardwriter.files.compression import Pipeline, round_to

__all__ = ["measure"]

Array = np.ndarray[Any, Any]
Blocks = Sequence[Array]

CHUNK_ROWS = 10_000
CHUNK_BYTES = 1 << 20
MOST_CHUNKS = 8
LEVELS = range(1, 10)
CODECS = [
    *[Pipeline("gzip", level) for level in (1, 4, 6, 9)],
    *[Pipeline("zstd", level) for level in (1, 4, 9)],
    Pipeline("lz4"),
    *[Pipeline("blosc", level) for level in (1, 4, 9)],
    Pipeline("blosc", 4, by_bits=True),
    Pipeline("lzf"),
]
PRECISIONS = (None, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


def measure(setting: Setting) -> Findings:
    """Measure codecs, levels and precisions, in CPU time."""
    levels = (1, 9) if setting.is_quick else LEVELS
    variant = VARIANTS["A1k"].shortened(8 if setting.is_quick else 1)
    kinds = chunks_by_kind(simulate(variant), 1 if setting.is_quick else MOST_CHUNKS)
    by_level, largest = level_table(kinds, levels, setting.rounds)
    figures = [
        Figure(
            key=f"compression/{what}",
            what=f"gzip: largest {what} / zlib's at the same level",
            value=value,
            unit="x",
            low=value,
            high=value,
            is_rate=False,
        )
        for what, value in largest.items()
    ]
    tables = [codec_table(kinds, setting.rounds), by_level, precision_table(kinds["potentials"])]
    return Findings(figures=figures, tables=tables)


def chunks_by_kind(recording: Recording, most: int) -> dict[str, list[Array]]:
    """Return whole chunks as a shard has them, by kind of data."""
    timesteps, ids = recording.stored_spikes(recording.n_steps)
    columns = {
        "potentials": recording.potentials,
        "spike ids": ids,
        "spike timesteps": timesteps,
        "behaviour": recording.position,
        "timesteps": np.arange(recording.n_steps, dtype=np.int64),
    }
    return {kind: _chunks(column, most) for kind, column in columns.items()}


def _chunks(column: Array, most: int) -> list[Array]:
    row_bytes = column[0].nbytes
    rows = min(CHUNK_ROWS, CHUNK_BYTES // row_bytes, len(column))
    whole = [column[i : i + rows] for i in range(0, len(column) - rows + 1, rows)]
    return [np.ascontiguousarray(chunk) for chunk in whole[:most]]


def codec_table(kinds: Mapping[str, Blocks], rounds: int) -> Table:
    """Ratio and MB/s of every codec; those inside HDF5 include its work."""
    rows = []
    for pipeline in CODECS:
        has_level = pipeline.name in ("gzip", "zstd", "blosc")
        name = f"{pipeline.name} {pipeline.level}" if has_level else str(pipeline.name)
        name += ", by bits" if pipeline.by_bits else ""
        cells = []
        for blocks in kinds.values():
            size, seconds = _measured(pipeline, blocks, rounds)
            cells.append(_cell(_raw(blocks), size, seconds))
        rows.append([name, *cells])
    return Table(title="Codecs", columns=["ratio (MB/s)", *kinds], rows=rows)


def _cell(raw: int, size: int, seconds: float) -> str:
    return f"{raw / size:.2f} ({raw / seconds / 1e6:.0f})"


def _raw(blocks: Blocks) -> int:
    return sum(block.nbytes for block in blocks)


def _measured(pipeline: Pipeline, blocks: Blocks, rounds: int) -> tuple[int, float]:
    """Return the compressed size of all blocks, and the seconds of the median round."""
    encode = pipeline.encoder()
    if encode is None:
        return _in_library(pipeline, blocks, rounds)
    encode(blocks[0])
    return _timed(encode, blocks, rounds)


def _timed(encode: Callable[[Array], Any], blocks: Blocks, rounds: int) -> tuple[int, float]:
    times = []
    size = 0
    for _ in range(rounds):
        start = time.process_time()
        size = sum(len(encode(block)) for block in blocks)
        times.append(time.process_time() - start)
    return size, float(np.median(times))


def _in_library(pipeline: Pipeline, blocks: Blocks, rounds: int) -> tuple[int, float]:
    rows = len(blocks[0])
    times = []
    size = 0
    for _ in range(rounds):
        with h5py.File.in_memory() as file:
            shape = (rows * len(blocks), *blocks[0].shape[1:])
            chunk = blocks[0].shape
            stored = file.create_dataset(
                "x", shape, blocks[0].dtype, chunks=chunk, **pipeline.dataset_options()
            )
            start = time.process_time()
            for i, block in enumerate(blocks):
                stored[i * rows : (i + 1) * rows] = block
            file.flush()
            times.append(time.process_time() - start)
            size = stored.id.get_storage_size()
    return size, float(np.median(times))


def level_table(
    kinds: Mapping[str, Blocks], levels: Sequence[int], rounds: int
) -> tuple[Table, dict[str, float]]:
    """Encoder, size and speed against zlib's, by gzip level and kind; and the largest sizes."""
    rows = []
    largest = {"column": 0.0, "chunk": 0.0}
    for level in levels:
        cells = []
        for blocks in kinds.values():
            data = [shuffle(block) for block in blocks]
            deflate = partial(Deflater(level), planes=blocks[0].dtype.itemsize)
            deflate(data[0])
            size, seconds = _timed(deflate, data, rounds)
            zlib_size, zlib_seconds = _timed(_zlib(level), data, 1)
            ratios = (len(deflate(one)) / len(zlib.compress(one, level)) for one in data)
            largest["chunk"] = max(largest["chunk"], *ratios)
            largest["column"] = max(largest["column"], size / zlib_size)
            name = deflate.func.encoder_name
            cells.append(f"{name} {size / zlib_size:.3f} ({zlib_seconds / seconds:.1f}x)")
        rows.append([f"gzip {level}", *cells])
    columns = ["encoder, size / zlib's (speed / zlib's)", *kinds]
    return Table(title="Which encoder makes the gzip stream", columns=columns, rows=rows), largest


def _zlib(level: int) -> Callable[[bytes], bytes]:
    return lambda data: zlib.compress(data, level)


def precision_table(potentials: Blocks) -> Table:
    """Ratio of gzip 4 and zstd 4 on potentials rounded to a precision."""
    rows = []
    for precision in PRECISIONS:
        rounded = [b if precision is None else round_to(b, precision) for b in potentials]
        error = max(float(np.abs(a - b).max()) for a, b in zip(rounded, potentials, strict=True))
        cells = [f"{error:.2g}"]
        for pipeline in (
            Pipeline("gzip", 4),
            Pipeline("zstd", 4),
            Pipeline("blosc", 9, by_bits=True),
        ):
            size, _ = _measured(pipeline, rounded, 1)
            cells.append(f"{_raw(potentials) / size:.2f}")
        rows.append(["every bit" if precision is None else f"{precision:g} mV", *cells])
    columns = ["precision", "largest error (mV)", "gzip 4", "zstd 4", "blosc 9, by bits"]
    return Table(title="Precision of potentials", columns=columns, rows=rows)
