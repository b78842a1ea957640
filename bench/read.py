"""How fast is an episode read back, all of it and one timestep at a time?

The peer is h5py, reading the same columns of the same shard through HDF5's own filters. Each number
of threads is a process of its own that may use so many cores. What both read is compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

from bench.data import VARIANTS, simulate
from bench.findings import Findings, Setting, figure, interleaved
from bench.machine import usable_cores
from bench.readback import ReadBackError
from shardwriter import DataExporter, ExperimentLoader

__all__ = ["measure"]

FIELD = "membrane_potential"
ROWS_READ = 200


def measure(setting: Setting) -> Findings:
    """Measure with one thread and with two, where there are as many cores."""
    directory = _record(setting)
    counts = [n for n in (1, 2) if n <= usable_cores()]
    rounds = interleaved(
        {f"{n}": lambda n=n: _in_new_process(directory, n, setting) for n in counts}, setting
    )
    figures = [
        figure(
            f"read/episode/{n}",
            f"A1k: read an episode, {n} thread{'s' if n > 1 else ''}",
            rounds,
            f"{n} ours",
            "MB/s",
            peer=(f"{n} h5py", "h5py's gzip"),
            ceiling=(f"{n} memory", "copy in memory"),
        )
        for n in counts
    ]
    figures.append(
        figure(
            "read/timestep",
            "A1k: read one random timestep",
            rounds,
            "1 ours_row",
            "us",
            is_rate=False,
            peer=("1 h5py_row", "h5py"),
        )
    )
    return Findings(figures=figures)


def _record(setting: Setting) -> Path:
    variant = VARIANTS["A1k"].shortened(20 if setting.is_quick else 2)
    recording = simulate(variant)
    steps = recording.steps(variant.n_steps, 1)
    with (
        DataExporter("read", setting.folder, neural_sampling_rate=1, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        for t, v, ids, p, q, r in steps:
            behavior = {"position": p, "velocity": q}
            episode.log_timestep(t, {FIELD: v}, None, behavior, r, spike_ids=ids)
    return exporter.output_dir


def _in_new_process(directory: Path, threads: int, setting: Setting) -> dict[str, float]:
    repeats = 1 if setting.is_quick else 3
    command = [sys.executable, "-m", "bench.read", str(directory), str(threads), str(repeats)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def read(directory: Path, threads: int, repeats: int) -> dict[str, float]:
    """Read in this process, on so many cores; return MB/s, and µs for a row."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    shard = directory / "shards/episode_0000.h5"
    times: dict[str, list[float]] = {"ours": [], "h5py": [], "memory": []}
    with ExperimentLoader(directory) as loader, h5py.File(shard) as file:
        group = file["episodes/episode_0000/neural_states"]
        episode = loader.get_episode(0)
        for _ in range(repeats + 1):
            start = time.perf_counter()
            ours = episode.get_neural_states()
            times["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs = {"timesteps": group["timesteps"][:], FIELD: group[FIELD][:]}
            times["h5py"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for column in theirs.values():
                column.copy()
            times["memory"].append(time.perf_counter() - start)
            for name, column in theirs.items():
                if not np.array_equal(ours[name], column):
                    raise ReadBackError(name, "the loader and h5py differ")
        size = sum(column.nbytes for column in theirs.values())
        rows = np.random.default_rng(0).integers(0, len(theirs["timesteps"]), ROWS_READ).tolist()
        start = time.perf_counter()
        for row in rows:
            episode.get_neural_states(start=row, stop=row + 1)
        ours_row = time.perf_counter() - start
        start = time.perf_counter()
        for row in rows:
            group["timesteps"][row], group[FIELD][row]
        h5py_row = time.perf_counter() - start
    rates = {name: size / float(np.median(each[1:])) / 1e6 for name, each in times.items()}
    scale = 1e6 / len(rows)
    return rates | {"ours_row": ours_row * scale, "h5py_row": h5py_row * scale}


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
