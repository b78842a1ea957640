"""Local worker processes: each runs rollouts, and owns a writer process of its own.

Invariant: every episode that was asked for has one result, whatever happens to its worker.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

import cloudpickle

from shardwriter.engines.result import EpisodeResult
from shardwriter.engines.worker import Rollout
from shardwriter.errors import ConfigError, ShardWriterError, WorkerFailed
from shardwriter.groups import read_attributes, read_tree
from shardwriter.layout import SUMMARY, EpisodePaths, episode_group
from shardwriter.performance import Collected
from shardwriter.process import Child
from shardwriter.published import published_file
from shardwriter.recorder import Recorder
from shardwriter.recovery import recover_episode

__all__ = ["result_of", "run_local"]

_WORKER = "shardwriter.engines.worker:serve"
_GRACE_S = 3.0
_MOST_FALSE_STARTS = 3


def run_local(
    recorder: Recorder,
    rollout: Rollout,
    episodes: Iterator[int],
    n_workers: int,
    report: Callable[[EpisodeResult], None],
) -> None:
    """Run a rollout for each episode in worker processes of this machine.

    Parameters
    ----------
    recorder
        The experiment.
    rollout
        What to run; it travels by cloudpickle.
    episodes
        Ids; taken one by one, as workers become idle.
    n_workers
        Processes at a time.
    report
        Called with each result as it comes.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C: running episodes were ended as ``interrupted`` and reported first.
    """
    config = replace(
        recorder.config,
        async_write=True,
        n_async_workers=1,
        max_memory_mb=recorder.config.max_memory_mb / n_workers,
    )
    try:
        setup = cloudpickle.dumps((recorder.output_dir, config, recorder.n_neurons, rollout))
    except Exception as error:
        expected = "what cloudpickle can send to a worker process"
        raise ConfigError("rollout", expected, f"{type(error).__name__}: {error}") from error
    crew = _Crew(recorder, setup, episodes, report)
    try:
        crew.run(n_workers)
    except BaseException:
        crew.stop()
        raise


class _Crew:
    """The workers of one ``run_local``, and which episodes each of them has."""

    def __init__(
        self,
        recorder: Recorder,
        setup: bytes,
        episodes: Iterator[int],
        report: Callable[[EpisodeResult], None],
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
            if self._false_starts >= _MOST_FALSE_STARTS:
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
            result = self._recovered(episode, f"{reason} ({how})")
            self._report(replace(result, was_stopped=was_stopped))
        return how

    def _recovered(self, episode: int, error: str) -> EpisodeResult:
        paths = EpisodePaths(self._recorder.output_dir, episode)
        recovered = recover_episode(paths)
        if recovered is not None and recovered.reasons:
            error = "; ".join([error, *recovered.reasons])
        if recovered is not None and recovered.outcome in ("failed", "recording"):
            return EpisodeResult(episode, "failed", None, error)
        if not paths.shard.exists():
            return EpisodeResult(episode, "failed", None, f"{error} before the episode began")
        return result_of(paths, error)


def result_of(paths: EpisodePaths, error: str) -> EpisodeResult:
    """Return what a shard says of itself, and `error` where it says nothing.

    An ended episode was only waiting to be sealed when its worker died.
    """
    with published_file(paths.shard) as file:
        group = file[episode_group(paths.episode)]
        known = read_attributes(group)
        summary = read_tree(group[SUMMARY]) if SUMMARY in group else None
    status, own = str(known["status"]), known.get("error")
    if own is None and status != "completed":
        own = error
    return EpisodeResult(
        paths.episode, status, summary, own, known.get("traceback"), shard=paths.shard
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
