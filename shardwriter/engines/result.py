"""What became of one episode of ``run_episodes``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["EpisodeResult", "Report"]


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What became of one episode.

    Attributes
    ----------
    episode
        Its id.
    status
        ``completed``, ``failed`` (the rollout raised), ``interrupted`` (its process died, or
        was stopped) or ``empty`` (nothing was logged).
    summary
        What the rollout returned.
    error, traceback
        Of an episode that did not complete.
    shard
        Its file, None where the episode left none.
    was_stopped
        Whether Ctrl-C or SIGTERM ended it.
    """

    episode: int
    status: str
    summary: Mapping[str, Any] | None = None
    error: str | None = None
    traceback: str | None = None
    shard: Path | None = None
    was_stopped: bool = False

    @property
    def is_good(self) -> bool:
        """Whether the rollout returned and the shard was published."""
        return self.error is None and self.status in ("completed", "empty")


Report: TypeAlias = Callable[[EpisodeResult], None]
"""Called with each result as it comes."""
