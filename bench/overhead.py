"""What checking and profiling add to a call, and whether compression slows the caller.

    python -m bench.overhead [--quick]

First question: the CPU time of ``log_timestep`` with ``validate_data`` and with
``enable_profiling``, each against neither. All three log the same steps in turn, block by block,
in a new order each round; the figure is the median over rounds of the ratio in one round, so that
a machine that is busy with other things hurts all alike.

Second question: the wall time of small calls while writer processes compress slots of 20 MB,
against calls while nothing is compressed, again in turn; and beside it the one call that has to
compress such a slot itself, with ``async_write=False``.

Exits with 1 where an overhead exceeds what the documentation promises (not with ``--quick``).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import VARIANTS, Step, simulate
from bench.machine import Machine, disk_folder
from bench.tables import markdown
from shardwriter import DataExporter
from shardwriter.episode import Episode

MODES: dict[str, dict[str, Any]] = {
    "neither": {},
    "validation": {"validate_data": True},
    "profiling": {"enable_profiling": True},
}
BOUNDS = {"validation": 1.10, "profiling": 1.05}
WIDE = 5_000_000  # float32: a row, and so a slot, of 20 MB
SMALL_BLOCK = 500


@contextmanager
def recording(folder: Path, name: str, **options: Any) -> Iterator[Episode]:
    """Open an episode of an experiment of its own."""
    options = {"validate_data": False, "async_write": True, "n_async_workers": 1} | options
    with (
        DataExporter(name, folder, progress=False, **options) as exporter,
        exporter.start_episode() as episode,
    ):
        yield episode


def log_ids(episode: Episode, steps: list[Step], first: int) -> float:
    """Log some steps whose spikes are ids; return the CPU seconds that it took here."""
    start = time.process_time()
    for timestep, (_, potentials, spikes, position, velocity, reward) in enumerate(steps, first):
        episode.log_timestep(
            timestep,
            {"membrane_potential": potentials},
            None,
            {"position": position, "velocity": velocity},
            reward,
            spike_ids=spikes,
        )
    return time.process_time() - start


def log_dense(episode: Episode, steps: list[Step], first: int) -> float:
    """Log some steps whose spikes are vectors; return the CPU seconds that it took here."""
    start = time.process_time()
    for timestep, (_, potentials, spikes, position, velocity, reward) in enumerate(steps, first):
        episode.log_timestep(
            timestep,
            {"membrane_potential": potentials},
            spikes,
            {"position": position, "velocity": velocity},
            reward,
        )
    return time.process_time() - start


def overheads(folder: Path, rounds: int, divisor: int) -> tuple[list[list[str]], bool]:
    """Measure validation and profiling on three shapes of the workload."""
    rows = []
    is_good = True
    for name, dense in (("B1k", False), ("B1k", True), ("A1k", False)):
        variant = VARIANTS[name].shortened(20 * divisor)
        steps = simulate(variant).steps(variant.n_steps, variant.sample_every, dense=dense)
        seconds = _blocks(folder, steps, variant.sample_every, rounds, dense=dense)
        base = np.array(seconds["neither"])
        what = f"{name}, spikes {'(N,)' if dense else 'by id'}"
        cells = [f"{np.median(base) / len(steps) * 1e6:.1f}"]
        for mode, bound in BOUNDS.items():
            ratios = np.array(seconds[mode]) / base
            low, middle, high = np.percentile(ratios, (25, 50, 75)) - 1
            is_good = is_good and 1 + middle <= bound
            cells.append(f"{middle:+.1%} ({low:+.1%} to {high:+.1%})")
        rows.append([what, *cells])
    return rows, is_good


def _blocks(
    folder: Path, steps: list[Step], sampling: int, rounds: int, *, dense: bool
) -> dict[str, list[float]]:
    order = random.Random(1)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    with ExitStack() as stack:
        episodes = {
            mode: stack.enter_context(
                recording(folder, mode, neural_sampling_rate=sampling, **options)
            )
            for mode, options in MODES.items()
        }
        for i in range(rounds + 1):
            for mode in order.sample(list(MODES), len(MODES)):
                log = log_dense if dense else log_ids
                taken = log(episodes[mode], steps, i * len(steps))
                if i:  # the first round makes the tables
                    seconds[mode].append(taken)
    return seconds


def compression_beside_calls(folder: Path, rounds: int) -> list[list[str]]:
    """Time small calls while nothing, and while slots of 20 MB, are being compressed."""
    wide = np.random.default_rng(0).standard_normal(WIDE, np.float32)
    small = {"x": np.zeros(3, np.float32)}
    own_s = _compressing_call_s(folder, wide)
    idle: list[float] = []
    busy: list[float] = []
    options = {"neural_sampling_rate": 1, "max_memory_mb": 2_000}
    with recording(folder, "beside", **options) as episode:
        timestep = 0
        for _ in range(rounds):
            time.sleep(3 * own_s)  # until nothing is left to compress
            for times in (idle, busy):
                if times is busy:
                    episode.log_timestep(timestep, {"wide": wide})
                deadline = time.perf_counter() + 0.7 * own_s
                while time.perf_counter() < deadline:
                    timestep += 1
                    start = time.perf_counter()
                    episode.log_timestep(timestep, behavior=small)
                    times.append(time.perf_counter() - start)
    rows = []
    for name, times in (("nothing is compressed", idle), ("20 MB are compressed", busy)):
        p50, p99 = np.percentile(np.array(times) * 1e6, (50, 99))
        rows.append([name, f"{len(times):,}", f"{p50:.2f}", f"{p99:.1f}"])
    ratio = np.median(busy) / np.median(idle)
    rows.append(["ratio of the medians", "", f"{ratio:.3f}", ""])
    rows.append(["the call that compresses, async_write=False", "1", f"{own_s * 1e6:,.0f}", ""])
    return rows


def _compressing_call_s(folder: Path, wide: np.ndarray[Any, Any]) -> float:
    options = {"neural_sampling_rate": 1, "async_write": False, "max_memory_mb": 2_000}
    with recording(folder, "own", **options) as episode:
        episode.log_timestep(0, {"wide": wide})
        times = []
        for timestep in (1, 2, 3):
            start = time.perf_counter()
            episode.log_timestep(timestep, {"wide": wide})
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> int:
    parser = argparse.ArgumentParser(description="What validation, profiling, compression cost.")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--folder", type=Path, help="where to record")
    options = parser.parse_args()
    rounds, divisor = (3, 4) if options.quick else (41, 1)
    place = disk_folder(options.folder)
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        print(f"Machine: {Machine.here(folder)}\n")
        rows, is_good = overheads(folder, rounds, divisor)
        titles = ["workload", "neither (µs/call)", "validation", "profiling"]
        print(markdown(titles, rows))
        beside = compression_beside_calls(folder, 2 if options.quick else 15)
        print(f"\n{markdown(['small calls while', 'calls', 'median (µs)', 'p99 (µs)'], beside)}")
    return 0 if is_good or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
