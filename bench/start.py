"""How long until something happens: the import, the command line, the first row of a rollout?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.findings import Findings, Setting, figure, interleaved

__all__ = ["measure"]

IMPORT = """
import time, h5py, numpy
start = time.perf_counter()
from shardwriter import DataExporter, ExperimentLoader
print(time.perf_counter() - start)
"""
LIBRARIES = """
import time
start = time.perf_counter()
import numpy, h5py
print(time.perf_counter() - start)
"""
FIRST_ROW = """
import sys, time
import numpy as np
from shardwriter import DataExporter

def rollout(episode):
    episode.log_timestep(0, {"v": np.zeros(1000, np.float32)})
    return {"at": time.time()}

exporter = DataExporter("start", sys.argv[1], progress=False)
start = time.time()
results = exporter.run_episodes(rollout, range(1), n_workers=1)
print(results[0].summary["at"] - start)
exporter.close(merge=False)
"""


def measure(setting: Setting) -> Findings:
    """Measure each in fresh interpreters."""
    rounds = interleaved(
        {
            "import": lambda: _printed(IMPORT),
            "libraries": lambda: _printed(LIBRARIES),
            "help": lambda: _took("-m", "shardwriter", "--help"),
            "bare": lambda: _took("-c", "pass"),
            "first row": lambda: _first_row(setting.folder),
        },
        setting,
    )
    in_ms = [{name: 1e3 * s for name, s in each.items()} for each in rounds]
    libraries = ("libraries", "importing NumPy and h5py")
    bare = ("bare", "starting Python")
    return Findings(
        figures=[
            figure(
                "start/import",
                "import DataExporter and ExperimentLoader, beyond NumPy and h5py",
                in_ms,
                "import",
                "ms",
                is_rate=False,
                peer=libraries,
            ),
            figure(
                "start/help",
                "shardwriter --help",
                in_ms,
                "help",
                "ms",
                is_rate=False,
                ceiling=bare,
            ),
            figure(
                "start/first_row",
                "run_episodes: from the call until the first row is logged",
                in_ms,
                "first row",
                "ms",
                is_rate=False,
                ceiling=bare,
            ),
        ]
    )


def _printed(script: str, *arguments: str) -> float:
    command = [sys.executable, "-c", script, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _took(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def _first_row(folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return _printed(FIRST_ROW, place)
