"""Running many episodes: what is asked for, checked, and one result for each.

Invariant: every id that was taken from the caller has exactly one result.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from shardwriter.engines.attempts import Attempts
from shardwriter.engines.local import run_local
from shardwriter.engines.result import EpisodeResult
from shardwriter.episode import Episode
from shardwriter.errors import ConfigError, EpisodesFailed
from shardwriter.progress import progress_bar
from shardwriter.recorder import Recorder, checked_id

__all__ = ["run_episodes"]


def run_episodes(
    recorder: Recorder,
    rollout: Callable[[Episode], Any],
    episodes: Iterable[int],
    n_workers: int | None,
    *,
    on_error: str,
    retries: int,
    skip_existing: bool,
    shows_progress: bool,
) -> list[EpisodeResult]:
    """Run a rollout for each episode; see ``DataExporter.run_episodes``."""
    if not callable(rollout):
        raise ConfigError("rollout", "a function of an episode", rollout)
    if on_error not in ("raise", "continue"):
        raise ConfigError("on_error", "'raise' or 'continue'", on_error)
    workers = _worker_count(n_workers)
    attempts = Attempts(recorder.output_dir, _count(retries), skips_good=skip_existing)
    results = _results(recorder, rollout, episodes, workers, attempts, shows_progress)
    failures = {r.episode: r.error or r.status for r in results if not r.is_good}
    if failures and on_error == "raise":
        raise EpisodesFailed(failures, results)
    return results


def _worker_count(n_workers: object) -> int:
    if n_workers is None:
        return len(os.sched_getaffinity(0))
    if not isinstance(n_workers, int) or isinstance(n_workers, bool) or n_workers < 1:
        raise ConfigError("n_workers", "an int, at least 1", n_workers)
    return n_workers


def _count(retries: object) -> int:
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise ConfigError("retries", "an int, at least 0", retries)
    return retries


def _results(
    recorder: Recorder,
    rollout: Callable[[Episode], Any],
    episodes: Iterable[int],
    n_workers: int,
    attempts: Attempts,
    shows_progress: bool,
) -> list[EpisodeResult]:
    order: list[int] = []
    results: dict[int, EpisodeResult] = {}
    # Checked before anything runs, where that can be.
    ids = _each_once(episodes, order)
    given = iter(list(ids)) if isinstance(episodes, Sized) else ids
    total = len(order) if isinstance(episodes, Sized) else None
    with progress_bar("episodes", "episode", total, shown=shows_progress) as bar:

        def report(result: EpisodeResult) -> None:
            if attempts.take_again(result):
                return
            results[result.episode] = result
            bar.update()
            bad = sum(not r.is_good for r in results.values())
            if bad:
                bar.set_postfix(failed=bad)

        run_local(recorder, rollout, attempts.all_of(given, report), n_workers, report)
        while attempts.has_more:
            run_local(recorder, rollout, attempts.more(), n_workers, report)
    return [results[episode] for episode in order]


def _each_once(episodes: Iterable[int], order: list[int]) -> Iterator[int]:
    """Give the ids one by one, noting their order."""
    known = set()
    for episode in episodes:
        number = checked_id(episode)
        if number in known:
            raise ConfigError("episodes", "each id once", number)
        known.add(number)
        order.append(number)
        yield number
