"""Bringing the episodes of dead processes to their end.

Invariant: what a living process owns is never touched, and doing it twice changes nothing.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import h5py

from shardwriter.files.experiment_file import lock_file, remove_unfinished
from shardwriter.files.layout import (
    RECOVER_LOCK,
    EpisodePaths,
    check_experiment,
    episode_group,
    leftover_episodes,
    listed_episodes,
)
from shardwriter.files.packed import packed_episodes
from shardwriter.files.vetting import vetted
from shardwriter.progress import progress_bar
from shardwriter.recovery.abandoned import RecoveredEpisode, brought_to_end, foreseen
from shardwriter.system.locks import locked

__all__ = ["RecoveredEpisode", "exit_code", "is_good", "missing", "recover", "recover_episode"]


def recover(
    directory: Path,
    *,
    dry_run: bool = False,
    force_hosts: Collection[str] = (),
    progress: bool = False,
) -> list[RecoveredEpisode]:
    """Bring every episode of an experiment that no living process owns to its end.

    Safe to be killed and run again, to run twice at once, and to run while episodes are recorded.

    Parameters
    ----------
    directory
        The experiment's directory.
    dry_run
        Change nothing; tell what would be done.
    force_hosts
        Names of hosts whose episodes are taken for dead, also those of another container of this
        one. Only for those who know that nothing records there any more.
    progress
        Show a progress bar.

    Returns
    -------
    list of RecoveredEpisode
        One for each episode that was unfinished, in order of id.

    Raises
    ------
    ExperimentNotFound
        The directory is not an experiment's.
    ShardOutside
        A folder in it is a link that leads out of it; nothing was changed.
    ShardDamaged
        A folder in it cannot be opened, or made; nothing was changed.
    """
    directory = directory.absolute()
    check_experiment(directory)
    action = foreseen if dry_run else brought_to_end
    with nullcontext() if dry_run else locked(lock_file(directory, RECOVER_LOCK)):
        if not dry_run:
            remove_unfinished(directory, force_hosts)
        episodes = leftover_episodes(directory)
        found = []
        with progress_bar("recover", "episode", len(episodes), shown=progress) as bar:
            for episode in episodes:
                paths = EpisodePaths(directory, episode)
                found.append(action(paths, force_hosts))
                bar.update()
    return [result for result in found if result is not None]


def recover_episode(paths: EpisodePaths) -> RecoveredEpisode | None:
    """Bring the episode of a dead process to its end; wait for a writer of it that still lives.

    Returns
    -------
    RecoveredEpisode or None
        None where nothing was left to do.
    """
    return brought_to_end(paths, wait=True)


def exit_code(episodes: Sequence[RecoveredEpisode]) -> int:
    """Return 0 for all recovered, 3 for recovered with loss, 1 where something could not be."""
    if any(episode.outcome in ("elsewhere", "failed") for episode in episodes):
        return 1
    return 3 if any(episode.has_loss for episode in episodes) else 0


def missing(directory: Path, expected: Iterable[int]) -> list[int]:
    """Return the ids of `expected` whose episodes have to be run, or run again.

    These are the ones without a finished shard, and those whose shard says ``failed`` or
    ``interrupted``.

    Raises
    ------
    ExperimentNotFound
        The directory is not an experiment's.
    ShardDamaged
        A shard cannot be read.
    """
    check_experiment(directory)
    shards = packed_episodes(directory) | listed_episodes(directory)
    return [i for i in expected if i not in shards or not is_good(shards[i], i)]


def is_good(shard: Path, episode: int) -> bool:
    """Tell whether a finished shard's episode completed."""
    place = episode_group(episode)
    with vetted(shard, place) as root:
        return h5py.Group(root)[place].attrs["status"] in ("completed", "empty")
