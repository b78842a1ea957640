"""One measurement: one recorder, one variant, in a process of its own.

Invariant: nothing is timed that a recorder does not do. Data are loaded, arguments built, libraries
imported and a first episode recorded (so that a writer process is up) beforehand.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.data import Recording, Step, Variant, simulate
from bench.findings import BUSY_CORES, Setting
from bench.machine import busy_cpu_s, tree_cpu_s, wait_until_quiet
from bench.readback import check_episode
from bench.recorder import Recorder, stored_bytes
from bench.recorders import RECORDERS

__all__ = ["Job", "Measurement", "MeasurementError", "measure_rounds", "warmed_up"]

WARM_UP, TIMED = 0, 1  # episode ids
TIMEOUT_S = 300


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
    cpu_s
        CPU time of the recorder and its processes meanwhile.
    foreign_cores
        CPU that other processes used meanwhile, in cores.
    """

    n_steps: int
    raw_bytes: int
    file_bytes: int
    wall_s: float
    cpu_s: float
    foreign_cores: float

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


Measured = dict[str, Measurement | str]
"""By recorder, what was measured in one round, or why not."""


def measure_rounds(
    variant: Variant, recorders: Iterable[str], setting: Setting
) -> list[dict[str, Measurement | str]]:
    """Measure every recorder in every round, in an order that is shuffled anew each time.

    One that fails once is not tried again: its text is in every round.
    """
    data = setting.folder / f"data-{variant.name}"
    simulate(variant).save(data)
    failed: dict[str, str] = {}
    rounds: list[Measured] = []
    for number in range(setting.rounds):
        measured: Measured = {}
        for name in random.Random(number).sample(list(recorders), len(list(recorders))):
            if name not in failed:
                try:
                    measured[name] = _measure(variant, name, data, setting)
                except MeasurementError as error:
                    failed[name] = error.reason
        rounds.append(measured | failed)
    return rounds


def _measure(variant: Variant, name: str, data: Path, setting: Setting) -> Measurement:
    shorter = replace(variant, n_steps=max(100, variant.n_steps // RECORDERS[name].divisor))
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=setting.folder) as place:
        job = Job(
            recorder=name,
            variant=shorter,
            data=data,
            folder=Path(place),
            quiet_s=setting.quiet_s,
        )
        return _in_new_process(job)


def _in_new_process(job: Job) -> Measurement:
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
        reason = "\n".join(done.stderr.strip().splitlines()[-1:])
        raise MeasurementError(job.recorder, job.variant.name, reason or "no message")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measure(job: Job) -> Measurement:
    """Measure one recorder in this process, check its file, and return the figures.

    Raises
    ------
    ReadBackError
        If the file does not hold what was recorded.
    """
    variant = job.variant
    recording = Recording.load(job.data)
    steps = recording.steps(variant.n_steps, variant.sample_every)
    gc.collect()
    gc.freeze()  # else each full collection would traverse the prepared steps
    recorder = warmed_up(RECORDERS[job.recorder].make(job.folder, variant), steps, variant)
    wait_until_quiet(job.quiet_s)
    busy, used, start = busy_cpu_s(), tree_cpu_s(), time.perf_counter()
    log = recorder.begin(TIMED)
    for step in steps:
        log(*step)
    recorder.end()
    recorder.finish()
    wall_s = time.perf_counter() - start
    cpu_s, busy_s = max(0.0, tree_cpu_s() - used), busy_cpu_s() - busy
    recorder.close()
    check_episode(recorder, TIMED, recording, n_steps=len(steps), sample_every=variant.sample_every)
    return Measurement(
        n_steps=len(steps),
        raw_bytes=recording.raw_bytes(len(steps), variant.sample_every),
        file_bytes=stored_bytes(recorder.path(TIMED)),
        wall_s=wall_s,
        cpu_s=cpu_s,
        foreign_cores=max(0.0, busy_s - cpu_s) / wall_s,
    )


def warmed_up(recorder: Recorder, steps: Sequence[Step], variant: Variant) -> Recorder:
    """Record a first short episode and wait for its file."""
    log = recorder.begin(WARM_UP)
    for step in steps[: max(100, variant.rows_per_megabyte)]:
        log(*step)
    recorder.end()
    recorder.finish()
    return recorder


def quiet(rounds: Sequence[Measured], *names: str) -> list[dict[str, Measurement]]:
    """Return the rounds in which all these were measured, and undisturbed where there are such."""
    whole = []
    for each in rounds:
        found = {name: m for name in names if isinstance(m := each.get(name), Measurement)}
        if len(found) == len(names):
            whole.append(found)
    calm = [by for by in whole if all(m.foreign_cores <= BUSY_CORES for m in by.values())]
    return calm or whole


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Job.from_json(sys.argv[1])))))
