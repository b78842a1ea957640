"""From descriptions of shards to what a master holds; reads and writes no file.

Invariant: each virtual dataset maps one dataset of one shard, whole, with its exact length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from shardwriter.layout import EVENTS, TABLES, episode_group
from shardwriter.schema import INDEX_DTYPE, fill_value
from shardwriter.shard import ShardDescription

__all__ = ["EpisodePlan", "MasterPlan", "VirtualDataset", "plan"]


@dataclass(frozen=True, slots=True)
class VirtualDataset:
    """One dataset of the master and the dataset of a shard that it shows."""

    path: str
    source_path: str
    source: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: object | None


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """One episode of the master: virtual datasets, attributes, and groups to copy."""

    group: str
    source: str
    shard: ShardDescription
    attributes: Mapping[str, Any]
    datasets: tuple[VirtualDataset, ...]
    copied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MasterPlan:
    """All that a master holds of its episodes, in order of their ids."""

    episodes: tuple[EpisodePlan, ...]
    index: np.ndarray[Any, Any]


def plan(shards: Sequence[ShardDescription], names: Sequence[str]) -> MasterPlan:
    """Plan a master over shards.

    Parameters
    ----------
    shards
        Their descriptions.
    names
        The name of each shard's file, relative to the master's folder.
    """
    order = sorted(range(len(shards)), key=lambda i: shards[i].episode)
    width = max([len(name.encode()) for name in names], default=1)
    fields = [
        (name, f"S{width}" if name == "shard" else INDEX_DTYPE[name])
        for name in INDEX_DTYPE.names or ()
    ]
    index = np.zeros(len(shards), np.dtype(fields))
    for row, i in enumerate(order):
        index[row] = _index_row(shards[i], names[i])
    return MasterPlan(tuple(_episode(shards[i], names[i]) for i in order), index)


def _episode(shard: ShardDescription, name: str) -> EpisodePlan:
    group = episode_group(shard.episode)
    datasets = tuple(
        VirtualDataset(
            f"{group}/{table}/{column}",
            f"{group}/{table}/{column}",
            name,
            description.shape,
            description.dtype,
            fill_value(description.dtype),
        )
        for table, columns in shard.tables.items()
        for column, description in columns.items()
    )
    return EpisodePlan(group, name, shard, shard.attributes, datasets, shard.others)


def _index_row(shard: ShardDescription, name: str) -> tuple[object, ...]:
    attributes = shard.attributes
    events = [shard.rows(table) for table in shard.tables if table.startswith(f"{EVENTS}/")]
    return (
        shard.episode,
        str(attributes["status"]).encode(),
        int(attributes["total_timesteps"]),
        int(attributes["total_spikes"]),
        float(attributes["total_reward"]),
        int(attributes["seed"]),
        datetime.fromisoformat(str(attributes["start_time"])).timestamp(),
        datetime.fromisoformat(str(attributes["end_time"])).timestamp(),
        *(shard.rows(table) for table in TABLES),
        sum(events) if events else -1,
        name.encode(),
        shard.size,
        shard.mtime_ns,
        shard.uuid.encode(),
    )
