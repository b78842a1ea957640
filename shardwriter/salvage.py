"""What a killed writer left: reading a part that was never closed.

Invariant: the part is only read. Everything goes into a new file, chunk by chunk, as it was
compressed; the part stays what it was until that file takes its name.
"""

from pathlib import Path

import h5py

from shardwriter.errors import ShardDamaged
from shardwriter.layout import episode_group
from shardwriter.schema import Table
from shardwriter.shard import Shard

__all__ = ["is_sealed", "salvage"]


def is_sealed(part: Path, episode: int) -> bool:
    """Tell whether a part was completed and only lacks its final name."""
    with _opened(part) as file:
        return "status" in file[episode_group(episode)].attrs


def salvage(part: Path, target: Shard, table: Table) -> int:
    """Copy a table's whole chunks into `target`, which has the table already.

    Returns
    -------
    int
        The number of leading chunks that every column has.
    """
    with _opened(part) as file:
        group = file.get(f"{target.group.name}/{table.name}")
        if group is None:
            return 0
        pairs = [
            (group[column.name], target.dataset(table.name, i))
            for i, column in enumerate(table.columns)
            if column.name in group
        ]
        chunks = min(_leading_chunks(source) for source, _ in pairs)
        for source, copy in pairs:
            _copy(source, copy, chunks)
        for i in range(len(pairs), len(table.columns)):
            target.dataset(table.name, i).resize(chunks * table.rows_per_chunk, axis=0)
        return chunks


def _leading_chunks(source: h5py.Dataset) -> int:
    """Return how many chunks are there from the first on, counting those a late column lacks."""
    rows = source.chunks[0]
    count = int(source.attrs.get("first_row", 0)) // rows
    origin = (0,) * (source.ndim - 1)
    if source.size == 0:
        return int(len(source) // rows)
    while (count + 1) * rows <= len(source):
        if source.id.get_chunk_info_by_coord((count * rows, *origin)).byte_offset is None:
            break
        count += 1
    return count


def _copy(source: h5py.Dataset, copy: h5py.Dataset, chunks: int) -> None:
    rows = source.chunks[0]
    first = int(source.attrs.get("first_row", 0)) // rows
    if first:
        copy.attrs["first_row"] = source.attrs["first_row"]
    copy.resize(chunks * rows, axis=0)
    if source.size == 0:
        return
    for chunk in range(first, chunks):
        origin = (chunk * rows,) + (0,) * (source.ndim - 1)
        mask, data = source.id.read_direct_chunk(origin)
        copy.id.write_direct_chunk(origin, data, mask)


def _opened(part: Path) -> h5py.File:
    try:
        return h5py.File(part, "r", libver="latest", swmr=True, locking=False)
    except OSError as error:
        raise ShardDamaged(part, "superblock", f"the part cannot be opened: {error}") from error
