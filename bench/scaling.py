"""How does recording scale with worker processes, and who should compress?

Every worker records the same from memory, so that its simulation costs nothing and recording is all
there is. Two arrangements: each worker has a writer process, or compresses itself. Beside them the
codec alone in as many processes says what the machine permits (two hyperthreads are not two cores).
Time runs from when all workers are ready until the last shard is published.

The model: a step costs the caller c and its writer w seconds of a core, measured with one worker.
k workers on n cores with a writer each then record ``min(k / max(c, w), n / (c + w))`` steps per
second, and ``min(k, n) / s`` if they compress themselves at s per step; times what a core still
does when so many are busy (shared caches, memory, clocks), as the codec alone shows it. It is
checked against what is measured here. For more cores it is a prediction, with a core as busy as the
busiest measured here, and without a disk: what is stored per second has to fit it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from bench.data import VARIANTS, simulate
from bench.findings import Figure, Findings, Rounds, Setting, Table, figure, interleaved
from bench.machine import usable_cores
from bench.rollout import Task, run_together
from shardwriter import DataExporter

__all__ = ["ServiceTimes", "measure"]

ARRANGEMENTS = {"own": "a writer for each worker", "self": "workers compress themselves"}
CODEC = "codec"
PREDICTED_CORES = (16, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceTimes:
    """Seconds of a core that one step costs.

    Attributes
    ----------
    caller, writer
        With a writer process.
    alone
        Without.
    efficiency
        What a core does of what it does alone, by the number of busy ones; beyond the last, as
        there.
    """

    caller: float
    writer: float
    alone: float
    efficiency: dict[int, float]

    def steps_per_s(self, arrangement: str, workers: int, cores: int) -> float:
        """Return the model's throughput."""
        if arrangement == "self":
            cost = self.alone
            rate = min(workers, cores) / cost
        else:
            cost = self.caller + self.writer
            rate = min(workers / max(self.caller, self.writer), cores / cost)
        known = np.interp(rate * cost, list(self.efficiency), list(self.efficiency.values()))
        return rate * float(known)

    def best(self, cores: int) -> tuple[str, int, float]:
        """Return arrangement, workers and steps per second of the best of both, for all cores."""
        choices = [
            (arrangement, workers, self.steps_per_s(arrangement, workers, cores))
            for arrangement in ARRANGEMENTS
            for workers in range(1, cores + 1)
        ]
        return max(choices, key=lambda each: (round(each[2], 3), -each[1]))


def measure(setting: Setting) -> Findings:
    """Measure both arrangements, 1 to as many workers as there are cores, and the model."""
    variant = VARIANTS["A1k"].shortened(20 if setting.is_quick else 4)
    data = setting.folder / "data"
    recording = simulate(variant)
    recording.save(data)
    task = Task(variant=variant, data=data, episodes=1 if setting.is_quick else 4)
    cores = usable_cores()
    counts = sorted({1 << i for i in range(cores.bit_length())} | {cores})

    def action(arrangement: str, workers: int) -> Callable[[], dict[str, float]]:
        return lambda: _run(arrangement, task, workers, setting.folder)

    rounds = interleaved(
        {
            f"{arrangement} {workers}": action(arrangement, workers)
            for workers in counts
            for arrangement in [*ARRANGEMENTS, CODEC]
        },
        setting,
    )
    times = ServiceTimes(
        caller=median(each["own 1 caller_s"] for each in rounds),
        writer=median(each["own 1 writer_s"] for each in rounds),
        alone=median(each["self 1 caller_s"] for each in rounds),
        efficiency={n: median(_speedups(rounds, CODEC, n)) / n for n in counts},
    )
    step_bytes = recording.raw_bytes(variant.n_steps, 1) / variant.n_steps
    return Findings(
        figures=_figures(rounds, counts),
        tables=[_table(rounds, counts, times), _predictions(times, step_bytes)],
        series={"scaling": _series(rounds, counts, times)},
    )


def _run(arrangement: str, task: Task, workers: int, folder: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        exporter = None
        if arrangement != CODEC:
            exporter = DataExporter(
                "scaling",
                place,
                neural_sampling_rate=1,
                async_write=arrangement == "own",
                n_async_workers=1,
                progress=False,
            )
        finished = run_together(exporter, task, workers)
        if exporter is not None:
            expected = workers * (task.episodes + 1)
            shards = len(list((exporter.output_dir / "shards").glob("*.h5")))
            if shards != expected:
                raise RuntimeError(f"expected {expected} shards, got {shards}")
            exporter.close(merge=False)
    steps = workers * task.episodes * task.variant.n_steps
    span_s = max(each.ended for each in finished) - min(each.began for each in finished)
    return {
        "rate": steps / span_s,
        "caller_s": sum(each.own_cpu_s for each in finished) / steps,
        "writer_s": sum(each.writer_cpu_s for each in finished) / steps,
    }


def _speedups(rounds: Rounds, name: str, workers: int) -> list[float]:
    return [each[f"{name} {workers} rate"] / each[f"{name} 1 rate"] for each in rounds]


def _figures(rounds: Rounds, counts: list[int]) -> list[Figure]:
    found = []
    for workers in counts[1:]:
        speedups: list[dict[str, float]] = [
            {name: _speedups([each], name, workers)[0] for name in [*ARRANGEMENTS, CODEC]}
            for each in rounds
        ]
        found += [
            figure(
                f"scaling/{arrangement}/{workers}",
                f"A1k: {workers} workers / 1, {label}",
                speedups,
                arrangement,
                "x",
                ceiling=(CODEC, f"codec alone, {workers} processes / 1"),
            )
            for arrangement, label in ARRANGEMENTS.items()
        ]
    most = counts[-1]
    found += [
        figure(
            f"scaling/rate/{arrangement}",
            f"A1k: {most} workers, {label}",
            rounds,
            f"{arrangement} {most} rate",
            "steps/s",
            ceiling=(f"{CODEC} {most} rate", f"codec alone, {most} processes"),
        )
        for arrangement, label in ARRANGEMENTS.items()
    ]
    return found


def _table(rounds: Rounds, counts: list[int], times: ServiceTimes) -> Table:
    rows = []
    for arrangement, label in ARRANGEMENTS.items():
        for workers in counts:
            rate = median(each[f"{arrangement} {workers} rate"] for each in rounds)
            model = times.steps_per_s(arrangement, workers, usable_cores())
            speedup = median(_speedups(rounds, arrangement, workers))
            permitted = median(_speedups(rounds, CODEC, workers))
            cells = [f"{rate:,.0f}", f"{speedup:.2f}", f"{permitted:.2f}"]
            rows.append([label, str(workers), *cells, f"{model:,.0f}", f"{rate / model:.2f}"])
    columns = ["arrangement", "workers", "steps/s", "x 1 worker", "codec alone x 1 worker"]
    return Table(
        title=f"Scaling on {usable_cores()} cores, and the model",
        columns=[*columns, "model steps/s", "measured / model"],
        rows=rows,
    )


def _predictions(times: ServiceTimes, step_bytes: float) -> Table:
    rows = []
    for cores in sorted({usable_cores(), *PREDICTED_CORES}):
        arrangement, workers, rate = times.best(cores)
        rates = [times.steps_per_s(name, cores, cores) for name in ARRANGEMENTS]
        rows.append(
            [
                str(cores),
                *(f"{each:,.0f}" for each in rates),
                f"{ARRANGEMENTS[arrangement]}, {workers} workers: {rate:,.0f}",
                f"{rate * step_bytes / 1e6:,.0f}",
            ]
        )
    costs = f"caller {times.caller * 1e6:.1f}, writer {times.writer * 1e6:.1f}, both in one "
    costs += f"{times.alone * 1e6:.1f} us of a core per step"
    return Table(
        title=f"Predicted, not measured, from service times ({costs}); workers = cores",
        columns=[
            "cores",
            f"{ARRANGEMENTS['own']}, steps/s",
            f"{ARRANGEMENTS['self']}, steps/s",
            "best",
            "MB/s raw",
        ],
        rows=rows,
    )


def _series(
    rounds: Rounds, counts: list[int], times: ServiceTimes
) -> dict[str, dict[str, list[float]]]:
    series = {
        label: {
            "workers": [float(n) for n in counts],
            "measured": [
                median(each[f"{arrangement} {n} rate"] for each in rounds) for n in counts
            ],
            "model": [times.steps_per_s(arrangement, n, usable_cores()) for n in counts],
        }
        for arrangement, label in ARRANGEMENTS.items()
    }
    permitted = [median(_speedups(rounds, CODEC, n)) for n in counts]
    return series | {"codec alone": {"workers": [float(n) for n in counts], "speedup": permitted}}
