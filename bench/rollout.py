"""The rollout that `scaling` runs in worker processes.

Invariant: workers start to record together. Each first prepares its data and then waits until all
have, so that neither the start of processes nor loading enters the measured time.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.data import LifNetwork, Recording, Step, Variant

if TYPE_CHECKING:
    from shardwriter.episode import Episode

__all__ = ["Rollout"]

BARRIER_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """Records one episode; callable, and small to pickle.

    Attributes
    ----------
    variant
        The shape of the workload; one episode has `variant.n_steps`.
    data
        Where `Recording.save` wrote.
    meeting
        An empty folder through which the workers find each other.
    n_workers
        How many workers start together.
    live
        Simulate the network while recording, instead of replaying it from memory.
    """

    variant: Variant
    data: Path
    meeting: Path
    n_workers: int
    live: bool

    def __call__(self, episode: Episode) -> dict[str, float]:
        """Record the episode; return when it began and ended, in seconds since the epoch."""
        steps = _prepared_steps(self.data, self.variant)
        network = _prepared_network(self.variant.n_neurons) if self.live else None
        _meet(self.meeting, self.n_workers)
        began = time.time()
        if network is None:
            _replay(episode, steps)
        else:
            _simulate(episode, steps, network)
        return {"began": began, "ended": time.time()}


def _replay(episode: Episode, steps: list[Step]) -> None:
    log_timestep = episode.log_timestep
    for t, v, spikes, p, q, r in steps:
        behavior = {"position": p, "velocity": q}
        log_timestep(t, {"membrane_potential": v}, None, behavior, r, spike_ids=spikes)


def _simulate(episode: Episode, steps: list[Step], network: LifNetwork) -> None:
    log_timestep = episode.log_timestep
    for t, _, _, p, q, r in steps:
        fired = network.step()
        state = {"membrane_potential": network.potentials}
        log_timestep(t, state, None, {"position": p, "velocity": q}, r, spike_ids=fired)


@cache
def _prepared_steps(data: Path, variant: Variant) -> list[Step]:
    return Recording.load(data).steps(variant.n_steps, variant.sample_every)


@cache
def _prepared_network(n_neurons: int) -> LifNetwork:
    return LifNetwork(n_neurons, seed=os.getpid())


@cache  # once per process
def _meet(meeting: Path, n_workers: int) -> None:
    (meeting / str(os.getpid())).touch()
    deadline = time.monotonic() + BARRIER_TIMEOUT_S
    while len(os.listdir(meeting)) < n_workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{n_workers} workers did not meet in {BARRIER_TIMEOUT_S} s")
        time.sleep(0.002)


def simulation_cost_us(n_neurons: int, n_steps: int = 2_000) -> float:
    """Measure what one live step costs without recording, in microseconds (median of 10)."""
    network = LifNetwork(n_neurons)
    took: list[float] = []
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(n_steps // 10):
            network.step()
        took.append((time.perf_counter() - start) / (n_steps // 10))
    return float(np.median(took)) * 1e6
