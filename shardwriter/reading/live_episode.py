"""An episode that is still being recorded, read from its buffer and its part.

The newest rows are in the buffer's slots, all older ones flushed into the part. Nothing here
writes, locks or delays the recording. Invariant: between two calls of ``refresh`` the episode
does not change, and every row that was committed before the last one is there.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import BufferDamaged, EpisodeUnfinished
from shardwriter.files.buffer import Buffer, TableSlots
from shardwriter.files.compression import Compression
from shardwriter.files.layout import EVENTS, REWARDS, SPIKES, TIMESTEPS, EpisodePaths
from shardwriter.files.records import read_end, read_start, read_static
from shardwriter.files.schema import Column, Table
from shardwriter.files.tree import Leaf, build
from shardwriter.files.untrusted import check_memory
from shardwriter.reading.part_reader import PartReader
from shardwriter.system.process import Identity

__all__ = ["LiveEpisode"]

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]


@dataclass(frozen=True, slots=True)
class _LiveTable:
    """A table as it was at the last refresh; without slots all its rows are in the part."""

    table: Table
    rows: int
    slots: TableSlots | None = None


class LiveEpisode:
    """The source of an episode that has no shard yet.

    Parameters
    ----------
    paths
        The episode's files.

    Raises
    ------
    FileNotFoundError
        It has neither a buffer nor a part.
    BufferDamaged, ShardDamaged
        They cannot be read.
    """

    def __init__(self, paths: EpisodePaths) -> None:
        self.id = paths.episode
        self._paths = paths
        self._part = PartReader(paths)
        self._tables: dict[str, _LiveTable] = {}
        self._timesteps: dict[str, Array] = {}  # as far as they were read: rows never change
        self._leaves: dict[str, list[Leaf]] = {}
        self._start: dict[str, Any] = {}
        self._end: dict[str, Any] = {}
        self._steps = 0
        self._rewards = (0, 0.0)  # rows summed so far, their sum
        self._compression = Compression()
        self._buffer: Buffer | None = None
        try:
            self._buffer = Buffer.open(paths.buffer, read_only=True)
        except FileNotFoundError:  # it is in the memory of another machine
            self._start = self._part.attributes()
        self.refresh()

    def refresh(self) -> None:
        """Take in what was committed meanwhile."""
        if self._buffer is None:
            for table, rows in self._part.tables():
                known = self._tables.get(table.name)
                least = 0 if known is None else known.rows
                self._tables[table.name] = _LiveTable(table, max(rows, least))
            self._steps = max((known.rows for known in self._tables.values()), default=0)
            return
        self._read_records(self._buffer)
        self._steps = self._buffer.steps[0]
        for name, known in self._tables.items():
            if known.slots is not None:
                self._tables[name] = replace(known, rows=known.slots.rows)

    def _read_records(self, buffer: Buffer) -> None:
        for record, slots in buffer.read_new():
            if record.kind == "start":
                self._start = read_start(buffer.path, record.payload)
                self._compression = Compression(**self._start["compression"])
            elif record.kind == "static":
                leaves = read_static(buffer.path, record.payload)
                self._leaves[leaves[0].path] = leaves
            elif record.kind == "end":
                self._end = read_end(buffer.path, record.payload)
            for each in slots:
                self._tables[each.table.name] = _LiveTable(each.table, each.rows, each)
        if not self._start:
            raise BufferDamaged(self._paths.buffer, "its start record is gone")

    # -- as a source ----------------------------------------------------------------------

    def opened(self) -> AbstractContextManager[h5py.Group]:
        """Raise EpisodeUnfinished: there is no shard to open."""
        raise EpisodeUnfinished(self.id, "its HDF5 group")

    @property
    def status(self) -> str:
        """``recording``, or ``interrupted`` where its process is dead, or what its end says."""
        if "status" in self._end:
            return str(self._end["status"])
        is_dead = "owner" in self._start and Identity(**self._start["owner"]).state == "dead"
        return "interrupted" if is_dead else "recording"

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that a shard would have now, but for ``end_time``."""
        return {
            "episode_id": self.id,
            "seed": int(self._start.get("seed", 0)),
            "start_time": str(self._start.get("start_time", "")),
            "success": False,
            "total_timesteps": self._steps,
            "total_spikes": self.rows(SPIKES),
            "total_reward": self._total_reward(),
            **self._end,
            "status": self.status,
        }

    def _total_reward(self) -> float:
        summed, total = self._rewards
        if self.rows(REWARDS) > summed:
            new = self._columns(REWARDS, ["values"], summed, self.rows(REWARDS))[0]
            with np.errstate(all="ignore"):  # inf - inf is the caller's business
                total += float(np.sum(new))
            self._rewards = (summed + len(new), total)
        return total

    def rows(self, table: str) -> int:
        """Return the rows of a table, 0 for none."""
        return self._tables[table].rows if table in self._tables else 0

    def row_counts(self) -> dict[str, int]:
        """Return the rows of every table."""
        return {name: known.rows for name, known in self._tables.items()}

    def names(self) -> list[str]:
        """Return the names of what lies directly below the episode."""
        return sorted({*(name.partition("/")[0] for name in self._tables), *self._leaves})

    def event_types(self) -> list[str]:
        """Return the types of the events, in order."""
        prefix = f"{EVENTS}/"
        return sorted(n.removeprefix(prefix) for n in self._tables if n.startswith(prefix))

    def tree(self, name: str) -> Any:
        """Return nested static data, ``{}`` for none."""
        # Sorted as HDF5 lists them, so that nothing changes when the episode ends.
        leaves = sorted(self._leaves.get(name, []), key=lambda leaf: leaf.path.split("/"))
        return build([replace(leaf, array=_copied(leaf.array)) for leaf in leaves])

    def table(self, name: str, start: int | None, stop: int | None) -> Columns | None:
        """Return a table's columns in a window of timesteps, None where there is no such table."""
        if name not in self._tables:
            return None
        known = self._tables[name].table
        first, last, chosen = self._window(name, start, stop)
        row_bytes = sum(column.row_bytes for column in known.columns)
        check_memory(self._paths.buffer, name, row_bytes * (last - first))
        names = [TIMESTEPS, *sorted(c.name for c in known.columns if c.name != TIMESTEPS)]
        columns = [_as_read(column) for column in self._columns(name, names, first, last)]
        if chosen is not None:
            columns = [column[chosen] for column in columns]
        return dict(zip(names, columns, strict=True))

    # -- rows -----------------------------------------------------------------------------

    def _window(
        self, name: str, start: int | None, stop: int | None
    ) -> tuple[int, int, Array | None]:
        """Return the rows of a window of timesteps, and which of them where they are not sorted."""
        rows = self.rows(name)
        if start is None and stop is None:
            return 0, rows, None
        known = self._timesteps.get(name, np.zeros(0, np.int64))
        if len(known) < rows:
            new = self._columns(name, [TIMESTEPS], len(known), rows)[0]
            known = self._timesteps[name] = np.concatenate([known, new])
        low = np.iinfo(np.int64).min if start is None else start
        high = np.iinfo(np.int64).max if stop is None else stop
        chosen = np.flatnonzero((known[:rows] >= low) & (known[:rows] < high))
        if len(chosen) == 0:
            return 0, 0, None
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        return first, last, None if len(chosen) == last - first else chosen - first

    def _columns(self, name: str, names: Sequence[str], start: int, stop: int) -> list[Array]:
        """Return rows ``start`` to ``stop`` of columns, the older ones from the part."""
        if name not in self._tables:
            return []
        known = self._tables[name]
        columns = [c for key in names for c in known.table.columns if c.name == key]
        border, newest = self._newest(known, columns, start, stop)
        if border <= start:
            return newest
        slots = known.slots
        size = known.table.rows_per_chunk
        lacking = 0 if slots is None else slots.first_row // size * size
        older = self._part.columns(name, columns, start, border, lacking)
        return [np.concatenate(both) for both in zip(older, newest, strict=True)]

    def _newest(
        self, known: _LiveTable, columns: Sequence[Column], start: int, stop: int
    ) -> tuple[int, list[Array]]:
        """Copy the rows that the slots hold; return the first of them, and them."""
        chunks: dict[int, list[Array]] = {}
        if known.slots is not None and start < stop:
            chunks = self._copies(known.slots, columns, start, stop)
        joined = []
        for i, column in enumerate(columns):
            parts = [chunks[chunk][i] for chunk in sorted(chunks)]
            values = np.concatenate([np.zeros((0, *column.shape), column.dtype), *parts])
            joined.append(self._compression.rounded(known.table.name, column, values))
        border = min(chunks) * known.table.rows_per_chunk if chunks else stop
        return max(start, border), joined

    def _copies(
        self, slots: TableSlots, columns: Sequence[Column], start: int, stop: int
    ) -> dict[int, list[Array]]:
        """Return the rows of the chunks that the slots hold, by chunk.

        The simulation goes on meanwhile. A copy counts if after it the chunk was certain to be
        in its slot still, or was not in the part: so long its slot was not free.
        """
        size = slots.table.rows_per_chunk
        places = [slots.table.columns.index(column) for column in columns]
        copies: dict[int, list[Array]] = {}
        for chunk in range(-(-stop // size) - 1, start // size - 1, -1):  # the newest first
            if chunk < slots.oldest_unless_free:
                break
            held = slots.slots[chunk % len(slots.slots)]
            rows = slice(max(start - chunk * size, 0), min(stop - chunk * size, size))
            copies[chunk] = [np.array(held[i][rows]) for i in places]
        name = slots.table.name
        certain, possible = slots.oldest_chunk, slots.oldest_unless_free
        return {
            chunk: copy
            for chunk, copy in copies.items()
            if chunk >= certain or (chunk >= possible and not self._part.has(name, columns, chunk))
        }


def _copied(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


def _as_read(values: Array) -> Array:
    """Return a column as a shard gives it: text as str."""
    if values.dtype.kind != "S":
        return values
    texts = np.empty(values.shape, object)
    texts[...] = np.char.decode(values, "utf-8").astype(object)
    return texts
