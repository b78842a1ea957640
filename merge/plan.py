"""From descriptions of shards to what a master holds; reads and writes no file.

Invariant: each virtual dataset maps one dataset of one shard, whole, with its exact length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from merge.differences import SchemaDifference, differences
from shardwriter.errors import EpisodesMissing, IdsCollide
from shardwriter.files.episode_index import index_array, index_row
from shardwriter.files.layout import episode_group
from shardwriter.files.shard_description import ShardDescription

__all__ = ["EpisodePlan", "MasterPlan", "check_expected", "plan", "renumbered"]


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """One episode of the master: its group, and the shard's file as the master names it."""

    episode: int
    shard: ShardDescription
    source: str

    @property
    def group(self) -> str:
        """The episode's group in the master."""
        return episode_group(self.episode)

    @property
    def name(self) -> bytes:
        """The last part of that."""
        return self.group.rpartition("/")[2].encode()


@dataclass(frozen=True, slots=True)
class MasterPlan:
    """All that a master holds of its episodes, in order of their ids."""

    episodes: tuple[EpisodePlan, ...]

    @property
    def index(self) -> np.ndarray[Any, Any]:
        """The index's rows of the episodes."""
        return index_of(self.episodes)

    @property
    def differences(self) -> tuple[SchemaDifference, ...]:
        """The fields that are not the same in every episode."""
        return differences({each.episode: each.shard.tables for each in self.episodes})


def plan(
    shards: Sequence[ShardDescription], names: Sequence[str], ids: Sequence[int] | None = None
) -> MasterPlan:
    """Plan a master over shards.

    Parameters
    ----------
    shards
        Their descriptions.
    names
        The name of each one's file, relative to the master's folder.
    ids
        The episodes' ids in the master; by default those that the shards give.

    Raises
    ------
    IdsCollide
        Two shards have one id.
    """
    given = [shard.episode for shard in shards] if ids is None else list(ids)
    _check_unique(given, names)
    order = sorted(range(len(shards)), key=lambda i: given[i])
    return MasterPlan(tuple(EpisodePlan(given[i], shards[i], names[i]) for i in order))


def _check_unique(ids: Sequence[int], names: Sequence[str]) -> None:
    places: dict[int, list[str]] = {}
    for episode, name in zip(ids, names, strict=True):
        places.setdefault(episode, []).append(name)
    twice = {episode: found for episode, found in places.items() if len(found) > 1}
    if twice:
        raise IdsCollide(twice)


def renumbered(
    shards: Sequence[ShardDescription], before: Mapping[tuple[str, int], Sequence[int]]
) -> list[int]:
    """Return ids without collisions: the first of equal ones stays, later ones come at the end.

    Parameters
    ----------
    shards
        Descriptions of the shards.
    before
        The ids that episodes have had, and keep, by their shard's uuid and their id there.
    """
    had = {key: list(ids) for key, ids in before.items()}
    kept = [_next(had.get((shard.uuid, shard.episode))) for shard in shards]
    taken = {episode for episode in kept if episode is not None}
    following = max([*taken, *(shard.episode for shard in shards)], default=-1) + 1
    ids = []
    for shard, given in zip(shards, kept, strict=True):
        episode = shard.episode if given is None else given
        if given is None and episode in taken:
            episode, following = following, following + 1
        taken.add(episode)
        ids.append(episode)
    return ids


def _next(ids: list[int] | None) -> int | None:
    return ids.pop(0) if ids else None


def check_expected(found: Sequence[int], expected: Sequence[int]) -> None:
    """Make sure that no episode is missing.

    Raises
    ------
    EpisodesMissing
        It names those that are.
    """
    there = set(found)
    missing = [episode for episode in expected if episode not in there]
    if missing:
        raise EpisodesMissing(missing, len(expected))


def index_of(episodes: Sequence[EpisodePlan]) -> np.ndarray[Any, Any]:
    """Return the index's rows of some episodes."""
    return index_array((_index_row(each) for each in episodes), [each.source for each in episodes])


def _index_row(each: EpisodePlan) -> tuple[object, ...]:
    shard = each.shard
    rows = {name: table.rows for name, table in shard.tables.items()}
    place = (each.source, shard.size, shard.mtime_ns, shard.uuid, shard.episode)
    return index_row(each.episode, shard.attributes, rows, place)
