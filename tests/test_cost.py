"""What recording costs the process that logs: memory, and calls of the system."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardwriter import ExperimentLoader

SCRIPT = """
import json, resource, sys
import numpy as np
from shardwriter import DataExporter

place, steps, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])


def calls():
    with open("/proc/self/io") as file:
        counts = dict(line.split(": ") for line in file.read().splitlines())
    return int(counts["syscr"]) + int(counts["syscw"])


rng = np.random.default_rng(0)
v, fired = rng.standard_normal((50, 1000), np.float32), rng.random((50, 1000)) < 0.02
exporter = DataExporter("test", place, progress=False, neural_sampling_rate=1, **options)
with exporter, exporter.start_episode() as episode:
    for t in range(steps):
        if t == 500:  # every table and its slots are there
            before = calls(), resource.getrusage(resource.RUSAGE_SELF)
        episode.log_timestep(t, {"v": v[t % 50]}, fired[t % 50], {"x": float(t)}, 1.0)
    after = calls(), resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "calls": after[0] - before[0],
    "switches": after[1].ru_nvcsw - before[1].ru_nvcsw,
    "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""
STEPS = 5_000


def measure(place: Path, steps: int, options: dict[str, Any]) -> dict[str, int]:
    """Record an episode in a process of its own; return what it took."""
    place.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(place), str(steps), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (directory,) = place.iterdir()
    with ExperimentLoader(directory) as loader:
        assert loader.episode_index["steps"].tolist() == [steps]
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


@pytest.mark.parametrize("async_write", [False, True], ids=["sync", "async"])
def test_neither_memory_nor_calls_grow_with_the_episode(tmp_path: Path, async_write: bool) -> None:
    """Raw data is 20 MB and 160 MB; a step makes no call of the system, a slot makes a few."""
    options = {"async_write": async_write, "n_async_workers": 1, "compression_level": 1}
    short = measure(tmp_path / "short", STEPS, options)
    long = measure(tmp_path / "long", 8 * STEPS, options)
    assert long["peak_kb"] < short["peak_kb"] + 16_000
    assert long["calls"] < 8 * STEPS / 4
