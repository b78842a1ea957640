"""How does recording scale with worker processes?

Run ``python -m bench.scaling`` (``--quick`` for a few seconds). Every worker does the same work, so
ideally k workers record k times as many steps per second. Two loads are measured: "replay", whose
simulation costs nothing, so that recording is all there is; and "simulate", which steps a real LIF
network in NumPy. Time runs from the moment when all workers are ready until the last shard is
published. Rounds are interleaved, efficiencies taken within a round, medians shown.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from bench.data import VARIANTS, Variant, simulate
from bench.machine import (
    Machine,
    busy_cpu_s,
    disk_folder,
    tree_cpu_s,
    usable_cores,
    wait_until_quiet,
)
from bench.plots import plot_scaling
from bench.rollout import Rollout, simulation_cost_us
from bench.tables import markdown

__all__ = ["LOADS", "Load", "ScalingPoint", "main", "measure_all", "summarise"]

QUICK_DIVISOR = 10
BUSY_CORES = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What each worker does.

    Attributes
    ----------
    live
        Simulate while recording, instead of replaying from memory.
    n_episodes
        Episodes of each worker.
    divisor
        Each episode has so many times fewer steps than the variant.
    """

    label: str
    live: bool
    n_episodes: int
    divisor: int


LOADS: dict[str, Load] = {
    "replay": Load(label="replay (simulation costs nothing)", live=False, n_episodes=4, divisor=2),
    "simulate": Load(label="simulate (LIF network, NumPy)", live=True, n_episodes=4, divisor=8),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingPoint:
    """One run with one number of workers.

    Attributes
    ----------
    span_s
        From when all workers were ready until the last shard was published.
    recording_s
        Of that, until the last rollout ended; the rest is waiting for writers.
    cpu_cores, foreign_cores
        CPU used by this run and by other processes meanwhile, in cores. Both include the start and
        the end of the processes, unlike the times.
    """

    load: str
    n_workers: int
    n_steps: int
    raw_bytes: int
    span_s: float
    recording_s: float
    cpu_cores: float
    foreign_cores: float

    @property
    def steps_per_s(self) -> float:
        """Steps recorded per second by all workers together."""
        return self.n_steps / self.span_s


Rounds = list[dict[tuple[str, int], ScalingPoint]]
"""One mapping from (load, workers) to point per round."""


def measure_all(
    variant: Variant,
    loads: Iterable[str],
    workers: Iterable[int],
    *,
    rounds: int,
    folder: Path,
    quiet_s: float,
) -> Rounds:
    """Measure each load with each number of workers, interleaved.

    Parameters
    ----------
    variant, loads, workers, rounds
        What to measure, and how often.
    folder
        An existing folder on the disk to be measured; what is recorded is deleted at once.
    quiet_s
        How long each measurement waits for a quiet machine at most.
    """
    recording = simulate(variant)
    recording.save(folder / "data")
    keys = [(load, n) for load in loads for n in workers]
    results: Rounds = []
    for number in range(rounds):
        points: dict[tuple[str, int], ScalingPoint] = {}
        for load, n_workers in random.Random(number).sample(keys, len(keys)):
            chosen = LOADS[load]
            shorter = replace(variant, n_steps=max(100, variant.n_steps // chosen.divisor))
            raw_bytes = recording.raw_bytes(shorter.n_steps, shorter.sample_every)
            wait_until_quiet(quiet_s)
            points[load, n_workers] = _measure(
                load, shorter, n_workers, raw_bytes=raw_bytes, folder=folder
            )
        results.append(points)
    return results


def _measure(
    load: str, variant: Variant, n_workers: int, *, raw_bytes: int, folder: Path
) -> ScalingPoint:
    n_episodes = LOADS[load].n_episodes * n_workers
    with tempfile.TemporaryDirectory(prefix=f"{load}-{n_workers}-", dir=folder) as place:
        meeting = Path(place) / "meeting"
        meeting.mkdir()
        rollout = Rollout(
            variant=variant,
            data=folder / "data",
            meeting=meeting,
            n_workers=n_workers,
            live=LOADS[load].live,
        )
        busy, used = busy_cpu_s(), tree_cpu_s()
        began, ended, published = _run(rollout, Path(place), n_episodes, n_workers)
        cpu_s, busy_s = tree_cpu_s() - used, busy_cpu_s() - busy
    span_s = published - began
    return ScalingPoint(
        load=load,
        n_workers=n_workers,
        n_steps=n_episodes * variant.n_steps,
        raw_bytes=n_episodes * raw_bytes,
        span_s=span_s,
        recording_s=ended - began,
        cpu_cores=cpu_s / span_s,
        foreign_cores=max(0.0, busy_s - cpu_s) / span_s,
    )


def _run(
    rollout: Rollout, folder: Path, n_episodes: int, n_workers: int
) -> tuple[float, float, float]:
    """Record, and return when recording began, when it ended, and when all was published."""
    from shardwriter import DataExporter

    exporter = DataExporter(
        "bench",
        folder,
        neural_sampling_rate=rollout.variant.sample_every,
        compression="gzip",
        compression_level=4,
        async_write=True,
        progress=False,
    )
    results = exporter.run_episodes(rollout, range(n_episodes), n_workers=n_workers)
    exporter.close(merge=False)
    summaries = [result.summary for result in results if result.summary is not None]
    shards = [result.shard for result in results if result.shard is not None]
    if not len(summaries) == len(shards) == n_episodes:
        raise RuntimeError(f"expected {n_episodes} shards, got {len(shards)}")
    published = max(shard.stat().st_ctime for shard in shards)
    return (
        min(float(summary["began"]) for summary in summaries),
        max(float(summary["ended"]) for summary in summaries),
        published,
    )


def summarise(rounds: Rounds) -> list[dict[str, Any]]:
    """Reduce the rounds to medians, a row per load and number of workers.

    Measurements that other processes disturbed do not count, where there are undisturbed ones.
    """
    rows = []
    for load, n_workers in sorted(rounds[0]):
        key = (load, n_workers)
        fewest = min(n for name, n in rounds[0] if name == load)
        points = [by_key[key] for by_key in _quiet(rounds, key)]
        speedups = [
            by_key[key].steps_per_s / by_key[load, fewest].steps_per_s * fewest
            for by_key in _quiet(rounds, key, (load, fewest))
        ]
        rows.append(
            {
                "load": load,
                "n_workers": n_workers,
                "steps_per_s": median(p.steps_per_s for p in points),
                "mb_per_s": median(p.raw_bytes / p.span_s / 1e6 for p in points),
                "speedup": median(speedups),
                "efficiency": median(speedups) / n_workers,
                "waiting_share": median(1 - p.recording_s / p.span_s for p in points),
                "foreign_cores": median(p.foreign_cores for p in points),
            }
        )
    return rows


def _quiet(rounds: Rounds, *keys: tuple[str, int]) -> Rounds:
    chosen = [by for by in rounds if all(by[key].foreign_cores <= BUSY_CORES for key in keys)]
    return chosen or rounds


def spell(rows: list[dict[str, Any]]) -> str:
    """Spell the summary as a Markdown table."""
    titles = ["load", "workers", "steps/s", "MB/s", "x 1 worker", "efficiency %", "waiting %"]
    cells = [
        [
            row["load"],
            str(row["n_workers"]),
            f"{row['steps_per_s']:,.0f}",
            f"{row['mb_per_s']:,.0f}",
            f"{row['speedup']:.2f}",
            f"{100 * row['efficiency']:.0f}",
            f"{100 * row['waiting_share']:.0f}",
        ]
        for row in rows
    ]
    busy = [f"{r['load']} {r['n_workers']}" for r in rows if r["foreign_cores"] > BUSY_CORES]
    note = f"\n\nDisturbed (others used > {BUSY_CORES} cores): {', '.join(busy)}" if busy else ""
    return markdown(titles, cells) + note


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", help="e.g. 1,2,4; default: 1, 2, 4 … up to the cores")
    parser.add_argument("--loads", default=",".join(LOADS), help="default: %(default)s")
    parser.add_argument("--variant", default="A1k", choices=VARIANTS)
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--quiet-s", type=float, help="wait so long for a quiet machine; 4, or 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a PNG (needs matplotlib)")
    parser.add_argument("--dir", type=Path, help="where to record, on the disk to be measured")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 3)
    if options.quiet_s is None:
        options.quiet_s = 0.0 if options.quick else 4.0
    options.loads = options.loads.split(",")
    if not set(options.loads) <= set(LOADS):
        parser.error(f"--loads: expected some of {', '.join(LOADS)}")
    cores = usable_cores()
    given = options.workers or ",".join(str(n) for n in sorted({*_powers_of_two(cores), cores}))
    options.workers = sorted({int(n) for n in given.split(",")})
    return options


def _powers_of_two(limit: int) -> list[int]:
    return [1 << i for i in range(limit.bit_length())]


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, draw, and return the exit code."""
    options = _arguments(argv)
    variant = VARIANTS[options.variant]
    if options.quick:
        variant = variant.shortened(QUICK_DIVISOR)
    folder = Path(tempfile.mkdtemp(prefix="shardwriter-bench-", dir=disk_folder(options.dir)))
    try:
        machine = Machine.here(folder)
        cost_us = simulation_cost_us(variant.n_neurons)
        rounds = measure_all(
            variant,
            options.loads,
            options.workers,
            rounds=options.rounds,
            folder=folder,
            quiet_s=options.quiet_s,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = summarise(rounds)
    print(machine)
    print(f"\n{variant.name}, gzip; a simulated step costs {cost_us:.0f} us without recording\n")
    print(spell(rows))
    if options.json:
        points = [[asdict(point) for point in by_key.values()] for by_key in rounds]
        report = {
            "machine": machine.as_dict(),
            "variant": variant.name,
            "simulation_cost_us": cost_us,
            "summary": rows,
            "rounds": points,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        labels = {name: load.label for name, load in LOADS.items()}
        plot_scaling(rows, labels, options.plot, title=f"{variant.name}, {machine.cpu}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
