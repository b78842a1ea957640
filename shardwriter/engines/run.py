"""Running many episodes: what is asked for, checked, and one result for each.

Invariant: every id that was taken from the caller has exactly one result.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, Protocol

from shardwriter.engines.attempts import Attempts
from shardwriter.engines.executors import ExecutorEngine, ExecutorSource
from shardwriter.engines.local import LocalEngine
from shardwriter.engines.result import EpisodeResult, Report
from shardwriter.engines.task import sweep_setups
from shardwriter.errors import ConfigError, EpisodesFailed
from shardwriter.files.run_note import note_run
from shardwriter.progress import Bar, progress_bar
from shardwriter.recording.episode import Episode
from shardwriter.recording.recorder import Recorder, checked_id

__all__ = ["run_episodes"]


class Engine(Protocol):
    """Who runs the rollouts."""

    def run(self, episodes: Iterator[int], report: Report) -> None:
        """Run each episode that is given, and report its result."""
        ...


def run_episodes(
    recorder: Recorder,
    rollout: Callable[[Episode], Any],
    episodes: Iterable[int],
    n_workers: int | None,
    *,
    executor: ExecutorSource | None,
    on_error: str,
    on_result: Report | None,
    retries: int,
    skip_existing: bool,
    shows_progress: bool,
) -> list[EpisodeResult]:
    """Run a rollout for each episode; see ``DataExporter.run_episodes``."""
    _check_rollout(rollout)
    if on_error not in ("raise", "continue"):
        raise ConfigError("on_error", "'raise' or 'continue'", on_error)
    if n_workers is not None:
        _check_int("n_workers", n_workers, 1)
    if executor is not None and not (hasattr(executor, "submit") or callable(executor)):
        raise ConfigError("executor", "an Executor, or a function that makes one", executor)
    _check_int("retries", retries, 0)
    sweep_setups(recorder.output_dir)
    attempts = Attempts(recorder.output_dir, retries, skips_good=skip_existing)
    results = _Results(attempts, episodes, on_result)
    with (
        note_run(recorder.output_dir, results.planned),
        results.bar(shows_progress),
        _engine(recorder, rollout, executor, n_workers) as engine,
    ):
        engine.run(results.to_run(), results.report)
        while attempts.has_more:
            engine.run(attempts.more(), results.report)
    return results.checked(on_error)


def _engine(
    recorder: Recorder,
    rollout: Callable[[Episode], Any],
    executor: ExecutorSource | None,
    n_workers: int | None,
) -> AbstractContextManager[Engine]:
    if executor is None:
        workers = n_workers or len(os.sched_getaffinity(0))
        return nullcontext(LocalEngine(recorder, rollout, workers))
    return ExecutorEngine(recorder, rollout, executor, n_workers)


def _check_rollout(rollout: object) -> None:
    if not callable(rollout):
        raise ConfigError("rollout", "a function of an episode", rollout)
    try:
        parameters = signature(rollout)
    except ValueError:  # some that are compiled do not tell
        return
    try:
        parameters.bind("episode")
    except TypeError:
        name = getattr(rollout, "__qualname__", rollout)
        expected = "a function that is called with an episode and nothing else"
        raise ConfigError("rollout", expected, f"{name}{parameters}") from None


def _check_int(option: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(option, f"an int, at least {low}", value)


class _Results:
    """One result for each id, and the progress bar that shows their number.

    ``planned`` are the ids, where they are known beforehand.
    """

    def __init__(
        self, attempts: Attempts, episodes: Iterable[int], on_result: Report | None
    ) -> None:
        self._attempts = attempts
        self._on_result = on_result
        self._order: list[int] = []
        self._results: dict[int, EpisodeResult] = {}
        self._bad = 0
        self._bar: Bar | None = None
        # Checked before anything runs, where that can be.
        ids = _each_once(episodes, self._order)
        self._given = iter(list(ids)) if isinstance(episodes, Sized) else ids
        self.planned = self._order if isinstance(episodes, Sized) else None

    def bar(self, shows_progress: bool) -> Bar:
        """Return the progress bar, which is closed on leaving its block."""
        total = None if self.planned is None else len(self.planned)
        self._bar = progress_bar("episodes", "episode", total, shown=shows_progress)
        return self._bar

    def to_run(self) -> Iterator[int]:
        """Return the ids to run one by one; those left out are reported."""
        return self._attempts.all_of(self._given, self.report)

    def report(self, result: EpisodeResult) -> None:
        """Take a result, unless its episode is run again."""
        if self._attempts.take_again(result):
            return
        self._results[result.episode] = result
        self._bad += not result.is_good
        if self._bar is not None:
            if self._bad:
                self._bar.set_postfix(failed=self._bad, refresh=False)
            self._bar.update()
        if self._on_result is not None:
            self._on_result(result)

    def checked(self, on_error: str) -> list[EpisodeResult]:
        """Return all results in the order of the ids.

        Raises
        ------
        EpisodesFailed
            Some are not good, and `on_error` is ``"raise"``.
        """
        results = [self._results[episode] for episode in self._order]
        failures = {r.episode: r.error or r.status for r in results if not r.is_good}
        if failures and on_error == "raise":
            raise EpisodesFailed(failures, results)
        return results


def _each_once(episodes: Iterable[int], order: list[int]) -> Iterator[int]:
    """Give the ids one by one, noting their order."""
    if not isinstance(episodes, Iterable):
        raise ConfigError("episodes", "ids, such as range(100)", episodes)
    known = set()
    for episode in episodes:
        number = checked_id(episode)
        if number in known:
            raise ConfigError("episodes", "each id once", number)
        known.add(number)
        order.append(number)
        yield number
