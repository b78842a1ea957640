"""Does one call for N episodes keep up with one episode's calls?

    python -m bench.vectorised [--quick]

Recorded through one writer process: episodes one after the other by ``log_timestep``, and 8 or 64
of the same length side by side by ``log_timesteps``, whose arrays have a leading axis of episodes.
Every step is 1,000 float32 potentials, a spike vector, two float32[3] and a reward, as in the
variant A1k of `bench.data`. All ways are measured in turn, in a new order each round; figures are
medians over the rounds, and ratios are taken within a round. The goal is 70 % of the throughput
per byte of one episode at a time.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import VARIANTS, Recording, simulate
from bench.machine import Machine, disk_folder
from bench.tables import markdown
from shardwriter import DataExporter
from shardwriter.recording.batch import EpisodeBatch
from shardwriter.recording.episode import Episode

SINGLE, WIDTHS = 1, (8, 64)
SEQUENCE = 8  # single episodes, one after the other

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Costs:
    """What one step of one episode costs: the wall's time, and this process's CPU."""

    wall_s: float
    cpu_s: float


def log_single(episode: Episode, data: Recording, fired: Bools, steps: int) -> None:
    """Log steps of one episode, one call each."""
    rows = len(data.potentials)
    for t in range(steps):
        i = t % rows
        episode.log_timestep(
            t,
            {"membrane_potential": data.potentials[i]},
            fired[i],
            {"position": data.position[i], "velocity": data.velocity[i]},
            data.reward[i],
        )


def log_batch(batch: EpisodeBatch, data: Recording, fired: Bools, steps: int) -> None:
    """Log so many steps of each episode."""
    width = len(batch)
    rows = len(data.potentials) - width
    for t in range(steps):
        part = slice(t * width % rows, t * width % rows + width)
        batch.log_timesteps(
            t,
            {"membrane_potential": data.potentials[part]},
            fired[part],
            {"position": data.position[part], "velocity": data.velocity[part]},
            data.reward[part],
        )


def measure(folder: Path, data: Recording, fired: Bools, steps: int, width: int) -> Costs:
    """Record episodes of so many steps; return the cost of a step."""
    options: dict[str, Any] = {"async_write": True, "n_async_workers": 1}
    with DataExporter(
        "vectorised", folder, progress=False, neural_sampling_rate=1, **options
    ) as exporter:
        with exporter.start_episode(10**6) as warm_up:
            log_single(warm_up, data, fired, 2_000)
        warm_up.wait()
        begin, cpu = time.perf_counter(), time.process_time()
        opened: list[Episode] = []
        if width == SINGLE:
            for _ in range(SEQUENCE):
                with exporter.start_episode() as episode:
                    log_single(episode, data, fired, steps)
                opened.append(episode)
        else:
            with exporter.start_episodes(count=width) as batch:
                log_batch(batch, data, fired, steps)
            opened = list(batch)
        for episode in opened:
            episode.wait()
        total = steps * len(opened)
        seconds = time.perf_counter() - begin, time.process_time() - cpu
        exporter.close(merge=False)
    return Costs(wall_s=seconds[0] / total, cpu_s=seconds[1] / total)


def row(name: str, costs: list[Costs], single: list[Costs], step_mb: float) -> list[str]:
    """Reduce the rounds of one way to medians."""
    wall = median(cost.wall_s for cost in costs)
    return [
        name,
        f"{1 / wall:,.0f}",
        f"{step_mb / wall:,.0f}",
        f"{median(one.wall_s / cost.wall_s for one, cost in zip(single, costs, strict=True)):.2f}",
        f"{median(cost.cpu_s for cost in costs) * 1e6:.1f}",
        f"{median(one.cpu_s / cost.cpu_s for one, cost in zip(single, costs, strict=True)):.2f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure batches of episodes against one.")
    parser.add_argument("--quick", action="store_true", help="a few seconds; figures mean nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to record")
    options = parser.parse_args()
    rounds, steps = (1, 500) if options.quick else (options.rounds, 4_000)
    data = simulate(VARIANTS["A1k"].shortened(20))
    fired = np.zeros(data.potentials.shape, bool)
    for i, bounds in enumerate(pairwise(data.spike_offsets[: len(fired) + 1].tolist())):
        fired[i, data.spike_ids[slice(*bounds)]] = True
    folder = disk_folder(options.folder)
    results: dict[int, list[Costs]] = {width: [] for width in (SINGLE, *WIDTHS)}
    for number in range(rounds):
        order = list(results)
        random.Random(number).shuffle(order)
        for width in order:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                results[width].append(measure(Path(place), data, fired, steps, width))
    step_mb = data.raw_bytes(steps, 1) / steps / 1e6
    names = {SINGLE: "log_timestep, one episode at a time"} | {
        width: f"log_timesteps, {width} episodes" for width in WIDTHS
    }
    rows = [row(names[width], found, results[SINGLE], step_mb) for width, found in results.items()]
    titles = ["", "steps/s", "MB/s", "x single", "CPU us/step, caller", "x single, CPU"]
    print(Machine.here(folder))
    print(f"\nEpisodes of {steps:,} steps, {rounds} rounds\n\n{markdown(titles, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
