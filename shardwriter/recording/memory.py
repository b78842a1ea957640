"""The bound on the memory that buffers take.

Invariant: slots are only ever reserved within the bound; what does not fit is an error before
anything is logged, never a swap.
"""

import math
from collections.abc import Callable

import psutil

from shardwriter.errors import ConfigError
from shardwriter.files.buffer import TableSlots
from shardwriter.files.schema import Table

__all__ = ["MemoryBudget", "MemoryShare"]

_SLOTS = 4  # two would do; four let the writer fall behind for a while
_FEWEST = 2


class MemoryBudget:
    """Decides how many slots, and of how many rows, a table gets.

    Parameters
    ----------
    limit_bytes
        Most bytes of all buffers together.
    used_bytes
        Returns the bytes that they take now.
    reclaim
        Waits for an ended episode's buffer to be removed; returns False where there is none.
    """

    def __init__(
        self, limit_bytes: int, used_bytes: Callable[[], int], reclaim: Callable[[], bool]
    ) -> None:
        self.limit_bytes = limit_bytes
        self._used = used_bytes
        self._reclaim = reclaim
        self._available = limit_bytes

    def look(self) -> None:
        """Take note of the memory that the machine has left; called when an episode opens."""
        self._available = int(psutil.virtual_memory().available)

    def fit(self, table: Table, share_bytes: float = math.inf) -> tuple[Table, int]:
        """Return a table with as many rows to a slot as fit, and its number of slots.

        A table takes at most half of what is left, and of what is left of its episode's share,
        so that others find room.

        Raises
        ------
        ConfigError
            The smallest slots do not fit; the error names the bound that would do.
        """
        smallest = TableSlots.size(table.with_chunk_rows(1), _FEWEST)
        used = self._used()
        while smallest > self.limit_bytes - used and self._reclaim():
            used = self._used()
        free = min(self.limit_bytes - used, self._available)
        if smallest > free:
            raise self._too_small(table, used + smallest)
        free = max(int(min(free, share_bytes)), smallest)
        rows = table.rows_per_chunk
        for slots in (_SLOTS, _FEWEST):
            if TableSlots.size(table, slots) <= free / 2:
                return table, slots
        while rows > 1 and TableSlots.size(table.with_chunk_rows(rows), _FEWEST) > free / 2:
            rows //= 2
        return table.with_chunk_rows(rows), _FEWEST

    def _too_small(self, table: Table, needed: int) -> ConfigError:
        if needed > self.limit_bytes:
            expected = f"at least {math.ceil(needed / 1e6)} for the open episodes with {table.name}"
            return ConfigError("max_memory_mb", expected, self.limit_bytes / 1e6)
        free = f"{self._available / 1e6:.0f} MB are left"
        return ConfigError("memory", f"{needed / 1e6:.0f} MB for {table.name}", free)


class MemoryShare:
    """The share of one of several episodes that are opened together in a budget.

    Parameters
    ----------
    budget
        What is shared.
    of
        How many episodes share it.
    used_bytes
        Returns what this one takes now.
    """

    def __init__(self, budget: MemoryBudget, of: int, used_bytes: Callable[[], int]) -> None:
        self._budget = budget
        self._share = budget.limit_bytes / of
        self._used = used_bytes

    def fit(self, table: Table) -> tuple[Table, int]:
        """Return a table and its number of slots as ``MemoryBudget.fit`` does."""
        return self._budget.fit(table, self._share - self._used())
