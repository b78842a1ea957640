"""One episode's HDF5 file: tables in, chunks out, and what a finished one says of itself.

Invariant: while a file is a part its structure never changes, except through ``amended``,
which a kill at any instant cannot harm.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.files.chunk_notes import ChunkNote, ChunkNotes
from shardwriter.files.chunk_sizes import StoredChunks
from shardwriter.files.column_reader import RowReader
from shardwriter.files.compression import ColumnCodec, Compression, Pipeline
from shardwriter.files.groups import episode_attributes, write_tree
from shardwriter.files.journal import Overlay
from shardwriter.files.layout import FORMAT, FORMAT_VERSION, episode_group
from shardwriter.files.schema import Column, Table, fill_value
from shardwriter.files.tree import Leaf
from shardwriter.system.instants import reached

__all__ = [
    "Codecs",
    "Encoded",
    "Shard",
    "amended",
    "codec_of",
    "column_attributes",
    "create",
    "first_row",
    "root_attributes",
]

Array = np.ndarray[Any, Any]
Codecs = dict[tuple[str, Column], ColumnCodec]

_LIBVER = ("v110", "v114")  # SWMR needs v110; v114 keeps out what HDF5 1.14 cannot read
_BOUNDS = {"v110": h5py.h5f.LIBVER_V110, "v114": h5py.h5f.LIBVER_V114}


def create(path: Path, episode: int) -> h5py.File:
    """Create the file of an empty shard.

    Raises
    ------
    FileExistsError
        The file exists.
    """
    file = h5py.File(path, "x", libver=_LIBVER)
    for name, value in root_attributes().items():
        file.attrs[name] = value
    file.create_group(episode_group(episode))
    return file


def root_attributes() -> dict[str, str]:
    """Return the root's attributes of a new shard."""
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "uuid": uuid.uuid4().hex}


def append_to(path: Path) -> h5py.File:
    """Open a closed part to append rows.

    In SWMR mode from the start: a process killed after a plain open, and before it switched
    to SWMR, would leave a file that nothing opens.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(*(_BOUNDS[name] for name in _LIBVER))
    flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
    file = h5py.File(h5py.h5f.open(os.fsencode(path), flags, fapl=access))
    reached("part opened")
    return file


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chunk of a column: its rows, and its bytes where not HDF5 is to compress them."""

    values: Array
    data: Any
    note: ChunkNote


@dataclass(slots=True)
class _StoredColumn:
    """A column's dataset and codec, and what was noted of each chunk written."""

    name: str
    dataset: h5py.Dataset
    codec: ColumnCodec
    rows: int  # of the dataset; asking HDF5 costs as much as writing a small chunk
    chunk_rows: int
    row_shape: tuple[int, ...]
    notes: ChunkNotes

    @classmethod
    def of(cls, name: str, dataset: h5py.Dataset, codec: ColumnCodec) -> "_StoredColumn":
        """Return the column of a dataset that was just created."""
        shape, notes = dataset.shape, ChunkNotes(name)
        return cls(name, dataset, codec, shape[0], dataset.chunks[0], shape[1:], notes)

    def grow(self, rows: int) -> None:
        """Make the dataset at least so long."""
        if rows > self.rows:
            self.dataset.id.set_extent((rows, *self.row_shape))
            self.rows = rows

    def encoded(self, block: Array) -> Encoded:
        """Return a chunk's rows as they will be stored; any thread may do so."""
        values = np.ascontiguousarray(self.codec.rounded(block))
        data = None
        if self.codec.encode is not None and 0 not in self.row_shape:
            data = self.codec.encode(_filled(values, self.chunk_rows))
        return Encoded(values, data, self.notes.of(values))


class Shard:
    """The tables of a shard that is being written, in whichever file holds them.

    Parameters
    ----------
    episode
        The episode's id.
    compression
        How columns are compressed.
    codecs
        One codec per column, kept by the caller from episode to episode.
    file
        The open file.
    """

    def __init__(
        self, episode: int, compression: Compression, codecs: Codecs, file: h5py.File
    ) -> None:
        self._episode = episode
        self._compression = compression
        self._codecs = codecs
        self._tables: dict[str, list[_StoredColumn]] = {}
        self.bind(file)

    def bind(self, file: h5py.File) -> None:
        """Go on in another file that holds the same tables."""
        self.file = file
        self.group = file[episode_group(self._episode)]
        for table, columns in self._tables.items():
            for column in columns:
                column.dataset = self.group[table][column.name]

    def add_table(
        self, table: Table, rows: int | None = None, sample: tuple[Array, ...] | None = None
    ) -> None:
        """Create the datasets of a table, or those of its columns that are new.

        Parameters
        ----------
        table
            The table; columns that the file has already are left alone.
        rows
            The final number of rows, where known: small tables then take small chunks.
        sample
            Rows of every column, from which an adaptive codec is chosen.
        """
        group = self.group.require_group(table.name)
        columns = self._tables.setdefault(table.name, [])
        first = columns[0].rows if columns else 0
        chunk_rows = table.rows_per_chunk if rows is None else min(table.rows_per_chunk, rows)
        for i in range(len(columns), len(table.columns)):
            column = table.columns[i]
            values = None if sample is None else sample[i]
            codec = codec_of(self._codecs, self._compression, table, column, values)
            dataset = _create_column(group, column, max(chunk_rows, 1), first, codec)
            columns.append(_StoredColumn.of(column.name, dataset, codec))

    def adopt(self, table: Table, sources: Sequence[h5py.Dataset]) -> None:
        """Create the datasets that another file has of a table's first columns, as they are there.

        Raises
        ------
        ValueError
            One has filters that no shard has, or says what no column says of itself.
        """
        columns = self._tables.setdefault(table.name, [])
        group = self.group.require_group(table.name)
        for column, given in zip(table.columns, sources, strict=False):
            reason = str(given.attrs.get("compression_choice", ""))
            codec = ColumnCodec(Pipeline.of(given), given.attrs.get("precision"), reason)
            dataset = _create_column(group, column, given.chunks[0], first_row(given), codec)
            if StoredChunks(dataset).filters != StoredChunks(given).filters:
                raise ValueError(f"{given.name}: expected filters that this package writes")
            columns.append(_StoredColumn.of(column.name, dataset, codec))

    def __contains__(self, table: Table) -> bool:
        """Tell whether the file has every column of a table."""
        return len(self._tables.get(table.name, ())) == len(table.columns)

    def write_chunk(self, table: str, chunk: int, blocks: tuple[Array, ...], rows: int) -> None:
        """Write one chunk of every column of a table; writing it again replaces it.

        Parameters
        ----------
        table
            The table's name.
        chunk
            Number of the chunk.
        blocks
            One array ``(rows_per_chunk, *shape)`` per column.
        rows
            Rows of the arrays that count; the rest of the chunk is filled with zeros.
        """
        self.store_chunk(table, chunk, self.encoded(table, [block[:rows] for block in blocks]))

    def encoded(self, table: str, blocks: Sequence[Array]) -> list[Encoded]:
        """Return a chunk of every column of a table, compressed; other threads may do so."""
        columns = self._tables[table]
        return [column.encoded(rows) for column, rows in zip(columns, blocks, strict=True)]

    def store_chunk(self, table: str, chunk: int, encoded: Sequence[Encoded]) -> None:
        """Write what ``encoded`` returned."""
        for column, one in zip(self._tables[table], encoded, strict=True):
            dataset = column.dataset
            start = chunk * column.chunk_rows
            column.grow(start + len(one.values))
            if 0 in column.row_shape:
                continue
            column.notes.add(chunk, one.note)
            if one.data is None:
                stop = start + len(one.values)
                dataset[start:stop] = one.values.view(dataset.dtype)  # text is UTF-8
                continue
            origin = (start,) + (0,) * (one.values.ndim - 1)
            dataset.id.write_direct_chunk(origin, one.data)

    def copy_chunk(
        self, table: str, column: int, chunk: int, source: h5py.Dataset, read: RowReader
    ) -> None:
        """Copy a whole chunk as it is compressed from a dataset of the same filters.

        `read` is the dataset's ``row_reader``.

        Raises
        ------
        ShardDamaged
            It does not hold what it should; nothing was copied.
        """
        stored = self._tables[table][column]
        rows = source.chunks[0]
        start = chunk * rows
        if source.size == 0:
            stored.grow(start + rows)
            return
        values = read(start, start + rows)
        stored.grow(start + rows)
        origin = (start,) + (0,) * (source.ndim - 1)
        mask, data = source.id.read_direct_chunk(origin)
        stored.dataset.id.write_direct_chunk(origin, data, mask)
        stored.notes.add(chunk, stored.notes.of(values))

    def resize(self, table: str, rows: int) -> None:
        """Set the number of rows of every column of a table, whole chunks of it."""
        for column in self._tables[table]:
            column.dataset.resize(rows, axis=0)
            column.rows = rows
            column.notes.keep(rows // column.chunk_rows)

    def rows(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        return {name: columns[0].rows for name, columns in self._tables.items()}

    def column_bytes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the raw and the stored bytes of each column, by ``table/column``."""
        raw, stored = {}, {}
        for table, columns in self._tables.items():
            for column in columns:
                raw[f"{table}/{column.name}"] = int(column.dataset.nbytes)
                stored[f"{table}/{column.name}"] = column.dataset.id.get_storage_size()
        return raw, stored

    def codec_choices(self) -> dict[str, str]:
        """Return what was chosen by measurement, and why, by ``table/column``."""
        return {
            f"{table}/{column.name}": column.codec.reason
            for table, columns in self._tables.items()
            for column in columns
            if column.codec.reason
        }

    def sums(self, table: str, column: int, chunks: int) -> dict[int, float]:
        """Return the sum of a column's values in each of its first chunks."""
        dataset = self._tables[table][column].dataset
        rows = dataset.chunks[0]
        with np.errstate(all="ignore"):
            return {i: float(np.sum(dataset[i * rows : (i + 1) * rows])) for i in range(chunks)}

    def describe(self, static: Iterable[list[Leaf]], values: Mapping[str, object]) -> None:
        """Write everything that is not a table: what was noted of chunks, trees, attributes."""
        for columns in self._tables.values():
            for column in columns:
                for name, value in column.notes.attributes().items():
                    column.dataset.attrs[name] = value
        trees = list(static)
        for leaves in trees:
            write_tree(self.group, leaves)
        for name, value in episode_attributes(trees, values).items():
            self.group.attrs[name] = value


def codec_of(
    codecs: Codecs, compression: Compression, table: Table, column: Column, sample: Array | None
) -> ColumnCodec:
    """Return the codec that is kept for a column, else a new one."""
    key = (table.name, column)
    codec = codecs.get(key)
    if codec is None:
        codec = compression.codec(table.name, column, sample)
        # Fewer rows than fill a slot tell little of other episodes.
        is_full = sample is not None and len(sample) == table.rows_per_chunk
        if is_full or not compression.adaptive:
            codecs[key] = codec
    return codec


def first_row(dataset: h5py.Dataset) -> int:
    """Return the first row of a column that was added late, 0 for others.

    Raises
    ------
    ValueError
        It says something that is no row of it.
    """
    value = dataset.attrs.get("first_row", 0)
    if not isinstance(value, int | np.integer):
        raise ValueError(f"{dataset.name}@first_row: expected a row, got {value!r}")
    return min(max(int(value), 0), len(dataset))


def column_attributes(column: Column, codec: ColumnCodec, first: int = 0) -> dict[str, object]:
    """Return the attributes that say how a column, whose first row is `first`, came to be."""
    every = {
        "first_row": first or None,
        "logged_as": column.logged_as,
        "precision": codec.precision,
        "compression_choice": codec.reason or None,
    }
    return {name: value for name, value in every.items() if value is not None}


def _create_column(
    group: h5py.Group, column: Column, chunk_rows: int, first: int, codec: ColumnCodec
) -> h5py.Dataset:
    text = column.dtype.kind == "S"
    dataset = group.create_dataset(
        column.name,
        shape=(first, *column.shape),
        maxshape=(None, *(n or None for n in column.shape)),  # h5py: no chunk beyond it
        chunks=(chunk_rows, *(max(n, 1) for n in column.shape)),
        dtype=h5py.string_dtype("utf-8", column.dtype.itemsize) if text else column.dtype,
        fillvalue=fill_value(column.dtype),
        **codec.pipeline.dataset_options(),
    )
    for name, value in column_attributes(column, codec, first).items():
        dataset.attrs[name] = value
    return dataset


def _filled(values: Array, rows: int) -> Array:
    """Return values as the rows of a whole chunk, with zeros after them."""
    if len(values) == rows:
        return values
    whole = np.zeros((rows, *values.shape[1:]), values.dtype)
    whole[: len(values)] = values
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
