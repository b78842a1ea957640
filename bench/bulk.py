"""How fast is ``log_timesteps``, a thousand steps at a time?

Its limits are the codec alone, shuffling and deflating the same bytes on all cores with nothing
else to do, and without compression ``write()`` of the same bytes in blocks of 1 MB.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import VARIANTS, Recording, Variant, simulate
from bench.findings import Findings, Setting, figure, interleaved
from bench.machine import usable_cores
from bench.readback import check_episode
from bench.recorders import ShardwriterRecorder
from shardwriter.files.compression import Pipeline

__all__ = ["measure"]

BLOCK = 1_000
MEGABYTE = 1 << 20


def measure(setting: Setting) -> Findings:
    """Measure both, with and without compression."""
    variant = VARIANTS["A1k"].shortened(10 if setting.is_quick else 2)
    recording = simulate(variant)
    blocks = list(_blocks(recording, variant))
    raw = recording.raw_bytes(variant.n_steps, 1)
    columns = _columns(recording, variant)

    def recorded(compression: str | None) -> Callable[[], float]:
        return lambda: raw / _record_s(setting, variant, recording, blocks, compression) / 1e6

    rounds = interleaved(
        {
            "gzip": recorded("gzip"),
            "none": recorded(None),
            "codec": lambda: raw / _codec_s(columns) / 1e6,
            "write": lambda: raw / _write_s(columns, setting.folder) / 1e6,
        },
        setting,
    )
    cores = f"codec alone, {usable_cores()} cores"
    what = "A1k: log_timesteps(T = 1,000)"
    found = [
        figure("bulk/gzip", f"{what}, gzip", rounds, "gzip", "MB/s", ceiling=("codec", cores)),
        figure(
            "bulk/none",
            f"{what}, uncompressed",
            rounds,
            "none",
            "MB/s",
            ceiling=("write", "write() of 1 MB blocks"),
        ),
    ]
    return Findings(figures=found)


def _blocks(recording: Recording, variant: Variant) -> Iterator[dict[str, Any]]:
    steps = np.arange(variant.n_steps)
    pool = steps % recording.n_steps
    bounds = recording.spike_offsets
    for start in range(0, variant.n_steps, BLOCK):
        chosen = pool[start : start + BLOCK]
        yield {
            "timesteps": steps[start : start + BLOCK],
            "neural_state": {"membrane_potential": recording.stored_rows(start, start + BLOCK)},
            "behavior": {
                "position": recording.position[chosen],
                "velocity": recording.velocity[chosen],
            },
            "reward": recording.reward[chosen],
            "spike_ids": [recording.spike_ids[bounds[i] : bounds[i + 1]] for i in chosen],
        }


def _columns(recording: Recording, variant: Variant) -> list[Any]:
    timesteps, ids = recording.stored_spikes(variant.n_steps)
    pool = np.arange(variant.n_steps) % recording.n_steps
    potentials = recording.stored_rows(0, variant.n_steps)
    position, velocity = recording.position[pool], recording.velocity[pool]
    return [potentials, timesteps, ids, position, velocity, recording.reward[pool].astype(float)]


def _record_s(
    setting: Setting,
    variant: Variant,
    recording: Recording,
    blocks: list[dict[str, Any]],
    compression: str | None,
) -> float:
    with tempfile.TemporaryDirectory(dir=setting.folder) as place:
        recorder = ShardwriterRecorder(Path(place), variant, compression=compression)
        with recorder.exporter.start_episode(0) as episode:
            episode.log_timesteps(**blocks[0])
        episode.wait()
        start = time.perf_counter()
        with recorder.exporter.start_episode(1) as episode:
            for block in blocks:
                episode.log_timesteps(**block)
        episode.wait()
        taken = time.perf_counter() - start
        recorder.close()
        check_episode(recorder, 1, recording, n_steps=variant.n_steps, sample_every=1)
    return taken


def _codec_s(columns: list[Any]) -> float:
    chunks = [
        np.ascontiguousarray(column[start : start + rows])
        for column in columns
        for rows in [max(1, min(10_000, MEGABYTE // column[0].nbytes))]
        for start in range(0, len(column), rows)
    ]
    kinds = {_kind(chunk): chunk for chunk in chunks}
    encoders = {kind: Pipeline("gzip", 4).encoder() for kind in kinds}

    def encode(chunk: Any) -> int:
        return len(encoders[_kind(chunk)](chunk))

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(encode, kinds.values()))
        start = time.perf_counter()
        list(pool.map(encode, chunks))
        return time.perf_counter() - start


def _kind(chunk: Any) -> tuple[str, tuple[int, ...]]:
    return chunk.dtype.str, chunk.shape[1:]


def _write_s(columns: list[Any], folder: Path) -> float:
    path = folder / "written"
    start = time.perf_counter()
    with path.open("xb", buffering=0) as file:
        for column in columns:
            data = memoryview(column).cast("B")
            for at in range(0, len(data), MEGABYTE):
                os.write(file.fileno(), data[at : at + MEGABYTE])
    taken = time.perf_counter() - start
    path.unlink()
    return taken
