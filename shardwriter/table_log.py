"""Rows into slots: the producer's end of one table.

Invariant: a row's values are stored before the counter says that it exists, and a slot is
written only while the writer does not have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwriter.buffer import Buffer, TableSlots
from shardwriter.schema import Column, Table, fill_value
from shardwriter.writer_process import Drain

__all__ = ["Store", "TableLog"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Store:
    """Where an episode's tables live.

    ``chunk_rows`` limits the rows of a chunk, ``n_slots`` is the number of slots of a table.
    """

    buffer: Buffer
    drain: Drain
    chunk_rows: int
    n_slots: int


class TableLog:
    """Appends rows to one table, handing full slots over.

    Parameters
    ----------
    store
        The episode's buffer and drain.
    name
        The table's name.
    columns
        Its columns after ``timesteps``.
    """

    __slots__ = ("_counter", "_limit", "_row", "_slots", "_store", "_views", "rows", "table")

    _row: int
    _views: tuple[Array, ...]

    def __init__(self, store: Store, name: str, columns: Sequence[Column]) -> None:
        self._store = store
        self.table = Table.of(name, tuple(columns), store.chunk_rows)
        self.rows = 0
        new = store.buffer.add_tables([self.table], [store.n_slots], [0])
        self._use(new.slots[0])
        new.commit()

    def append(self, timestep: int, values: Sequence[Any]) -> None:
        """Append one row; it exists once this returns.

        Parameters
        ----------
        timestep
            The row's timestep.
        values
            One value per column after ``timesteps``, of the column's dtype and shape; copied.
        """
        row = self._row
        if row == 0:
            self._claim_slot()
        views = self._views
        views[0][row] = timestep
        for view, value in zip(views[1:], values, strict=False):
            view[row] = value
        self._row = row = row + 1
        self.rows += 1
        self._counter[0] = self.rows
        if row == self._limit:
            self._hand_over()

    def extend(self, timesteps: int | Array, values: Sequence[Array], count: int) -> None:
        """Append `count` rows at the speed of memory.

        Parameters
        ----------
        timesteps
            One for all, or ``(count,)``.
        values
            One array ``(count, *shape)`` per column after ``timesteps``; copied.
        """
        done = 0
        while done < count:
            row = self._row
            if row == 0:
                self._claim_slot()
            n = min(count - done, self._limit - row)
            views = self._views
            views[0][row : row + n] = (
                timesteps if isinstance(timesteps, int) else timesteps[done : done + n]
            )
            for view, block in zip(views[1:], values, strict=True):
                view[row : row + n] = block[done : done + n]
            self._row = row + n
            self.rows += n
            self._counter[0] = self.rows
            done += n
            if self._row == self._limit:
                self._hand_over()

    def add_columns(self, columns: Sequence[Column]) -> None:
        """Add columns; the rows logged so far get their fill value (NaN for floats).

        Waits until the writer has every full slot on disk, then moves the rest of the rows to
        wider slots.
        """
        chunk = self.rows // self._limit
        if chunk:
            self._store.drain.wait_until_free(self.table.name, chunk - 1)
        wider = self.table.with_columns(tuple(columns))
        new = self._store.buffer.add_tables([wider], [self._store.n_slots], [self.rows])
        slots = new.slots[0]
        held = self.rows % self._limit
        views = slots.slots[chunk % len(slots.slots)]
        old_views = self._slots.slots[chunk % len(self._slots.slots)]
        for view, old in zip(views, old_views, strict=False):
            view[:held] = old[:held]
        for view, column in zip(views[len(self.table.columns) :], columns, strict=True):
            view[:held] = fill_value(column.dtype)
        self.table = wider
        self._use(slots)
        new.commit()

    def _use(self, slots: TableSlots) -> None:
        self._slots = slots
        self._counter = slots.counter
        self._limit = self.table.rows_per_chunk
        self._row = self.rows % self._limit
        self._views = slots.slots[self.rows // self._limit % len(slots.slots)]

    def _claim_slot(self) -> None:
        chunk = self.rows // self._limit
        slots = self._slots.slots
        if chunk >= len(slots):
            self._store.drain.wait_until_free(self.table.name, chunk - len(slots))
        self._views = slots[chunk % len(slots)]

    def _hand_over(self) -> None:
        self._row = 0
        self._store.drain.hand_over(self.table.name, self.rows // self._limit - 1)
