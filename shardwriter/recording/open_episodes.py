"""The episodes that a recorder has opened and whose shards are not published yet.

Invariant: each is waited for exactly once; any thread may start, end or wait meanwhile.
"""

import threading
from collections import deque

from shardwriter.errors import ShardWriterError, WriterFailed
from shardwriter.recording.episode import Episode
from shardwriter.recording.performance import Performance

__all__ = ["OpenEpisodes"]


class OpenEpisodes:
    """Open episodes, and ended ones until their shards are published.

    Parameters
    ----------
    performance
        Told of every published episode.
    """

    def __init__(self, performance: Performance) -> None:
        self._performance = performance
        self._lock = threading.Lock()
        self._open: dict[int, Episode] = {}
        self._ended: deque[Episode] = deque()
        self._failures: list[ShardWriterError] = []

    def add(self, episode: Episode) -> None:
        """Take an episode in charge."""
        with self._lock:
            self._open[episode.id] = episode

    def settle(self, most: int) -> None:
        """Let go of published episodes; wait for the oldest while more than `most` are not."""
        while (episode := self._take(most)) is not None:
            self._wait(episode)

    def wait_for_oldest(self) -> bool:
        """Wait for the episode that ended first; return False where none has ended."""
        episode = self._take(0)
        if episode is None:
            return False
        self._wait(episode)
        return True

    def flush(self) -> None:
        """Bring the rows of open episodes to their parts, where no writer process does."""
        for episode in self._every():
            episode.flush()

    def memory_bytes(self) -> int:
        """Return the bytes of all their buffers."""
        return sum(episode.memory_bytes() for episode in self._every())

    def progress(self) -> tuple[int, int]:
        """Return the rows and raw bytes logged so far by those that have not ended."""
        counts = [episode.progress() for episode in self._every()]
        return sum(rows for rows, _ in counts), sum(size for _, size in counts)

    def count_calls(self) -> None:
        """Let open episodes report the calls that were made of them."""
        for episode in self._every():
            episode.count_timesteps()

    def close(self) -> list[ShardWriterError]:
        """End what is open as ``interrupted``, wait for all, and return what failed."""
        for episode in self._every():
            try:
                episode.interrupt()
            except ShardWriterError as error:
                self._failures.append(error)
            else:
                self._wait(episode)
        with self._lock:
            self._open.clear()
            self._ended.clear()
            failures, self._failures = self._failures, []
        return failures

    def _every(self) -> list[Episode]:
        with self._lock:
            return [*self._ended, *self._open.values()]

    def _take(self, most: int) -> Episode | None:
        with self._lock:
            for episode in [e for e in self._open.values() if e.has_ended]:
                self._ended.append(self._open.pop(episode.id))
            if self._ended and (len(self._ended) > most or self._ended[0].is_sealed):
                return self._ended.popleft()
            return None

    def _wait(self, episode: Episode) -> None:
        try:
            self._performance.add_sealed(episode.wait())
        except WriterFailed as error:
            # Not the fault of whoever opens another episode now; `close` raises it.
            self._failures.append(error)
