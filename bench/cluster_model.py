"""What would a thousand workers on a hundred nodes do to a shared file system?

    python -m bench.cluster_model [--quick]

A discrete-event model, fed by what is measured here: the time that an episode costs its worker
beyond its simulation, the bytes of a shard and of its entry in the master, and the time that a
merge takes per shard. Metadata requests per episode were counted with strace (see `REQUESTS`). The
metadata server and the file system's bandwidth are queues, first come, first served; how fast they
are is an assumption, printed with the result. **All that it says of clusters is a prediction.** The
model is also run for one and two workers of this machine, and compared with real recordings of
the same rollouts.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import Machine, disk_folder
from bench.tables import markdown
from merge import merge_experiment
from shardwriter import DataExporter
from shardwriter.files.layout import EpisodePaths
from shardwriter.recording.episode import Episode

# System calls on the shared directory that ask the metadata server, per episode: path look-ups,
# creations, renames, removals, opening, closing, syncing. Counted with `strace -f -y`, buffers in
# /dev/shm: an episode that fits its slots, one with a part beside the shards, and scratch_dir.
REQUESTS = {"short": 33, "long": 61, "scratch": 28}
# Assumed: a modest NFS server, and a parallel file system's metadata server.
REQUESTS_PER_S = (5_000, 50_000)
MB_PER_S = 5_000
SHARD_MB = 2.0
SLEEP_S = 0.1
SIMULATED = 200_000  # episodes; more would be more of the same


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is assumed of a cluster, and what one episode is.

    Attributes
    ----------
    workers
        Processes that record at a time.
    episode_s
        Mean seconds that an episode's simulation takes; they vary by a quarter.
    overhead_s
        Seconds that an episode costs its worker besides, without waiting for the file system.
    shard_mb
        What an episode adds to the shared file system.
    requests
        Metadata requests of an episode.
    requests_per_s, mb_per_s
        What metadata server and file system can do.
    """

    workers: int
    episode_s: float
    overhead_s: float
    shard_mb: float
    requests: int
    requests_per_s: float
    mb_per_s: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the model says: seconds in all, and the shares of them."""

    seconds: float
    waited: float  # share of the workers' time spent on the file system
    metadata_busy: float
    bandwidth_busy: float


def simulate(cluster: Cluster, episodes: int, seed: int = 1) -> Forecast:
    """Run episodes through a cluster, one event for each beginning and end."""
    rng = np.random.default_rng(seed)
    lengths = cluster.episode_s * rng.normal(1, 0.25, episodes).clip(0.2) + cluster.overhead_s
    begin_s = cluster.requests / 3 / cluster.requests_per_s  # a third to claim, the rest to publish
    publish_s = 2 * begin_s
    copy_s = cluster.shard_mb / cluster.mb_per_s
    metadata_free = bandwidth_free = waited = last = 0.0
    workers = min(cluster.workers, episodes)
    # (time, worker, whether an episode of it ends now); workers start within one second.
    events = [(start, worker, False) for worker, start in enumerate(rng.random(workers).tolist())]
    heapq.heapify(events)
    begun = 0
    while events:
        now, worker, is_end = heapq.heappop(events)
        if not is_end and begun == episodes:
            continue
        metadata_free = max(now, metadata_free) + (publish_s if is_end else begin_s)
        done = metadata_free
        if is_end:
            bandwidth_free = max(now, bandwidth_free) + copy_s
            done = max(done, bandwidth_free)
        else:
            done += float(lengths[begun])
            waited -= float(lengths[begun])
            begun += 1
        waited += done - now
        last = max(last, done)
        heapq.heappush(events, (done, worker, not is_end))
    return Forecast(
        seconds=last,
        waited=waited / (last * workers),
        metadata_busy=episodes * (begin_s + publish_s) / last,
        bandwidth_busy=episodes * copy_s / last,
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured on this machine, per episode."""

    overhead_s: float
    start_s: float  # once per run: worker and writer processes
    shard_bytes: float
    master_bytes: float
    merge_s: float


def record(folder: Path, episodes: int, workers: int, rollout: Any) -> tuple[float, Path]:
    """Record episodes; return the seconds that it took, without a merge, and where they are."""
    exporter = DataExporter("model", folder, progress=False, neural_sampling_rate=1)
    start = time.perf_counter()
    exporter.run_episodes(rollout, range(episodes), n_workers=workers)
    seconds = time.perf_counter() - start
    exporter.close(merge=False)
    return seconds, exporter.output_dir


def small(episode: Episode) -> None:
    """Log what fits the slots: 0.4 MB."""
    values = np.random.default_rng(episode.id).normal(-60, 5, (100, 1000)).astype(np.float32)
    for t in range(100):
        episode.log_timestep(t, {"v": values[t]}, behavior={"x": float(t)}, reward=1.0)


def sleeping(episode: Episode) -> None:
    """Do the same, and sleep in place of a simulation."""
    time.sleep(SLEEP_S)
    small(episode)


def measure(folder: Path, episodes: int) -> Costs:
    """Measure one worker without a simulation, and a merge of what it recorded."""
    record(folder, 2, 1, small)  # so that everything is in the page cache
    few, smaller = record(folder, 5, 1, small)
    many, larger = record(folder, episodes, 1, small)
    overhead = (many - few) / (episodes - 5)
    small_s, small_bytes = _merged(smaller)
    large_s, large_bytes = _merged(larger)
    return Costs(
        overhead_s=overhead,
        start_s=few - 5 * overhead,
        shard_bytes=EpisodePaths(larger, 0).shard.stat().st_size,
        master_bytes=(large_bytes - small_bytes) / (episodes - 5),
        merge_s=(large_s - small_s) / (episodes - 5),
    )


def _merged(directory: Path) -> tuple[float, int]:
    start = time.perf_counter()
    master = merge_experiment(directory)
    return time.perf_counter() - start, master.stat().st_size


def check(folder: Path, costs: Costs, episodes: int) -> list[list[str]]:
    """Compare the model with recordings of one and two workers here."""
    rows = []
    for workers in (1, 2):
        count = episodes * workers
        real, _ = record(folder, count, workers, sleeping)
        # Local metadata costs are part of the overhead that was measured.
        here = Cluster(workers, SLEEP_S, costs.overhead_s, costs.shard_bytes / 1e6, 0, 1e9, 1e9)
        said = simulate(here, count).seconds + costs.start_s
        rows.append([f"{workers}", f"{count}", f"{real:.2f}", f"{said:.2f}", f"{said / real:.2f}"])
    return rows


def forecasts(costs: Costs, episodes: int, workers: int) -> list[list[str]]:
    """Predict a cluster for episodes of several lengths, and metadata servers of two speeds."""
    base = Cluster(workers, 60, costs.overhead_s, SHARD_MB, 0, 0, MB_PER_S)
    rows = []
    for episode_s in (1.0, 10.0, 60.0):
        for speed in REQUESTS_PER_S:
            for mode, requests in REQUESTS.items():
                cluster = replace(
                    base, episode_s=episode_s, requests=requests, requests_per_s=speed
                )
                simulated = min(episodes, SIMULATED)
                told = simulate(cluster, simulated)
                seconds = told.seconds * episodes / simulated
                figures = (told.waited, told.metadata_busy, told.bandwidth_busy)
                ideal = episodes / workers * (episode_s + costs.overhead_s)
                rows.append(
                    [f"{episode_s:g} s", f"{speed:,}", mode, f"{seconds / 3600:.2f}"]
                    + [f"{seconds / ideal:.2f}"]
                    + [f"{figure:.0%}" for figure in figures]
                )
    return rows


def main() -> int:
    """Print what was measured, how good the model is here, and what it says of a cluster."""
    parser = argparse.ArgumentParser(description="Predict recording on a cluster.")
    parser.add_argument("--quick", action="store_true", help="a few seconds; figures mean nothing")
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="where to record")
    options = parser.parse_args()
    episodes = 5_000 if options.quick else options.episodes
    with tempfile.TemporaryDirectory(dir=disk_folder(options.folder)) as place:
        costs = measure(Path(place), 20 if options.quick else 400)
        rows = check(Path(place), costs, 10 if options.quick else 100)
    print(Machine.here(disk_folder(options.folder)))
    print(
        f"\nMeasured, per episode of 100 steps and 0.4 MB: {costs.overhead_s * 1e3:.1f} ms of its "
        f"worker's time; shard {costs.shard_bytes / 1e3:.0f} kB; master {costs.master_bytes:,.0f} "
        f"bytes; merge {costs.merge_s * 1e3:.2f} ms. Start of workers: {costs.start_s:.2f} s.\n"
    )
    titles = ["workers", "episodes", "measured, s", "model, s", "model / measured"]
    print(
        f"The model on this machine, episodes that sleep {SLEEP_S} s:\n\n{markdown(titles, rows)}"
    )
    print(
        f"\nPREDICTED: {episodes:,} episodes, {options.workers:,} workers, shards of "
        f"{SHARD_MB} MB, {MB_PER_S:,} MB/s\n"
    )
    titles = [
        "episode",
        "requests/s",
        "mode",
        "hours",
        "x ideal",
        "waiting",
        "metadata",
        "bandwidth",
    ]
    print(markdown(titles, forecasts(costs, episodes, options.workers)))
    master, merge = episodes * costs.master_bytes, episodes * costs.merge_s
    print(
        f"\nPREDICTED: master of all {episodes:,} episodes: {master / 1e9:.2f} GB, merged in "
        f"{merge / 60:.1f} min by a machine like this one; {episodes + 100:,} inodes."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
