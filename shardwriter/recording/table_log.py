"""Rows into slots: the producer's end of one table.

Invariant: a row's values are stored before the counter says that it exists, and a slot is
written only while the writer does not have it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwriter.files.buffer import Buffer, TableSlots
from shardwriter.files.schema import Column, Table, fill_value
from shardwriter.recording.drain import Drain
from shardwriter.recording.innermost import Cursor
from shardwriter.recording.memory import MemoryBudget, MemoryShare
from shardwriter.system.instants import reached

__all__ = ["Store", "TableLog"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Store:
    """Where an episode's tables live; ``chunk_rows`` limits the rows of a chunk."""

    buffer: Buffer
    drain: Drain
    chunk_rows: int
    budget: MemoryBudget | MemoryShare


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
    look
        Called with the timesteps and columns of every slot that was filled, unless the cursor
        knows that they are finite.
    cursor
        Told of every slot that is entered. Who has it may store rows and count them, and calls
        ``hand_over_full`` where that filled the slot.
    """

    __slots__ = (
        "_base",
        "_counter",
        "_cursor",
        "_fields",
        "_limit",
        "_look",
        "_names",
        "_slots",
        "_store",
        "_timesteps",
        "table",
    )

    _base: int  # rows before the current slot
    _timesteps: Array
    _fields: tuple[Array, ...]

    def __init__(
        self,
        store: Store,
        name: str,
        columns: Sequence[Column],
        look: Callable[[Array, Sequence[Array]], None] | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        self._store = store
        self._look = look
        self._cursor = cursor
        table = Table.of(name, tuple(columns), store.chunk_rows)
        self.table, n_slots = store.budget.fit(table)
        new = store.buffer.add_tables([self.table], [n_slots], [0])
        self._use(new.slots[0], 0)
        new.commit()

    @property
    def rows(self) -> int:
        """Rows logged so far."""
        return self._counter[0]

    def unfilled(self) -> tuple[Array, tuple[Array, ...]]:
        """Return the timesteps and columns of the rows that fill no slot yet."""
        row = self._counter[0] - self._base
        return self._timesteps[:row], tuple(field[:row] for field in self._fields)

    def progress(self) -> tuple[int, int]:
        """Return the rows and raw bytes logged so far."""
        return self.rows, self.rows * sum(column.row_bytes for column in self.table.columns)

    def append(self, timestep: int, values: Sequence[Any]) -> None:
        """Append one row; it exists once this returns.

        Parameters
        ----------
        timestep
            The row's timestep.
        values
            One value per column after ``timesteps``, of the column's dtype and shape; copied.
        """
        row = self._next_row()
        self._timesteps[row] = timestep
        for field, value in zip(self._fields, values):  # noqa: B905  (checked; strict costs time)
            field[row] = value
        self._counter[0] = self._base + row + 1
        if row + 1 == self._limit:
            self._hand_over()

    def append_group(self, timestep: int, values: Array) -> None:
        """Append rows of one timestep to a table of one field, shape ``(count,)``."""
        row = self._counter[0] - self._base
        end = row + len(values)
        if row == 0 or end >= self._limit:  # or the slot is full
            self.extend(timestep, (values,), len(values))
            return
        self._timesteps[row:end].fill(timestep)
        self._fields[0][row:end] = values
        self._counter[0] = self._base + end

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
            row = self._next_row()
            end = min(row + count - done, self._limit)
            stop = done + end - row
            self._timesteps[row:end] = (
                timesteps if isinstance(timesteps, int) else timesteps[done:stop]
            )
            for field, block in zip(self._fields, values, strict=True):
                field[row:end] = block[done:stop]
            done = stop
            self._counter[0] = self._base + end
            if end == self._limit:
                self._hand_over()

    def add_columns(self, columns: Sequence[Column]) -> None:
        """Add columns; the rows logged so far get their fill value (NaN for floats).

        Waits until the writer has every full slot on disk, then moves the rest of the rows to
        wider slots.
        """
        rows = self.rows
        chunk, held = divmod(rows, self._limit)
        if chunk:
            self._store.drain.wait_until_free(self.table.name, chunk - 1)
        wider = self.table.with_columns(tuple(columns))
        new = self._store.buffer.add_tables([wider], [len(self._slots.slots)], [rows])
        slots = new.slots[0]
        target = slots.slots[chunk % len(slots.slots)]
        for view, old in zip(target, (self._timesteps, *self._fields), strict=False):
            view[:held] = old[:held]
        for view, column in zip(target[len(self.table.columns) :], columns, strict=True):
            view[:held] = fill_value(column.dtype)
        self.table = wider
        self._use(slots, rows)
        new.commit()

    def _use(self, slots: TableSlots, rows: int) -> None:
        self._slots = slots
        self._counter = slots.counter
        self._limit = self.table.rows_per_chunk
        self._names = tuple(column.name for column in self.table.columns[1:])
        self._base = rows - rows % self._limit
        self._enter_slot()

    def _enter_slot(self) -> None:
        slots = self._slots.slots
        columns = slots[self._base // self._limit % len(slots)]
        self._timesteps, self._fields = columns[0], columns[1:]
        if self._cursor is not None:
            self._cursor.enter(self._names, columns, self._counter, self._base)

    def hand_over_full(self) -> None:
        """Hand the slot over if it is full."""
        if self._counter[0] - self._base == self._limit:
            self._hand_over()

    def _next_row(self) -> int:
        """Return the place of the next row, in a slot that is this end's."""
        self.hand_over_full()  # which Ctrl-C may have kept from being done
        row = self._counter[0] - self._base
        if row == 0:
            self._claim_slot()
        return row

    def _claim_slot(self) -> None:
        chunk = self._base // self._limit
        if chunk >= len(self._slots.slots):
            self._store.drain.wait_until_free(self.table.name, chunk - len(self._slots.slots))
        self._enter_slot()

    def _hand_over(self) -> None:
        chunk, n_slots = self._base // self._limit, len(self._slots.slots)
        drain, cursor = self._store.drain, self._cursor
        reached("slot full")
        is_finite = cursor is not None and cursor.all_finite()
        if cursor is not None:
            cursor.leave()
        self._base += self._limit
        drain.hand_over(self.table.name, chunk)
        reached("slot sent")
        if self._look is not None and not is_finite:
            self._look(self._timesteps, self._fields)
        if chunk + 1 < n_slots or drain.is_free(self.table.name, chunk + 1 - n_slots):
            self._enter_slot()  # at once, so that its first row is a usual one
