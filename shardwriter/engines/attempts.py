"""Which episodes are run, run again, or not at all.

Invariant: no attempt's shard is overwritten or removed; one that gives way to another is kept
in ``shards/attempts/``. A packed episode cannot give way, so it is never run again.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from shardwriter.engines.outcome import has_begun, sealed_result
from shardwriter.engines.result import EpisodeResult, Report
from shardwriter.files.layout import EpisodePaths
from shardwriter.files.packed import packed_episodes
from shardwriter.recovery import recover_episode

__all__ = ["Attempts"]


class Attempts:
    """The attempts of the episodes of one ``run_episodes``.

    Parameters
    ----------
    directory
        The experiment's directory.
    retries
        How often a failed episode is run again.
    skips_good
        Leave out episodes that completed before, and run those again that did not.

    Raises
    ------
    ShardDamaged
        A pack cannot be read.
    """

    def __init__(self, directory: Path, retries: int, *, skips_good: bool) -> None:
        self._directory = directory
        self._retries = retries
        self._skips_good = skips_good
        self._packed = packed_episodes(directory) if skips_good else {}
        self._failed: Counter[int] = Counter()
        self._waiting: deque[int] = deque()

    def all_of(self, episodes: Iterable[int], report: Report) -> Iterator[int]:
        """Return the ids to run one by one, failed ones again; report those left out."""
        for episode in episodes:
            earlier = self._earlier(episode) if self._skips_good else None
            if earlier is not None:
                report(earlier)
            else:
                yield episode
        yield from self.more()

    def more(self) -> Iterator[int]:
        """Return the ids to run again that wait now."""
        while self._waiting:
            yield self._waiting.popleft()

    @property
    def has_more(self) -> bool:
        """Whether an episode waits to be run again."""
        return bool(self._waiting)

    def take_again(self, result: EpisodeResult) -> bool:
        """Put a failed attempt aside and let its episode run again, if it still may."""
        paths = EpisodePaths(self._directory, result.episode)
        is_taken = result.shard is None and has_begun(paths) is not None  # by another process
        is_taken |= result.episode in self._packed
        may_run = not (result.is_good or result.was_stopped or is_taken)
        if not may_run or self._failed[result.episode] >= self._retries:
            return False
        self._failed[result.episode] += 1
        _put_aside(paths)
        self._waiting.append(result.episode)
        return True

    def _earlier(self, episode: int) -> EpisodeResult | None:
        """Return the result of an episode that is not to be run."""
        paths = EpisodePaths(self._directory, episode)
        recovered = recover_episode(paths)
        if paths.shard.exists():
            result = sealed_result(episode, paths.shard, "it did not complete")
            if result.is_good:
                return result
            _put_aside(paths)
        elif episode in self._packed:
            return _packed_result(episode, self._packed[episode])
        elif recovered is not None and recovered.outcome in ("recording", "elsewhere", "failed"):
            return EpisodeResult(episode, "failed", None, str(recovered).partition(": ")[2])
        return None


def _packed_result(episode: int, pack: Path) -> EpisodeResult:
    result = sealed_result(episode, pack, "it did not complete")
    if result.is_good:
        return result
    advice = f"it lies in {pack.name}: to run it again, unpack the experiment first"
    return replace(result, error=f"{result.error}; {advice}")


def _put_aside(paths: EpisodePaths) -> None:
    if not paths.shard.exists():
        return
    paths.attempts.mkdir(exist_ok=True)
    for number in itertools.count(1):
        kept = paths.attempts / f"{paths.shard.stem}.{number}{paths.shard.suffix}"
        if not kept.exists():
            paths.shard.rename(kept)
            return
