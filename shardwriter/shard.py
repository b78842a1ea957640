"""One episode's HDF5 file: tables in, chunks out, and what a finished one says of itself.

Invariant: while a file is a part its structure never changes, except through ``amended``,
which a kill at any instant cannot harm.
"""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.codec import Deflater
from shardwriter.errors import FormatError, ShardDamaged
from shardwriter.journal import Overlay, sync_directory
from shardwriter.layout import EVENTS, FORMAT, FORMAT_VERSION, TABLES, episode_group
from shardwriter.schema import Column, Table, fill_value, readable_version

__all__ = ["Compression", "Shard", "ShardDescription", "amended", "describe"]

_LIBVER = ("v110", "v114")  # SWMR needs v110; v114 keeps out what HDF5 1.14 cannot read


@dataclass(frozen=True, slots=True)
class Compression:
    """How columns are compressed: ``gzip`` with a level, ``lzf``, or not at all."""

    name: str | None
    level: int = 4

    def dataset_options(self) -> dict[str, object]:
        """Return what ``create_dataset`` needs to declare the filters."""
        if self.name is None:
            return {}
        if self.name == "gzip":
            return {"compression": "gzip", "compression_opts": self.level, "shuffle": True}
        return {"compression": self.name, "shuffle": True}


class Shard:
    """A shard that is being written, as a part or under its temporary name.

    Parameters
    ----------
    file
        The open file.
    episode
        The episode's id.
    compression
        The filters of every column.
    encoders
        One encoder per column, kept by the caller from episode to episode.
    """

    def __init__(
        self,
        file: h5py.File,
        episode: int,
        compression: Compression,
        encoders: dict[tuple[str, str], Deflater],
    ) -> None:
        self.file = file
        self.group = file.require_group(episode_group(episode))
        self._compression = compression
        self._encoders = encoders
        self._datasets: dict[str, list[h5py.Dataset]] = {}

    @staticmethod
    def create(path: Path, episode: int) -> h5py.File:
        """Create the file of an empty shard.

        Raises
        ------
        FileExistsError
            The file exists.
        """
        file = h5py.File(path, "x", libver=_LIBVER)
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["uuid"] = uuid.uuid4().hex
        file.create_group(episode_group(episode))
        return file

    @staticmethod
    def append_to(path: Path) -> h5py.File:
        """Open a closed part to append rows."""
        return h5py.File(path, "r+", libver=_LIBVER)

    def add_table(self, table: Table, rows: int | None = None) -> None:
        """Create the datasets of a table, or those of its columns that are new.

        Parameters
        ----------
        table
            The table; columns that the file has already are left alone.
        rows
            The final number of rows, where known: small tables then take small chunks.
        """
        group = self.group.require_group(table.name)
        first = len(self._rows_of(group))
        chunk_rows = table.rows_per_chunk if rows is None else min(table.rows_per_chunk, rows)
        self._datasets[table.name] = [
            group[column.name]
            if column.name in group
            else self._create(group, column, max(chunk_rows, 1), first)
            for column in table.columns
        ]

    def _rows_of(self, group: h5py.Group) -> range:
        return range(len(group["timesteps"]) if "timesteps" in group else 0)

    def _create(self, group: h5py.Group, column: Column, rows: int, first: int) -> h5py.Dataset:
        text = column.dtype.kind == "S"
        dataset = group.create_dataset(
            column.name,
            shape=(first, *column.shape),
            maxshape=(None, *column.shape),
            chunks=(rows, *(max(n, 1) for n in column.shape)),
            dtype=h5py.string_dtype("utf-8", column.dtype.itemsize) if text else column.dtype,
            fillvalue=fill_value(column.dtype),
            **self._compression.dataset_options(),
        )
        if first:
            dataset.attrs["first_row"] = first
        return dataset

    def tables(self) -> list[str]:
        """Return the names of the tables that the file has."""
        return list(self._datasets)

    def has(self, table: Table) -> bool:
        """Tell whether the file has every column of a table."""
        return len(self._datasets.get(table.name, ())) == len(table.columns)

    def write_chunk(
        self, name: str, chunk: int, columns: tuple[np.ndarray[Any, Any], ...], rows: int
    ) -> None:
        """Write one chunk of every column of a table; writing it again replaces it.

        Parameters
        ----------
        name
            The table.
        chunk
            Number of the chunk.
        columns
            One array ``(rows_per_chunk, *shape)`` per column.
        rows
            Rows of the arrays that count; the rest of the chunk is filled with zeros.
        """
        for dataset, block in zip(self._datasets[name], columns, strict=True):
            chunk_rows = dataset.chunks[0]
            start = chunk * chunk_rows
            if len(dataset) < start + rows:
                dataset.resize(start + rows, axis=0)
            if dataset.size == 0:
                continue
            if self._compression.name == "lzf":
                dataset[start : start + rows] = block[:rows]
                continue
            origin = (start,) + (0,) * (block.ndim - 1)
            whole = _whole_chunk(block, rows, chunk_rows)
            dataset.id.write_direct_chunk(origin, self._encoded(name, dataset, whole))

    def chunk_sums(self, name: str, column: int, chunks: int) -> dict[int, float]:
        """Return the sum of a column's values in each of its first chunks."""
        dataset = self._datasets[name][column]
        rows = dataset.chunks[0]
        return {i: float(np.sum(dataset[i * rows : (i + 1) * rows])) for i in range(chunks)}

    def dataset(self, name: str, column: int) -> h5py.Dataset:
        """Return the dataset of a table's column."""
        return self._datasets[name][column]

    def _encoded(self, name: str, dataset: h5py.Dataset, block: np.ndarray[Any, Any]) -> Any:
        if self._compression.name is None:
            return block
        key = (name, dataset.name.rpartition("/")[2])
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = self._encoders[key] = Deflater(self._compression.level)
        return encoder(block)


def _whole_chunk(block: np.ndarray[Any, Any], rows: int, chunk_rows: int) -> np.ndarray[Any, Any]:
    """Return the first `rows` rows of a block as a chunk, with zeros for the rest."""
    if rows == chunk_rows:
        return block[:rows]
    whole = np.zeros((chunk_rows, *block.shape[1:]), block.dtype)
    whole[:rows] = block[:rows]
    return whole


@contextmanager
def amended(path: Path, journal: Path) -> Iterator[h5py.File]:
    """Open a closed part to change its structure; all of it happens, or nothing.

    An exception inside the block leaves the file as it was.
    """
    overlay = Overlay(path)
    try:
        with h5py.File(overlay, "r+", libver=_LIBVER) as file:
            yield file
        overlay.commit(journal)
    finally:
        overlay.close()


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """One dataset of a table: dtype, shape and HDF5 filters."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    text_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ShardDescription:
    """What a merge needs to know of one finished shard."""

    path: Path
    episode: int
    uuid: str
    size: int
    mtime_ns: int
    attributes: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, ColumnDescription]]
    others: tuple[str, ...]

    def rows(self, table: str) -> int:
        """Return the rows of a table, -1 where the episode has none."""
        columns = self.tables.get(table)
        return next(iter(columns.values())).shape[0] if columns else -1


def describe(path: Path) -> ShardDescription:
    """Read a shard's description.

    Raises
    ------
    FormatError
        The file is of another format or version.
    ShardDamaged
        The file cannot be read, or its structure is not a shard's.
    """
    stat = path.stat()
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            check_format(path, attributes)
            names = list(file["episodes"])
            if len(names) != 1:
                raise ShardDamaged(path, "episodes", f"expected one episode, got {len(names)}")
            group = file["episodes"][names[0]]
            tables, others = _tables(path, group)
            return ShardDescription(
                path,
                int(group.attrs["episode_id"]),
                str(attributes["uuid"]),
                stat.st_size,
                stat.st_mtime_ns,
                dict(group.attrs),
                tables,
                others,
            )
    except (OSError, KeyError, RuntimeError) as error:
        raise ShardDamaged(path, "structure", f"not a readable shard: {error}") from error


def check_format(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a file of another format, or of a version that this release cannot read."""
    version = str(attributes.get("format_version", "none"))
    if attributes.get("format") != FORMAT or not readable_version(version):
        got = f"{attributes.get('format', 'none')} {version}"
        raise FormatError(path, f"format {FORMAT} {FORMAT_VERSION.split('.')[0]}.x", got)


def _tables(
    path: Path, group: h5py.Group
) -> tuple[dict[str, dict[str, ColumnDescription]], tuple[str, ...]]:
    tables = {}
    others = []
    for name in group:
        _check_link(path, group, name)
        if name in TABLES:
            tables[name] = _columns(path, group[name])
        elif name == EVENTS:
            for event in group[name]:
                _check_link(path, group[name], event)
                tables[f"{EVENTS}/{event}"] = _columns(path, group[name][event])
        else:
            others.append(name)
    return tables, tuple(others)


def _columns(path: Path, group: h5py.Group) -> dict[str, ColumnDescription]:
    columns = {}
    for name in group:
        _check_link(path, group, name)
        dataset = group[name]
        if dataset.is_virtual or dataset.external:
            raise ShardDamaged(path, dataset.name, "expected data of its own, got a reference")
        text = h5py.check_string_dtype(dataset.dtype)
        columns[name] = ColumnDescription(dataset.dtype, dataset.shape, text and text.length)
    lengths = {column.shape[0] for column in columns.values()}
    if len(lengths) != 1:
        raise ShardDamaged(path, group.name, f"expected columns of one length, got {lengths}")
    return columns


def _check_link(path: Path, group: h5py.Group, name: str) -> None:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ShardDamaged(path, f"{group.name}/{name}", "expected an object, got a link")


def publish(temporary: Path, final: Path, *, replace: bool = False) -> None:
    """Make a closed file durable, and visible under its final name.

    Raises
    ------
    FileExistsError
        The final name exists and `replace` is not set; nothing was overwritten.
    """
    fd = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    if not replace and final.exists():
        raise FileExistsError(final)
    temporary.replace(final)
    sync_directory(final.parent)
