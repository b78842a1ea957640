"""Single windows, in any order.

Invariant: no more episodes' shards are held open than the number given.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import h5py
import numpy as np

from shardwriter.errors import ConfigError
from shardwriter.files.column_reader import RowReader, row_reader
from shardwriter.files.untrusted import check_column, file_of
from shardwriter.reading.across import Array, Opened, found_column

__all__ = ["WindowReader"]

_Columns = list[tuple[int, RowReader]]  # rows, and what reads them


class WindowReader:
    """Reads windows; any number of threads may use it.

    Finding and checking an episode's columns takes longer than reading a short window of them, so
    those of the last episodes are kept.

    Parameters
    ----------
    opened
        Lends out an episode's group.
    most
        Of how many episodes columns are kept.
    """

    def __init__(self, opened: Opened, most: int) -> None:
        self._opened = opened
        self._most = most
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], _Columns] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self, episode: int, start: int, length: int, fields: Sequence[str]
    ) -> dict[str, Array]:
        """Return one window of some fields; see ``ExperimentLoader.get_window``."""
        stop = start + length
        found = {}
        for field, (rows, read) in zip(fields, self._columns(episode, tuple(fields)), strict=True):
            if not 0 <= start < stop <= rows:
                expected = f"rows of episode {episode}, which has {rows}"
                raise ConfigError("start, length", expected, (start, length))
            found[field] = np.asarray(read(start, stop))
        return found

    def forget(self) -> None:
        """Let go of all columns."""
        with self._lock:
            self._kept.clear()

    def _columns(self, episode: int, fields: tuple[str, ...]) -> _Columns:
        key = episode, fields
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        columns = self._found(episode, fields)
        with self._lock:
            self._kept[key] = columns
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return columns

    def _found(self, episode: int, fields: tuple[str, ...]) -> _Columns:
        columns = []
        with self._opened(episode) as group:
            path = file_of(group)
            for field in fields:
                column = found_column(path, group, field)
                if column is None:
                    raise ConfigError("fields", f"tables and columns of episode {episode}", field)
                check_column(path, column)
                columns.append((column.shape[0], row_reader(h5py.Dataset(column))))
        return columns
