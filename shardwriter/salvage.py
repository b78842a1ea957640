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
    """Copy a table's whole chunks into `target`, which does not have the table yet.

    Returns
    -------
    int
        The number of leading chunks that every column has.
    """
    with _opened(part) as file:
        group = file.get(f"{target.group.name}/{table.name}")
        if group is None:
            target.add_table(table)
            return 0
        target.adopt(table, group)
        sources = [group[column.name] for column in table.columns if column.name in group]
        chunks = min(_leading_chunks(source) for source in sources)
        for i, source in enumerate(sources):
            first = int(source.attrs.get("first_row", 0)) // source.chunks[0]
            for chunk in range(first, chunks):
                target.copy_chunk(table.name, i, chunk, source)
        target.resize(table.name, chunks * table.rows_per_chunk)
        target.add_table(table)
        return chunks


def _leading_chunks(source: h5py.Dataset) -> int:
    """Return how many chunks are there from the first on, counting those a late column lacks."""
    rows = int(source.chunks[0])
    count = int(source.attrs.get("first_row", 0)) // rows
    origin = (0,) * (source.ndim - 1)
    if source.size == 0:
        return int(len(source) // rows)
    while (count + 1) * rows <= len(source):
        if source.id.get_chunk_info_by_coord((count * rows, *origin)).byte_offset is None:
            break
        count += 1
    return int(count)


def _opened(part: Path) -> h5py.File:
    try:
        return h5py.File(part, "r", libver="latest", swmr=True, locking=False)
    except OSError as error:
        raise ShardDamaged(part, "superblock", f"the part cannot be opened: {error}") from error
