"""What a killed writer left: reading a part that was never closed.

Invariant: the part is only read. Everything goes into a new file, chunk by chunk, as it was
compressed; the part stays what it was until that file takes its name. Nothing of a column is read
before its type, storage and filters were looked at.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import h5py
import numpy as np
from h5py import h5g

from shardwriter.errors import ShardDamaged
from shardwriter.files.column_reader import RowReader, read_rows, row_reader
from shardwriter.files.journal import Overlay
from shardwriter.files.layout import EVENTS, TABLES, TIMESTEPS, episode_group
from shardwriter.files.links import check_path, entries, members, open_dataset
from shardwriter.files.lookup3 import lookup3
from shardwriter.files.schema import Column, Table
from shardwriter.files.shard import Shard, first_row
from shardwriter.files.untrusted import check_column, readable

__all__ = ["check_opens", "is_sealed", "opened", "part_tables", "salvage", "set_aside", "tables_of"]

_SUPERBLOCK_BYTES = 48


def check_opens(part: Path, episode: int) -> None:
    """Raise ShardDamaged for a part of which nothing can be read."""
    place = episode_group(episode)
    with opened(part) as file, readable(part, place):
        check_path(part, file.id, place)
        members(part, h5g.open(file.id, b"/"), place)
        file[place].attrs.keys()


def is_sealed(part: Path, episode: int) -> bool:
    """Tell whether a part was completed and only lacks its final name."""
    with opened(part) as file:
        return "status" in file[episode_group(episode)].attrs


def salvage(part: Path, target: Shard, table: Table, *, whole: bool = True) -> int:
    """Copy a table's chunks into `target`, which does not have the table yet.

    Every chunk is decompressed on the way, so that one that cannot be is noticed.

    Parameters
    ----------
    part
        The file to read.
    target
        Where the rows go.
    table
        The table.
    whole
        Take whole chunks only; else also the last one as far as it goes.

    Returns
    -------
    int
        The number of leading chunks that every column has whole and sound.
    """
    with opened(part) as file:
        try:
            place = f"{target.group.name}/{table.name}".strip("/")
            sources = _sources(part, file, place, table)
        except (ShardDamaged, OSError, KeyError, RuntimeError):  # not there, or not readable
            target.add_table(table)
            return 0
        with readable(part, place):
            target.adopt(table, sources)
        chunks = _copied(sources, target, table.name)
        target.resize(table.name, chunks * table.rows_per_chunk)
        if not whole:
            _copy_rest(sources, target, table, chunks)
        target.add_table(table)
        return chunks


def part_tables(part: Path, episode: int) -> list[Table]:
    """Return the tables that a part has, with the columns that it has."""
    with opened(part) as file:
        check_path(part, file.id, episode_group(episode))
        return tables_of(part, file[episode_group(episode)])


def tables_of(path: Path, group: h5py.Group) -> list[Table]:
    """Return the tables in an episode's group of a file, with the columns that it has.

    Raises
    ------
    ShardDamaged
        One is none that can be read.
    """
    return [_table(path, name, group) for name in _table_names(path, group.id)]


def set_aside(path: Path, folder: Path) -> None:
    """Keep a copy of a damaged file in ``shards/damaged/``, where nothing else touches it."""
    if not path.exists():
        return
    folder.mkdir(exist_ok=True)
    copy = folder / path.name
    copy.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), copy)
    except OSError:  # on another file system, or on one without links
        shutil.copyfile(path, copy)


def _copied(sources: list[h5py.Dataset], target: Shard, name: str) -> int:
    chunks = min(_leading_chunks(source) for source in sources)
    firsts = [first_row(source) // source.chunks[0] for source in sources]
    readers: list[RowReader] = []
    for chunk in range(chunks):
        try:
            readers = readers or [row_reader(source) for source in sources]
            for i, source in enumerate(sources):
                if chunk >= firsts[i]:
                    target.copy_chunk(name, i, chunk, source, readers[i])
        except (ShardDamaged, OSError, RuntimeError):
            return chunk
    return chunks


def _copy_rest(sources: list[h5py.Dataset], target: Shard, table: Table, chunks: int) -> None:
    start = chunks * table.rows_per_chunk
    count = min(len(source) for source in sources) - start
    if not 0 < count < table.rows_per_chunk:
        return
    try:
        blocks = tuple(read_rows(source, start, start + count) for source in sources)
    except (ShardDamaged, OSError, RuntimeError):
        return
    target.write_chunk(table.name, chunks, blocks, count)


def _leading_chunks(source: h5py.Dataset) -> int:
    """Return how many chunks are there from the first on, counting those a late column lacks."""
    rows = int(source.chunks[0])
    count = first_row(source) // rows
    origin = (0,) * (source.ndim - 1)
    if source.size == 0:
        return int(len(source) // rows)
    while (count + 1) * rows <= len(source):
        try:
            if source.id.get_chunk_info_by_coord((count * rows, *origin)).byte_offset is None:
                break
        except (OSError, RuntimeError):
            break
        count += 1
    return int(count)


def _table_names(path: Path, group: h5g.GroupID) -> Iterator[str]:
    names = [os.fsdecode(name) for name in entries(path, group)]
    yield from (name for name in names if name in TABLES)
    yield from (f"{EVENTS}/{event}" for event in members(path, group, EVENTS))


def _table(path: Path, name: str, group: h5py.Group) -> Table:
    keys = members(path, group.id, name)
    columns = []
    for key in [TIMESTEPS, *(key for key in keys if key != TIMESTEPS)]:
        dataset = open_dataset(path, group.id, f"{name}/{key}")
        dtype, _ = check_column(path, dataset.id)
        plain = np.dtype(f"S{dtype.itemsize}") if dtype.kind == "S" else dtype
        columns.append(Column(key, plain, dataset.shape[1:]))
    times = open_dataset(path, group.id, f"{name}/{TIMESTEPS}")
    return Table(name, tuple(columns), int(times.chunks[0]))


def _sources(part: Path, file: h5py.File, place: str, table: Table) -> list[h5py.Dataset]:
    """Return the datasets of the first columns of a table, as many as a part has.

    Raises
    ------
    ShardDamaged
        There is none, or one is not of the form that the table gives it.
    """
    root = h5g.open(file.id, b"/")
    names = members(part, root, place)
    columns = list(takewhile(lambda column: column.name in names, table.columns))
    if not columns:
        raise ShardDamaged(part, place, "expected columns, got none")
    sources = []
    for column in columns:
        source = open_dataset(part, root, f"{place}/{column.name}")
        form = (*check_column(part, source.id), source.shape[1:])
        chunk = (table.rows_per_chunk, *(max(n, 1) for n in column.shape))
        if form != (column.dtype, chunk, column.shape):
            problem = "expected the dtype, shape and chunks of its table"
            raise ShardDamaged(part, str(source.name), problem)
        sources.append(source)
    with readable(part, place):
        if first_row(sources[0]):
            raise ValueError("expected a first column from row 0 on")
    return sources


@contextmanager
def opened(part: Path, journal: Path | None = None) -> Iterator[h5py.File]:
    """Open a part as it is at this moment; where `journal` exists, as it makes the part.

    HDF5 would open what a killed SWMR writer left only for SWMR reading, and that reads damaged
    metadata again and again, for hours. So it is shown the file with the mark of an open writer
    taken off its superblock; the file itself stays as it is. While another process writes the
    part, what is read in the block may fail, and can then be tried again.

    Raises
    ------
    ShardDamaged
        HDF5 cannot open it.
    """
    overlay = Overlay(part)
    try:
        try:
            if journal is not None:
                overlay.foresee(journal)
            _unmark(overlay)
            file = h5py.File(overlay, "r")
        except (OSError, ValueError) as error:
            raise ShardDamaged(part, "superblock", f"the part cannot be opened: {error}") from error
        with file:
            yield file
    finally:
        overlay.close()


def _unmark(overlay: Overlay) -> None:
    """Take the open writer's mark off a version 3 superblock (HDF5 file format, II.A)."""
    head = bytearray(_SUPERBLOCK_BYTES)
    size = overlay.seek(0, os.SEEK_END)
    overlay.seek(0)
    overlay.readinto(memoryview(head))
    if head[:9] != b"\x89HDF\r\n\x1a\n\x03":
        raise ValueError("it does not begin with an HDF5 superblock of version 3")
    stored = int.from_bytes(head[44:48], "little")
    if stored != lookup3(bytes(head[:44])):
        raise ValueError("its superblock fails its checksum")
    head[11] = 0
    head[44:48] = lookup3(bytes(head[:44])).to_bytes(4, "little")
    overlay.seek(0)
    overlay.write(memoryview(bytes(head)))
    # A writer reserves more than it has written when it is killed.
    overlay.truncate(max(size, int.from_bytes(head[28:36], "little")))
