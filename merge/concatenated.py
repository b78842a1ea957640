"""Virtual datasets over all episodes, for readers that want one array.

HDF5 opens every source of such a dataset, and answers fill values, without an error, once it
runs out of file descriptors. Invariant: none is written that the limit here does not allow.
"""

import resource
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from merge.plan import EpisodePlan
from shardwriter.errors import TooManyShards
from shardwriter.files.layout import CONCATENATED
from shardwriter.files.schema import fill_value
from shardwriter.files.shard_description import ColumnDescription

__all__ = ["check_descriptors", "write_concatenated"]

_RESERVED = 64  # descriptors that a reader needs for other things


def check_descriptors(episodes: Sequence[EpisodePlan]) -> None:
    """Make sure that a reader with this process's limit can open every source at once.

    Raises
    ------
    TooManyShards
        It cannot.
    """
    shards = len({each.source for each in episodes})
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED
    if shards > limit:
        raise TooManyShards(shards, limit)


def write_concatenated(file: h5py.File, episodes: Sequence[EpisodePlan]) -> None:
    """Write ``concatenated/<table>/<column>`` for each column that has one form everywhere.

    ``concatenated/<table>/offsets`` has the first row of each episode, and the number of all;
    ``concatenated/episode_ids`` says which those are.
    """
    check_descriptors(episodes)
    group = file.create_group(CONCATENATED)
    group["episode_ids"] = np.array([each.episode for each in episodes], np.int64)
    for table in sorted({name for each in episodes for name in each.shard.tables}):
        rows = [max(each.shard.rows(table), 0) for each in episodes]
        offsets = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
        having = [each for each in episodes if table in each.shard.tables]
        group.create_dataset(f"{table}/offsets", data=offsets)
        forms = [set(each.shard.tables[table].columns) for each in having]
        for column in sorted(set.intersection(*forms), key=lambda one: one.name):
            _write_column(group, table, column, episodes, offsets)


def _write_column(
    group: h5py.Group,
    table: str,
    column: ColumnDescription,
    episodes: Sequence[EpisodePlan],
    offsets: "np.ndarray[Any, Any]",
) -> None:
    dtype = h5py.string_dtype("utf-8", column.dtype.itemsize) if column.is_text else column.dtype
    layout = h5py.VirtualLayout((int(offsets[-1]), *column.shape), dtype)
    for i, each in enumerate(episodes):
        rows = max(each.shard.rows(table), 0)
        if rows and 0 not in column.shape:
            place = f"/{each.shard.group}/{table}/{column.name}".replace("%", "%%")
            name = each.source.replace("%", "%%")
            source = h5py.VirtualSource(name, place, (rows, *column.shape), dtype)
            layout[int(offsets[i]) : int(offsets[i + 1])] = source
    place = f"{table}/{column.name}"
    group.create_virtual_dataset(place, layout, fillvalue=fill_value(column.dtype))
