"""Rows that are flushed, read from a part while its writer goes on.

A part is written in SWMR order, so that it is whole at every instant but for the block that is
being written; a change of its structure is in a journal first. Invariant: what is read passed
every check of HDF5 and the codec, and no chunk of it was missing; else it is read again.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from shardwriter.errors import ShardDamaged
from shardwriter.files.column_reader import read_rows
from shardwriter.files.groups import read_attributes
from shardwriter.files.layout import EpisodePaths, episode_group
from shardwriter.files.links import check_path
from shardwriter.files.salvage import opened, tables_of
from shardwriter.files.schema import Column, Table, fill_value
from shardwriter.files.untrusted import check_column

__all__ = ["PartReader"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")

# A part that is being changed is whole again within milliseconds.
_ATTEMPTS = 60
_PAUSE_S = 0.02


class PartReader:
    """Reads one episode's part; once that became the shard, the shard.

    Parameters
    ----------
    paths
        The episode's files.
    """

    def __init__(self, paths: EpisodePaths) -> None:
        self._paths = paths

    def attributes(self) -> dict[str, Any]:
        """Return the episode's attributes.

        Raises
        ------
        FileNotFoundError
            There is neither part nor shard. So in every method.
        ShardDamaged
            The file cannot be read, however often it is tried. So in every method.
        """
        return self._read(lambda path, group: read_attributes(group))

    def tables(self) -> list[tuple[Table, int]]:
        """Return the tables, each with the rows that all its columns have."""

        def look(path: Path, group: h5py.Group) -> list[tuple[Table, int]]:
            return [(table, _rows(group, table)) for table in tables_of(path, group)]

        return self._read(look)

    def columns(
        self, table: str, columns: Sequence[Column], start: int, stop: int, lacking: int = 0
    ) -> tuple[Array, ...]:
        """Return rows ``start`` to ``stop`` of columns of a table, which are known to be flushed.

        A late column that the part does not have yet gives its fill value in the first `lacking`
        rows, which were flushed before there was such a column.
        """

        def read(path: Path, group: h5py.Group) -> tuple[Array, ...]:
            check_path(path, group.id, table)
            there = group[table]
            return tuple(
                _filled(column, stop - start)
                if column.name not in there and stop <= lacking
                else _column(path, there, column, start, stop)
                for column in columns
            )

        return self._read(read)

    def has(self, table: str, columns: Sequence[Column], chunk: int) -> bool:
        """Tell whether a chunk is flushed, in every one of some columns."""

        def look(path: Path, group: h5py.Group) -> bool:
            if table not in group:
                return False
            there = [group[table].get(column.name) for column in columns]
            return all(dataset is not None and _is_there(dataset, chunk) for dataset in there)

        if not self._paths.part.exists() and not self._paths.shard.exists():
            return False
        return self._read(look)

    def _read(self, work: Callable[[Path, h5py.Group], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                return self._try(work)
            except (ShardDamaged, OSError, KeyError, RuntimeError, ValueError) as error:
                if attempt == _ATTEMPTS - 1:
                    if isinstance(error, (ShardDamaged, FileNotFoundError)):
                        raise
                    reason = f"cannot be read: {error}"
                    raise ShardDamaged(self._paths.part, "structure", reason) from error
            time.sleep(_PAUSE_S)
        raise AssertionError  # the last attempt returns or raises

    def _try(self, work: Callable[[Path, h5py.Group], T]) -> T:
        path = self._paths.part if self._paths.part.exists() else self._paths.shard
        with opened(path, self._paths.journal) as file:
            place = episode_group(self._paths.episode)
            check_path(path, file.id, place)
            return work(path, file[place])


def _column(path: Path, table: h5py.Group, column: Column, start: int, stop: int) -> Array:
    check_path(path, table.id, column.name)
    dataset = table[column.name]
    check_column(path, dataset.id)
    rows = dataset.chunks[0]
    # HDF5 reads a missing chunk as fill values, which only those before a late column are.
    first = max(start, int(dataset.attrs.get("first_row", 0)) // rows * rows)
    for chunk in range(first // rows, -(-stop // rows)):
        if not _is_there(dataset, chunk, stop):
            raise ShardDamaged(path, f"{dataset.name}, chunk {chunk}", "it is not there")
    if column.dtype.kind == "S":
        return read_rows(dataset, start, stop).astype(column.dtype)
    return read_rows(dataset, start, stop)


def _is_there(dataset: h5py.Dataset, chunk: int, stop: int | None = None) -> bool:
    """Tell whether a dataset has a chunk, as far as row `stop`, by default whole."""
    rows = dataset.chunks[0]
    end = (chunk + 1) * rows
    if len(dataset) < (end if stop is None else min(end, stop)):
        return False
    if dataset.size == 0:
        return True
    origin = (chunk * rows,) + (0,) * (dataset.ndim - 1)
    return dataset.id.get_chunk_info_by_coord(origin).byte_offset is not None


def _filled(column: Column, rows: int) -> Array:
    value = fill_value(column.dtype)
    values = np.zeros((rows, *column.shape), column.dtype)
    if value is not None:
        values[...] = value
    return values


def _rows(group: h5py.Group, table: Table) -> int:
    return min(len(group[table.name][column.name]) for column in table.columns)
