"""How well and how fast each codec compresses what simulations record.

    python -m bench.compression [--quick]

Prints the tables of ``docs/compression.md``: every codec and level on LIF potentials, spikes,
behaviour and timesteps, shuffled first as in a shard; the encoder that serves each gzip level and
its size against zlib's; and the ratio against the precision that values are rounded to. Exits
with 1 if gzip's output exceeds zlib's at the same level by more than 3 % anywhere.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bench.data import VARIANTS, Recording, simulate
from bench.machine import Machine
from bench.tables import markdown
from shardwriter.codec import Deflater, shuffle
from shardwriter.compression import Pipeline, round_to

Array = np.ndarray[Any, Any]
Blocks = Sequence[Array]

CHUNK_ROWS = 10_000
CHUNK_BYTES = 1 << 20
MOST_CHUNKS = 8
LEVELS = range(1, 10)
TOLERANCE = 1.03
CODECS = [
    *[Pipeline("gzip", level) for level in (1, 4, 6, 9)],
    *[Pipeline("zstd", level) for level in (1, 4, 9)],
    Pipeline("lz4"),
    *[Pipeline("blosc", level) for level in (1, 4, 9)],
    Pipeline("blosc", 4, by_bits=True),
    Pipeline("lzf"),
]
PRECISIONS = (None, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compression by codec, level and precision.")
    parser.add_argument("--quick", action="store_true", help="one chunk each, two levels")
    options = parser.parse_args()
    levels = (1, 9) if options.quick else LEVELS
    rounds = 1 if options.quick else 5
    variant = VARIANTS["A1k"].shortened(8 if options.quick else 1)
    kinds = chunks_by_kind(simulate(variant), 1 if options.quick else MOST_CHUNKS)
    print(f"Machine: {Machine.here(Path.cwd())}\n")
    print(codec_table(kinds, rounds))
    text, is_good = level_table(kinds, levels, rounds)
    print(f"\n{text}\n")
    print(precision_table(kinds["potentials"]))
    return 0 if is_good else 1


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


def codec_table(kinds: Mapping[str, Blocks], rounds: int) -> str:
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
    return markdown(["ratio (MB/s)", *kinds], rows)


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
) -> tuple[str, bool]:
    """Encoder, size against zlib's and speed against zlib's, by gzip level and kind."""
    rows = []
    is_good = True
    for level in levels:
        cells = []
        for blocks in kinds.values():
            data = [shuffle(block) for block in blocks]
            deflate = partial(Deflater(level), planes=blocks[0].dtype.itemsize)
            deflate(data[0])
            size, seconds = _timed(deflate, data, rounds)  # type: ignore[arg-type]
            zlib_size, zlib_seconds = _timed(_zlib(level), data, 1)  # type: ignore[arg-type]
            worst = max(len(deflate(one)) / len(zlib.compress(one, level)) for one in data)
            is_good = is_good and worst <= TOLERANCE
            name = deflate.func.encoder_name
            cells.append(f"{name} {size / zlib_size:.3f} ({zlib_seconds / seconds:.1f}x)")
        rows.append([f"gzip {level}", *cells])
    return markdown(["encoder, size / zlib's (speed / zlib's)", *kinds], rows), is_good


def _zlib(level: int) -> Callable[[bytes], bytes]:
    return lambda data: zlib.compress(data, level)


def precision_table(potentials: Blocks) -> str:
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
    return markdown(
        ["precision", "largest error (mV)", "gzip 4", "zstd 4", "blosc 9, by bits"], rows
    )


if __name__ == "__main__":
    sys.exit(main())
