"""One measurement: one recorder, one variant, in a process of its own.

Invariant: nothing is timed that a recorder does not do. Data are loaded, arguments built, libraries
imported and a first episode recorded (so that a writer process is up) beforehand; a second recorder
serves for latencies, so that the clock's cost does not enter the throughput.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import Recording, Step, Variant
from bench.machine import (
    busy_cpu_s,
    descendants,
    reset_peak_rss,
    rss_bytes,
    tree_cpu_s,
    wait_until_quiet,
)
from bench.readback import check_episode
from bench.recorder import Log, Recorder
from bench.recorders import RECORDERS

__all__ = ["Job", "Measurement", "MeasurementError", "measure", "measure_in_new_process"]

WARM_UP, TIMED = 0, 1  # episode ids
LATENCY_SHARE = 2  # the pass for latencies has so many times fewer steps
TIMEOUT_S = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to measure.

    Attributes
    ----------
    recorder
        A key of `RECORDERS`.
    variant
        The shape of the workload, with as many steps as are to be recorded.
    data, folder
        Where `Recording.save` wrote, and a new folder to record into.
    quiet_s
        How long to wait for a quiet machine at most.
    """

    recorder: str
    variant: Variant
    data: Path
    folder: Path
    quiet_s: float

    def to_json(self) -> str:
        """Spell the job for another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` spelled."""
        values = json.loads(text)
        variant = Variant(**values.pop("variant"))
        data, folder = Path(values.pop("data")), Path(values.pop("folder"))
        return cls(variant=variant, data=data, folder=folder, **values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one process measured.

    Attributes
    ----------
    wall_s
        From the start of the episode until its file is final.
    logging_s
        Of that, the time in which the simulation ran; the rest is waiting for the writer.
    cpu_s
        CPU time of recorder and its processes meanwhile, as far as those have been reaped.
    foreign_cores
        CPU that other processes used meanwhile, in cores.
    latency_us
        Percentiles of one call by name; the simulation takes as long again between calls.
    saturated_latency_us
        The same with calls back to back, so that back-pressure is part of it.
    peak_rss_bytes
        Growth of this process's peak since the recorder's libraries were imported, plus the whole
        peak of each process that the recorder started.
    """

    recorder: str
    variant: str
    n_steps: int
    raw_bytes: int
    file_bytes: int
    wall_s: float
    logging_s: float
    cpu_s: float
    foreign_cores: float
    latency_us: dict[str, float]
    saturated_latency_us: dict[str, float]
    peak_rss_bytes: int

    @property
    def steps_per_s(self) -> float:
        """Steps recorded per second."""
        return self.n_steps / self.wall_s

    @property
    def mb_per_s(self) -> float:
        """Raw megabytes recorded per second."""
        return self.raw_bytes / self.wall_s / 1e6

    @property
    def size_ratio(self) -> float:
        """Bytes of file per raw byte."""
        return self.file_bytes / self.raw_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return fields and derived figures for JSON."""
        return asdict(self) | {
            "steps_per_s": self.steps_per_s,
            "mb_per_s": self.mb_per_s,
            "size_ratio": self.size_ratio,
        }


class MeasurementError(Exception):
    """A measuring process failed.

    Parameters
    ----------
    recorder, variant
        What it measured.
    reason
        The end of what it wrote to stderr.
    """

    def __init__(self, recorder: str, variant: str, reason: str) -> None:
        super().__init__(recorder, variant, reason)
        self.recorder, self.variant, self.reason = recorder, variant, reason

    def __str__(self) -> str:
        return f"{self.recorder}, {self.variant}: {self.reason}"


def measure_in_new_process(job: Job) -> Measurement:
    """Run `measure` in a fresh interpreter.

    Raises
    ------
    MeasurementError
        If it fails; its folder may then hold files.
    """
    command = [sys.executable, "-m", "bench.measure", job.to_json()]
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            job.recorder, job.variant.name, f"no end after {TIMEOUT_S} s"
        ) from error
    if done.returncode != 0:
        reason = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise MeasurementError(job.recorder, job.variant.name, reason or "no message")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measure(job: Job) -> Measurement:
    """Measure one recorder in this process, check its file, and return the figures.

    Raises
    ------
    ReadBackError
        If the file does not hold what was recorded.
    """
    kind, variant = RECORDERS[job.recorder], job.variant
    recording = Recording.load(job.data)
    steps = recording.steps(variant.n_steps, variant.sample_every, dense=kind.dense)
    warm_up = steps[: max(100, variant.rows_per_megabyte)]
    raw_bytes = recording.raw_bytes(len(steps), variant.sample_every)
    _import_libraries(job.recorder)
    gc.collect()
    gc.freeze()  # else each full collection would traverse the prepared steps

    def new_recorder(name: str) -> Recorder:
        folder = job.folder / name
        folder.mkdir(parents=True)
        return _warmed_up(kind.make(folder, variant), warm_up)

    wait_until_quiet(job.quiet_s)
    reset_peak_rss()
    rss_before = rss_bytes()
    recorder = new_recorder("throughput")
    speed = _throughput(recorder, steps)
    recorded = recorder.file(TIMED)
    check_episode(recorded, recording, n_steps=len(steps), sample_every=variant.sample_every)
    fewer = steps[: max(1_000, len(steps) // LATENCY_SHARE)]
    gap_ns = round(1e9 * speed.wall_s / len(steps))
    return Measurement(
        recorder=job.recorder,
        variant=variant.name,
        n_steps=len(steps),
        raw_bytes=raw_bytes,
        file_bytes=recorded.path.stat().st_size,
        wall_s=speed.wall_s,
        logging_s=speed.logging_s,
        cpu_s=speed.cpu_s,
        foreign_cores=speed.foreign_cores,
        latency_us=_latencies_us(new_recorder("paced"), fewer, gap_ns),
        saturated_latency_us=_latencies_us(new_recorder("saturated"), fewer, 0),
        peak_rss_bytes=speed.peak_rss_bytes - rss_before,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Throughput:
    wall_s: float
    logging_s: float
    cpu_s: float
    foreign_cores: float
    peak_rss_bytes: int  # of this process and its children, not yet above any baseline


def _throughput(recorder: Recorder, steps: Sequence[Step]) -> _Throughput:
    """Record one episode at full speed, until its file is final."""
    busy, used, start = busy_cpu_s(), tree_cpu_s(), time.perf_counter()
    log = recorder.begin(TIMED)
    for step in steps:
        log(*step)
    logged = time.perf_counter()
    recorder.end()
    children_rss = sum(rss_bytes(pid, peak=True) for pid in descendants())
    recorder.finish()
    wall_s = time.perf_counter() - start
    cpu_s, busy_s = max(0.0, tree_cpu_s() - used), busy_cpu_s() - busy
    return _Throughput(
        wall_s=wall_s,
        logging_s=logged - start,
        cpu_s=cpu_s,
        foreign_cores=max(0.0, busy_s - cpu_s) / wall_s,
        peak_rss_bytes=rss_bytes(peak=True) + children_rss,
    )


def _import_libraries(recorder: str) -> None:
    if recorder.startswith("sw-"):
        import shardwriter  # noqa: F401  (only its side effect, memory, matters here)


def _warmed_up(recorder: Recorder, steps: Sequence[Step]) -> Recorder:
    """Record a first short episode and wait for its file."""
    log = recorder.begin(WARM_UP)
    for step in steps:
        log(*step)
    recorder.end()
    deadline = time.monotonic() + 30
    while not recorder.file(WARM_UP).path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return recorder


def _latencies_us(recorder: Recorder, steps: Sequence[Step], gap_ns: int) -> dict[str, float]:
    """Time each call of an episode; between calls the caller computes for `gap_ns`."""
    took_ns = _timed_calls(recorder.begin(TIMED), steps, gap_ns)
    recorder.end()
    recorder.finish()
    points = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    return {name: float(np.percentile(took_ns, q)) / 1e3 for name, q in points.items()}


def _timed_calls(log: Log, steps: Sequence[Step], gap_ns: int) -> NDArray[np.int64]:
    clock = time.perf_counter_ns
    took_ns = np.empty(len(steps), np.int64)
    for i, step in enumerate(steps):
        start = clock()
        log(*step)
        end = clock()
        took_ns[i] = end - start
        while clock() - end < gap_ns:  # the simulation computes; it does not sleep
            pass
    return took_ns


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Job.from_json(sys.argv[1])))))
