"""The index of an experiment: one row for each episode.

Invariant: a row is made of what the episode itself says, whether it is finished or not.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from shardwriter.files.layout import EVENTS, TABLES
from shardwriter.files.schema import INDEX_DTYPE

__all__ = ["index_array", "index_dtype", "index_row", "lacking_fields"]


def index_dtype(names: Sequence[str]) -> np.dtype[Any]:
    """Return the index's dtype, with room for the longest of the shards' names."""
    width = max([len(name.encode()) for name in names], default=1) or 1
    fields = [
        (name, f"S{width}" if name == "shard" else INDEX_DTYPE[name])
        for name in INDEX_DTYPE.names or ()
    ]
    return np.dtype(fields)


def lacking_fields(dtype: np.dtype[Any]) -> list[str]:
    """Return the fields of an index that a dtype does not have, or not of the right kind."""
    there = dtype.names or ()
    return [
        name
        for name in INDEX_DTYPE.names or ()
        if name not in there or dtype[name].kind != INDEX_DTYPE[name].kind
    ]


def index_array(rows: Iterable[tuple[object, ...]], names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return rows that ``index_row`` made as one array; `names` are those of the shards."""
    return np.array(list(rows), index_dtype(names))


def index_row(
    episode: int,
    attributes: Mapping[str, Any],
    rows: Mapping[str, int],
    shard: tuple[str, int, int, str, int] = ("", 0, 0, "", 0),
) -> tuple[object, ...]:
    """Return the row of one episode.

    Parameters
    ----------
    episode
        Its id in the experiment.
    attributes
        Its attributes.
    rows
        Rows of each of its tables.
    shard
        Name, size, time of change and uuid of its shard, and its id there.
    """
    name, size, mtime_ns, uuid, shard_episode = shard
    events = [count for table, count in rows.items() if table.startswith(f"{EVENTS}/")]
    return (
        episode,
        str(attributes["status"]).encode(),
        int(attributes.get("total_timesteps", 0)),
        int(attributes.get("total_spikes", 0)),
        float(attributes.get("total_reward", 0.0)),
        int(attributes["seed"]),
        _seconds(attributes["start_time"]),
        _seconds(attributes.get("end_time")),
        *(rows.get(table, -1) for table in TABLES),
        sum(events) if events else -1,
        name.encode(),
        size,
        mtime_ns,
        uuid.encode(),
        shard_episode,
    )


def _seconds(time: object) -> float:
    """Return a time as seconds since 1970, NaN for none."""
    return datetime.fromisoformat(str(time)).timestamp() if time else float("nan")
