"""What became of an episode, from its files: whoever ran it may be gone.

Invariant: the shard is believed before any process.
"""

import time
from pathlib import Path

import h5py

from shardwriter.engines.result import EpisodeResult
from shardwriter.files.column_reader import read_value
from shardwriter.files.groups import read_attributes, read_tree
from shardwriter.files.layout import SUMMARY, EpisodePaths, episode_group
from shardwriter.files.vetting import vetted
from shardwriter.recovery import RecoveredEpisode, recover_episode

__all__ = ["has_begun", "recovered_result", "sealed_result"]

_PATIENCE_S = 5.0
_POLL_S = 0.02


def has_begun(paths: EpisodePaths) -> Path | None:
    """Return a file that says that an episode was begun, None where there is none."""
    if paths.shard.exists():
        return paths.shard
    if paths.buffer.is_symlink() or paths.buffer.exists():  # the link may dangle
        return paths.buffer
    return paths.part if paths.part.exists() else None


def sealed_result(episode: int, shard: Path, error: str) -> EpisodeResult:
    """Return what a shard says of one of its episodes, and `error` where it says nothing.

    An ended episode was only waiting to be sealed when its worker died.
    """
    place = episode_group(episode)
    with vetted(shard, place) as root:
        group = h5py.Group(root)[place]
        known = read_attributes(group)
        summary = read_tree(group[SUMMARY], read_value) if SUMMARY in group else None
    status, own = str(known["status"]), known.get("error")
    if own is None and status != "completed":
        own = error
    return EpisodeResult(episode, status, summary, own, known.get("traceback"), shard=shard)


def recovered_result(paths: EpisodePaths, error: str) -> EpisodeResult:
    """Bring a dead worker's episode to its end; return what became of it.

    Waits a while for a worker that is only about to die, and for the writer process that a
    worker of another host leaves behind.

    Parameters
    ----------
    paths
        The episode's files.
    error
        What is known of the worker's end.
    """
    recovered = _recovered(paths)
    if recovered is not None and recovered.reasons:
        error = "; ".join([error, *recovered.reasons])
    if paths.shard.exists():
        return sealed_result(paths.episode, paths.shard, error)
    if recovered is not None and recovered.outcome in ("failed", "recording", "elsewhere"):
        return EpisodeResult(paths.episode, "failed", None, error)
    return EpisodeResult(paths.episode, "failed", None, f"{error} before the episode began")


def _recovered(paths: EpisodePaths) -> RecoveredEpisode | None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        recovered = recover_episode(paths)
        is_open = recovered is not None and recovered.outcome in ("recording", "elsewhere")
        if not is_open or paths.shard.exists() or time.monotonic() > deadline:
            return recovered
        time.sleep(_POLL_S)
