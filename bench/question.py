"""Ask one benchmark, in a process of its own, so that none can disturb or stop the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from bench.findings import Findings, Setting
from bench.machine import busy_cpu_s, tree_cpu_s

__all__ = ["IN_MEMORY", "QUESTIONS", "ask"]

QUESTIONS = {
    "record": "steps/s of one process by codec, beside h5py and write()",
    "peers": "the same work done by other libraries",
    "bulk": "log_timesteps, beside the codec alone and write()",
    "frames": "84x84x3 images",
    "latency": "how long a call takes, and one more field",
    "overhead": "what validation, profiling and compression add to a call",
    "short_episodes": "episodes of 100 steps per second",
    "scaling": "1 to as many workers as cores, and a model for more",
    "memory": "peak memory beyond the slots",
    "read": "an episode, and one timestep, beside h5py",
    "windows": "windows/s for training with PyTorch, beside an h5py dataset",
    "merge": "growth with the number of shards, beside h5py",
    "start": "import, --help, first row",
    "compression": "ratio and speed of each codec, and precision",
    "idle": "CPU of a blocked writer",
    "death": "how soon a killed process is noticed",
}
# What compares recorders by the byte: of these shardwriter alone waits for the disk.
IN_MEMORY = ("record", "peers", "bulk", "frames", "scaling")
TIMEOUT_S, FULL_TIMEOUT_S = 900, 3_600


def ask(name: str, setting: Setting) -> Findings:
    """Run a benchmark; what goes wrong is in the findings' `error`."""
    busy, used, start = busy_cpu_s(), tree_cpu_s(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=setting.folder) as place:
        findings = _in_new_process(name, Path(place), setting)
    findings.took_s = time.perf_counter() - start
    ours = tree_cpu_s() - used
    findings.foreign_cores = max(0.0, busy_cpu_s() - busy - ours) / findings.took_s
    return findings


def _in_new_process(name: str, place: Path, setting: Setting) -> Findings:
    answer = place / "answer.json"
    (place / "files").mkdir()
    values = asdict(setting) | {"folder": str(place / "files")}
    command = [sys.executable, "-m", "bench.question", name, json.dumps(values), str(answer)]
    limit_s = FULL_TIMEOUT_S if setting.is_full or setting.shards else TIMEOUT_S
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).resolve().parent.parent,
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that it can be stopped with all that it started
    )
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return Findings(error=f"no end after {limit_s} s")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0 or not answer.exists():
        return Findings(error=errors.strip() or f"it ended with {process.returncode}")
    return Findings.from_json(json.loads(answer.read_text()))


def main(name: str, setting: str, answer: str) -> None:
    """Run a benchmark in this process."""
    values = json.loads(setting)
    chosen = Setting(**values | {"folder": Path(values["folder"])})
    findings: Findings = import_module(f"bench.{name}").measure(chosen)
    Path(answer).write_text(json.dumps(findings.to_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
