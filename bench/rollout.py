"""What the worker processes of `bench.scaling` do.

Invariant: workers start to record together. Each first prepares its data, starts its writer and
records a warm-up, so that neither the start of processes nor loading enters the measured time.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from bench.data import Recording, Step, Variant
from bench.machine import descendants
from shardwriter import DataExporter
from shardwriter.files.compression import Pipeline
from shardwriter.recording.episode import Episode
from shardwriter.recording.recorder import Recorder

__all__ = ["Finished", "Task", "run_together"]

START_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What every worker does.

    Attributes
    ----------
    variant, data
        The shape of an episode, and where `Recording.save` wrote.
    episodes
        How many of them each worker records.
    """

    variant: Variant
    data: Path
    episodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """When a worker began and ended, s since the epoch, and CPU s of it and of its writer."""

    began: float
    ended: float
    own_cpu_s: float
    writer_cpu_s: float


def run_together(exporter: DataExporter | None, task: Task, workers: int) -> list[Finished]:
    """Run the task in so many processes at once; without an exporter, the codec alone."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=_work, args=(exporter, task, number, barrier, results))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    finished = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    for each in finished:
        if isinstance(each, str):
            raise RuntimeError(f"a worker failed: {each}")
    return finished


def _work(
    recorder: Recorder | None,
    task: Task,
    number: int,
    barrier: Barrier,
    results: Queue[Finished | str],
) -> None:
    try:
        recording = Recording.load(task.data)
        if recorder is None:
            results.put(_encode(recording, task, barrier))
        else:
            results.put(_record(recorder, recording, task, number, barrier))
    except Exception as error:  # noqa: BLE001  (the parent waits for a result, whatever it is)
        barrier.abort()
        results.put(f"{type(error).__name__}: {error}")


def _record(
    recorder: Recorder, recording: Recording, task: Task, number: int, barrier: Barrier
) -> Finished:
    steps = recording.steps(task.variant.n_steps, task.variant.sample_every)
    first = number * (task.episodes + 1)
    _replay(recorder, first, steps[:300]).wait()
    barrier.wait(START_TIMEOUT_S)
    began, own, writer = time.time(), time.process_time(), _writers_cpu_s()
    episodes = range(first + 1, first + 1 + task.episodes)
    ended = [_replay(recorder, episode, steps) for episode in episodes]
    for episode in ended:
        episode.wait()
    finished = Finished(
        began=began,
        ended=time.time(),
        own_cpu_s=time.process_time() - own,
        writer_cpu_s=_writers_cpu_s() - writer,
    )
    recorder.close()
    return finished


def _replay(recorder: Recorder, number: int, steps: list[Step]) -> Episode:
    with recorder.start_episode(number) as episode:
        log_timestep = episode.log_timestep
        for t, v, spikes, p, q, r in steps:
            behavior = {"position": p, "velocity": q}
            log_timestep(t, {"membrane_potential": v}, None, behavior, r, spike_ids=spikes)
    return episode


def _writers_cpu_s() -> float:
    """CPU s that this process's writers have used so far."""
    tick = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for pid in descendants():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / tick
    return total


def _encode(recording: Recording, task: Task, barrier: Barrier) -> Finished:
    """Shuffle and deflate as many potentials as the others record, with nothing else to do."""
    rows = task.variant.rows_per_megabyte
    chunks = task.episodes * task.variant.n_steps // rows
    blocks = [
        recording.potentials[i : i + rows]
        for i in range(0, len(recording.potentials) - rows + 1, rows)
    ]
    encode = Pipeline("gzip", 4).encoder()
    encode(blocks[0])
    barrier.wait(START_TIMEOUT_S)
    began, own = time.time(), time.process_time()
    for chunk in range(chunks):
        encode(blocks[chunk % len(blocks)])
    return Finished(
        began=began, ended=time.time(), own_cpu_s=time.process_time() - own, writer_cpu_s=0.0
    )
