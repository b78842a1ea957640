"""How fast does one process record, and what does its simulation feel of it?

Run ``python -m bench.record`` (``--quick`` for a few seconds). Each measurement is a process of its
own; rounds are interleaved, ratios are taken within a round, and the table shows medians over the
rounds. The ceiling, a raw ``write()`` of the same bytes, and h5py as peers use it run beside
shardwriter in every round; see `bench.recorders` for what each row does.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from bench.data import VARIANTS, Variant, simulate
from bench.machine import Machine, disk_folder
from bench.measure import Job, Measurement, measure_in_new_process
from bench.recorders import RECORDERS
from bench.tables import markdown

__all__ = ["main", "measure_all", "table"]

CEILING, PEER = "raw", "h5py-gzip"
QUICK_DIVISOR = 10
BUSY_CORES = 0.3

Rounds = list[dict[str, Measurement]]
"""One mapping from recorder to measurement per round, all of one variant."""


def measure_all(
    variants: Iterable[Variant],
    recorders: Iterable[str],
    *,
    rounds: int,
    folder: Path,
    quiet_s: float,
) -> dict[str, Rounds]:
    """Measure every recorder with every variant, interleaved.

    Parameters
    ----------
    variants, recorders
        What to measure.
    rounds
        How often; the order within a round is shuffled.
    folder
        An existing folder for data and files.
    quiet_s
        How long each measurement waits for a quiet machine at most.

    Returns
    -------
    dict
        The rounds of each variant, by its name.

    Raises
    ------
    MeasurementError
        If a recorder fails or its file does not hold what was recorded.
    """
    variants, recorders = list(variants), list(recorders)
    for variant in variants:
        _tell(f"simulating {variant.name}")
        simulate(variant).save(folder / f"data-{variant.name}")
    results: dict[str, Rounds] = {variant.name: [{} for _ in range(rounds)] for variant in variants}
    for number in range(rounds):
        jobs = [(variant, name) for variant in variants for name in recorders]
        random.Random(number).shuffle(jobs)
        for variant, name in jobs:
            _tell(f"round {number + 1} of {rounds}: {variant.name} {RECORDERS[name].label}")
            results[variant.name][number][name] = _measure(variant, name, folder, quiet_s)
    _tell("")
    return results


def _measure(variant: Variant, name: str, folder: Path, quiet_s: float) -> Measurement:
    shortened = replace(variant, n_steps=max(100, variant.n_steps // RECORDERS[name].divisor))
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as place:
        job = Job(
            recorder=name,
            variant=shortened,
            data=folder / f"data-{variant.name}",
            folder=Path(place),
            quiet_s=quiet_s,
        )
        return measure_in_new_process(job)


def table(rounds: Rounds) -> list[dict[str, Any]]:
    """Reduce the rounds of one variant to medians, one row per recorder.

    Ratios to the ceiling and to the peer are taken within each round first. Measurements that
    other processes disturbed do not count, where there are undisturbed ones.
    """
    return [_row(name, rounds) for name in rounds[0]]


def _row(name: str, rounds: Rounds) -> dict[str, Any]:
    def middle(figure: Callable[[Measurement], float]) -> float:
        return median(figure(by_name[name]) for by_name in _quiet(rounds, name))

    def ratio_to(other: str) -> float | None:
        if other not in rounds[0]:
            return None
        both = _quiet(rounds, name, other)
        return median(by[name].steps_per_s / by[other].steps_per_s for by in both)

    return {
        "recorder": name,
        "label": RECORDERS[name].label,
        "steps_per_s": middle(lambda m: m.steps_per_s),
        "mb_per_s": middle(lambda m: m.mb_per_s),
        "size_ratio": middle(lambda m: m.size_ratio),
        "times_h5py_gzip": ratio_to(PEER),
        "share_of_raw_write": ratio_to(CEILING),
        "p50_us": middle(lambda m: m.latency_us["p50"]),
        "p99_us": middle(lambda m: m.latency_us["p99"]),
        "p99.9_us": middle(lambda m: m.latency_us["p99.9"]),
        "cpu_us_per_step": middle(lambda m: 1e6 * m.cpu_s / m.n_steps),
        "peak_rss_mb": middle(lambda m: m.peak_rss_bytes / 1e6),
        "foreign_cores": middle(lambda m: m.foreign_cores),
        "n_quiet_rounds": len(_quiet(rounds, name)),
    }


def _quiet(rounds: Rounds, *names: str) -> Rounds:
    """Leave out rounds in which other processes were busy, unless none would be left."""
    chosen = [by for by in rounds if all(by[n].foreign_cores <= BUSY_CORES for n in names)]
    return chosen or rounds


COLUMNS: list[tuple[str, str, Callable[[Any], str]]] = [
    ("label", "recorder", str),
    ("steps_per_s", "steps/s", lambda x: f"{x:,.0f}"),
    ("mb_per_s", "MB/s", lambda x: f"{x:,.1f}" if x < 100 else f"{x:,.0f}"),
    ("size_ratio", "file/raw", lambda x: f"{x:.3f}"),
    ("times_h5py_gzip", "x h5py gzip", lambda x: "-" if x is None else f"{x:.2f}"),
    ("share_of_raw_write", "% of write()", lambda x: "-" if x is None else f"{100 * x:.1f}"),
    ("p50_us", "p50 us", lambda x: f"{x:,.1f}"),
    ("p99_us", "p99 us", lambda x: f"{x:,.1f}"),
    ("p99.9_us", "p99.9 us", lambda x: f"{x:,.1f}"),
    ("cpu_us_per_step", "CPU us/step", lambda x: f"{x:,.1f}"),
    ("peak_rss_mb", "peak RSS MB", lambda x: f"{x:,.0f}"),
]


def spell(variant: Variant, rows: list[dict[str, Any]]) -> str:
    """Spell one variant's rows as a Markdown table, fastest last."""
    ordered = sorted(rows, key=lambda row: row["steps_per_s"])
    cells = [[show(row[key]) for key, _, show in COLUMNS] for row in ordered]
    title = (
        f"{variant.name}: {variant.n_neurons:,} neurons, potentials every "
        f"{variant.sample_every} steps, {variant.n_steps:,} steps"
    )
    busy = [row["recorder"] for row in rows if row["foreign_cores"] > BUSY_CORES]
    note = f"\n\nDisturbed (others used > {BUSY_CORES} cores): {', '.join(busy)}" if busy else ""
    return f"\n{title}\n\n{markdown([title for _, title, _ in COLUMNS], cells)}{note}"


NOTES = """
Medians over rounds; ratios within a round. Time runs from the start of an episode until its file is
final, with a writer process already up, without a merge. MB/s counts raw bytes, without timesteps.
us: one call, in a pass of its own in which the simulation computes as long again between calls.
Peak RSS: above the baseline before recording, plus all of each writer process; shared pages count
twice. Slow recorders record fewer steps. Every HDF5 file was read back and compared."""


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variants", help=f"default: all of {','.join(VARIANTS)}")
    parser.add_argument("--recorders", help=f"default: all of {','.join(RECORDERS)}")
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="A1k only, a tenth of the steps")
    parser.add_argument("--quiet-s", type=float, help="wait so long for a quiet machine; 4, or 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--dir", type=Path, help="where to record, on the disk to be measured")
    options = parser.parse_args(argv)
    options.variants = _chosen(parser, options.variants, VARIANTS, ["A1k"] if options.quick else [])
    options.recorders = _chosen(parser, options.recorders, RECORDERS, [])
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.quiet_s is None:
        options.quiet_s = 0.0 if options.quick else 4.0
    return options


def _chosen(
    parser: argparse.ArgumentParser, given: str | None, known: Iterable[str], default: list[str]
) -> list[str]:
    names = given.split(",") if given else default or list(known)
    unknown = set(names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names


def main(argv: list[str] | None = None) -> int:
    """Measure, print the tables, and return the exit code."""
    options = _arguments(argv)
    variants = [VARIANTS[name] for name in options.variants]
    if options.quick:
        variants = [variant.shortened(QUICK_DIVISOR) for variant in variants]
    folder = Path(tempfile.mkdtemp(prefix="shardwriter-bench-", dir=disk_folder(options.dir)))
    try:
        machine = Machine.here(folder)
        results = measure_all(
            variants,
            options.recorders,
            rounds=options.rounds,
            folder=folder,
            quiet_s=options.quiet_s,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(machine)
    tables = {variant.name: table(results[variant.name]) for variant in variants}
    for variant in variants:
        print(spell(variant, tables[variant.name]))
    print(NOTES)
    if options.json:
        measurements = {
            name: [{key: m.as_dict() for key, m in by_name.items()} for by_name in rounds]
            for name, rounds in results.items()
        }
        report = {"machine": machine.as_dict(), "summary": tables, "rounds": measurements}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
