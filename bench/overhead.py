"""What do checking and profiling add to a call, and does compression slow the caller?

Validation and profiling: CPU time of ``log_timestep`` with each, against neither. All three log the
same steps in turn, block by block, in a new order each round; the figure is the median over rounds
of the ratio in one round, so that a machine that is busy with other things hurts all alike.

Compression: the time of small calls while a writer process compresses a slot of 20 MB, against
calls while nothing is compressed. The limit is the machine's: calls while a program that has
nothing to do with the recording compresses the same bytes, on another core and with the same codec.
Beside them, the one call that has to compress such a slot itself, with ``async_write=False``.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import VARIANTS, Step, simulate
from bench.findings import Beside, Figure, Findings, Setting, figure
from shardwriter import DataExporter
from shardwriter.recording.episode import Episode

__all__ = ["measure"]

NEITHER = "neither"
MODES: dict[str, dict[str, Any]] = {
    NEITHER: {},
    "validation": {"validate_data": True},
    "profiling": {"enable_profiling": True},
}
WORKLOADS = {"ids": ("A1k", False), "sampled": ("B1k", False), "dense": ("B1k", True)}
WIDE = 5_000_000  # float32: a row, and so a slot, of 20 MB
PER_ROUND = 13  # blocks for each of the setting's rounds
ELSEWHERE = """
import sys
import numpy as np
from shardwriter.files.codec import Deflater, shuffle

wide = np.random.default_rng(0).standard_normal(int(sys.argv[1]), np.float32)
encoder = Deflater(4)
print("ready", flush=True)
while True:
    encoder(shuffle(wide), wide.itemsize)
"""


def measure(setting: Setting) -> Findings:
    """Measure all of it."""
    found = []
    for key, (name, dense) in WORKLOADS.items():
        variant = VARIANTS[name].shortened(80 if setting.is_quick else 20)
        steps = simulate(variant).steps(variant.n_steps, variant.sample_every, dense=dense)
        rounds = _blocks(setting, steps, variant.sample_every, dense=dense)
        what = f"{name}, spikes {'(N,)' if dense else 'by id'}"
        found += [_overhead(key, what, mode, rounds) for mode in MODES if mode != NEITHER]
    rounds = _beside_compression(setting)
    found.append(
        figure(
            "overhead/compressing",
            "a small call while 20 MB are compressed",
            rounds,
            "busy",
            "us",
            is_rate=False,
            peer=("idle", "while nothing is compressed"),
            ceiling=("elsewhere", "while another program compresses the same"),
        )
    )
    found.append(
        figure(
            "overhead/compressing-itself",
            "the call that compresses 20 MB itself",
            rounds,
            "own",
            "us",
            is_rate=False,
        )
    )
    return Findings(figures=found)


@contextmanager
def _recording(folder: Path, name: str, **options: Any) -> Iterator[Episode]:
    """Open an episode of an experiment of its own."""
    options = {"validate_data": False, "async_write": True, "n_async_workers": 1} | options
    exporter = DataExporter(name, folder, progress=False, **options)
    try:
        with exporter.start_episode() as episode:
            yield episode
    finally:
        exporter.close(merge=False)


def _blocks(
    setting: Setting, steps: list[Step], sampling: int, *, dense: bool
) -> list[dict[str, float]]:
    """Return µs of CPU per call by mode, for each round."""
    order = random.Random(1)
    rounds = []
    with ExitStack() as stack:
        episodes = {
            mode: stack.enter_context(
                _recording(setting.folder, mode, neural_sampling_rate=sampling, **options)
            )
            for mode, options in MODES.items()
        }
        log = _log_dense if dense else _log_ids
        for i in range(1 + setting.rounds * (1 if setting.is_quick else PER_ROUND)):
            modes = order.sample(list(MODES), len(MODES))
            taken = {mode: log(episodes[mode], steps, i * len(steps)) for mode in modes}
            rounds.append({mode: 1e6 * s / len(steps) for mode, s in taken.items()})
    return rounds[1:]  # the first makes the tables


def _log_ids(episode: Episode, steps: list[Step], first: int) -> float:
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


def _log_dense(episode: Episode, steps: list[Step], first: int) -> float:
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


def _overhead(key: str, what: str, mode: str, rounds: list[dict[str, float]]) -> Figure:
    added = [100 * (each[mode] / each[NEITHER] - 1) for each in rounds]
    low, middle, high = np.percentile(added, (25, 50, 75)).tolist()
    base = float(np.median([each[NEITHER] for each in rounds]))
    return Figure(
        key=f"overhead/{mode}/{key}",
        what=f"{what}: {mode} adds",
        value=middle,
        unit="%",
        low=low,
        high=high,
        is_rate=False,
        peer=Beside(name="us a call without", value=base, ratio=1 + middle / 100),
    )


def _beside_compression(setting: Setting) -> list[dict[str, float]]:
    wide = np.random.default_rng(0).standard_normal(WIDE, np.float32)
    own_s = _compressing_call_s(setting.folder, wide)
    options = {"neural_sampling_rate": 1, "max_memory_mb": 2_000}
    rounds = []
    with _recording(setting.folder, "beside", **options) as episode:
        timestep = 0
        for _ in range(setting.rounds):
            medians = {"own": own_s * 1e6}
            for name in ("idle", "busy"):
                time.sleep(3 * own_s)  # until nothing is left to compress
                if name == "busy":
                    episode.log_timestep(timestep, {"wide": wide})
                times, timestep = _small_calls(episode, timestep, 0.7 * own_s)
                medians[name] = float(np.median(times)) * 1e6
            with _compressing_elsewhere():
                times, timestep = _small_calls(episode, timestep, 0.7 * own_s)
            medians["elsewhere"] = float(np.median(times)) * 1e6
            rounds.append(medians)
    return rounds


@contextmanager
def _compressing_elsewhere() -> Iterator[None]:
    """Run a program that compresses a slot's bytes over and over."""
    with subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(WIDE)], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout
        program.stdout.readline()
        try:
            yield
        finally:
            program.kill()


def _small_calls(episode: Episode, timestep: int, seconds: float) -> tuple[list[float], int]:
    small = {"x": np.zeros(3, np.float32)}
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        timestep += 1
        start = time.perf_counter()
        episode.log_timestep(timestep, behavior=small)
        times.append(time.perf_counter() - start)
    return times, timestep


def _compressing_call_s(folder: Path, wide: np.ndarray[Any, Any]) -> float:
    options = {"neural_sampling_rate": 1, "async_write": False, "max_memory_mb": 2_000}
    with _recording(folder, "own", **options) as episode:
        episode.log_timestep(0, {"wide": wide})
        times = []
        for timestep in (1, 2, 3):
            start = time.perf_counter()
            episode.log_timestep(timestep, {"wide": wide})
            times.append(time.perf_counter() - start)
    return float(np.median(times))
