"""Local worker processes: each runs rollouts, and owns a writer process of its own.

Invariant: every episode that was asked for has one result, whatever happens to its worker.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from shardwriter.engines.outcome import recovered_result
from shardwriter.engines.result import EpisodeResult, Report
from shardwriter.engines.worker import Rollout, packed, worker_config
from shardwriter.errors import ShardWriterError, WorkerFailed
from shardwriter.files.layout import EpisodePaths
from shardwriter.recording.performance import Collected
from shardwriter.recording.recorder import Recorder
from shardwriter.system.process import Child

__all__ = ["MOST_FALSE_STARTS", "LocalEngine"]

_WORKER = "shardwriter.engines.worker:serve"
MOST_FALSE_STARTS = 3
_GRACE_S = 3.0


class LocalEngine:
    """Worker processes of this machine, fresh interpreters.

    Parameters
    ----------
    recorder
        The experiment.
    rollout
        What to run; it travels by cloudpickle.
    n_workers
        Processes at a time.

    Raises
    ------
    ConfigError
        The rollout cannot travel.
    """

    def __init__(self, recorder: Recorder, rollout: Rollout, n_workers: int) -> None:
        config = worker_config(recorder.config, n_workers)
        self._setup = packed((recorder.output_dir, config, recorder.n_neurons, rollout))
        self._recorder = recorder
        self._n_workers = n_workers

    def run(self, episodes: Iterator[int], report: Report) -> None:
        """Run the rollout for each episode; ids are taken one by one, as workers become idle.

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C: running episodes were ended as ``interrupted`` and reported first.
        """
        crew = _Crew(self._recorder, self._setup, episodes, report)
        try:
            crew.run(self._n_workers)
        except BaseException:
            crew.stop()
            raise


class _Crew:
    """The workers of one run, and which episodes each of them has."""

    def __init__(
        self,
        recorder: Recorder,
        setup: bytes,
        episodes: Iterator[int],
        report: Report,
    ) -> None:
        self._recorder = recorder
        self._setup = setup
        self._episodes = episodes
        self._report = report
        self._assigned: dict[Child, list[int]] = {}
        self._held: list[int] = []  # given to a worker that died before it took them
        self._ready: set[Child] = set()  # workers that have asked for an episode
        self._false_starts = 0  # workers in a row that died before that

    def run(self, n_workers: int) -> None:
        """Run until every episode has its result."""
        for _ in range(n_workers):
            episode = self._next()
            if episode is None:
                break
            self._held.append(episode)
            self._hire()
        while self._assigned:
            waited: dict[Any, Child] = {}
            for child in self._assigned:
                waited[child.link] = waited[child.pidfd] = child
            for ready in wait(list(waited)):
                child = waited[ready]
                if child in self._assigned:
                    self._hear(child)

    def stop(self) -> None:
        """End every worker, in an orderly way if it can be had in time, and seal what is left."""
        for child in self._assigned:
            child.kill(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for child in self._assigned:
            if not child.wait_s(max(0.0, deadline - time.monotonic())):
                child.kill()
        for child in list(self._assigned):
            self._bury(child, "it was stopped", was_stopped=True)

    def _next(self) -> int | None:
        return self._held.pop() if self._held else next(self._episodes, None)

    def _hire(self) -> None:
        child = Child(_WORKER)
        self._assigned[child] = []
        with suppress(BrokenPipeError, ConnectionResetError):  # its death is noticed below
            child.link.send(self._setup)

    def _hear(self, child: Child) -> None:
        try:
            message = child.link.recv() if child.link.poll() else None
            if message is None and child.wait_s(0):
                raise EOFError
        except (EOFError, ConnectionResetError):
            self._replace(child)
            return
        if isinstance(message, ShardWriterError):  # no worker can run this rollout
            raise message
        if message is not None:
            self._take(child, message)
            return
        self._false_starts = 0
        self._ready.add(child)
        episode = self._next()
        if episode is not None:
            self._assigned[child].append(episode)
        with suppress(BrokenPipeError, ConnectionResetError):
            child.link.send(episode)

    def _take(self, child: Child, message: EpisodeResult | Collected | ShardWriterError) -> None:
        if isinstance(message, EpisodeResult):
            self._assigned[child].remove(message.episode)
            self._report(message)
        elif isinstance(message, Collected):
            self._recorder.performance.add(message)

    def _replace(self, child: Child) -> None:
        """Account for a worker that ended; hire another for the episodes that remain."""
        how = self._bury(child, "its process died")
        if child not in self._ready:
            self._false_starts += 1
            if self._false_starts >= MOST_FALSE_STARTS:
                raise WorkerFailed(self._false_starts, how)
        self._ready.discard(child)
        episode = self._next()
        if episode is not None:
            self._held.append(episode)
            self._hire()

    def _bury(self, child: Child, reason: str, *, was_stopped: bool = False) -> str:
        """Report what a dead worker had in hand, once each is sealed; return how it ended."""
        while True:  # results that it sent before it died
            try:
                message = child.link.recv() if child.link.poll() else None
            except (EOFError, ConnectionResetError):
                break
            if message is None:
                break
            self._take(child, message)
        code = child.wait()
        how = f"signal {-code}, {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        for episode in self._assigned.pop(child):
            paths = EpisodePaths(self._recorder.output_dir, episode)
            result = recovered_result(paths, f"{reason} ({how})")
            self._report(replace(result, was_stopped=was_stopped))
        return how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
