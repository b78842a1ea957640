"""Tables and columns: what a row is made of, and how many rows make a chunk.

Invariant: slot ``k`` of a table holds the rows of chunk ``k``, so ``rows_per_chunk`` never
changes in the life of a table, while its columns may grow in number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from shardwriter.files.layout import FORMAT_VERSION, TIMESTEPS

__all__ = ["INDEX_DTYPE", "Column", "Table", "fill_value", "name_problem", "spell"]

CHUNK_BYTES = 1 << 20
_STORABLE_KINDS = "biufcS"

# One row per episode, copied into the master; -1 rows: the episode has no such table.
INDEX_DTYPE = np.dtype(
    [
        ("episode_id", "<i8"),
        ("status", "S12"),
        ("steps", "<i8"),
        ("spikes", "<i8"),
        ("total_reward", "<f8"),
        ("seed", "<u8"),
        ("start_time", "<f8"),
        ("end_time", "<f8"),
        ("rows_neural_states", "<i8"),
        ("rows_spikes", "<i8"),
        ("rows_behavior", "<i8"),
        ("rows_rewards", "<i8"),
        ("rows_weight_changes", "<i8"),
        ("rows_events", "<i8"),
        ("shard", "S32"),  # as wide as the longest name in the file
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("uuid", "S32"),
        ("shard_episode_id", "<i8"),  # its id in the shard, another one after --renumber
    ]
)


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a table: a name, a NumPy dtype and the fixed shape of one row.

    ``logged_as`` names the dtype of what was logged, where HDF5 has no such dtype.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    logged_as: str | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)  # NumPy's takes 20 times as long

    def to_json(self) -> list[object]:
        """Return the column as JSON values."""
        return [self.name, self.dtype.str, list(self.shape), self.logged_as]

    @classmethod
    def from_json(cls, value: list[Any]) -> "Column":
        """Return the column that ``to_json`` wrote.

        Raises
        ------
        ValueError, TypeError, OverflowError
            It wrote no such thing.
        """
        name, dtype, shape, logged_as = value
        column = cls(str(name), np.dtype(dtype), tuple(int(n) for n in shape), logged_as)
        if not is_storable(column.dtype) or min(column.shape, default=0) < 0:
            raise ValueError(f"a column of {column.dtype} {column.shape}")
        return column


@dataclass(frozen=True, slots=True)
class Table:
    """An append-only group of equal-length columns; the first is ``timesteps``."""

    name: str
    columns: tuple[Column, ...]
    rows_per_chunk: int

    @classmethod
    def of(cls, name: str, columns: tuple[Column, ...], chunk_rows: int) -> "Table":
        """Return a table of ``timesteps`` and `columns` with chunks of about 1 MiB.

        Parameters
        ----------
        name
            Path of the table's group below the episode.
        columns
            The columns after ``timesteps``.
        chunk_rows
            Upper limit of rows in a chunk.
        """
        every = (Column(TIMESTEPS, np.dtype(np.int64)), *columns)
        widest = sum(column.row_bytes for column in every)
        return cls(name, every, max(1, min(chunk_rows, CHUNK_BYTES // max(widest, 1))))

    def with_columns(self, columns: tuple[Column, ...]) -> "Table":
        """Return the same table with more columns at its end."""
        return Table(self.name, self.columns + columns, self.rows_per_chunk)

    def with_chunk_rows(self, rows: int) -> "Table":
        """Return the same table with other chunks."""
        return Table(self.name, self.columns, rows)

    def to_json(self) -> dict[str, object]:
        """Return the table as JSON values."""
        return {
            "name": self.name,
            "rows_per_chunk": self.rows_per_chunk,
            "columns": [column.to_json() for column in self.columns],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Table":
        """Return the table that ``to_json`` wrote.

        Raises
        ------
        ValueError, TypeError, KeyError, OverflowError
            It wrote no such thing.
        """
        columns = tuple(Column.from_json(column) for column in value["columns"])
        table = cls(str(value["name"]), columns, int(value["rows_per_chunk"]))
        if not columns or table.rows_per_chunk < 1:
            raise ValueError(f"{len(columns)} columns in chunks of {table.rows_per_chunk} rows")
        return table


def spell(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    """Write a dtype and a row's shape for people: ``float32 (3,)``."""
    if dtype.kind == "S":
        return f"text of at most {dtype.itemsize} bytes {shape}"
    return f"{dtype.name} {shape}"


def fill_value(dtype: np.dtype[Any]) -> object | None:
    """Return the value of a row nobody wrote: NaN, or the smallest signed integer.

    None stands for HDF5's own default, where a dtype has no value that no one takes for data.
    """
    if dtype.kind in "fc":
        return cast(object, dtype.type(np.nan))
    if dtype.kind == "i":
        return cast(object, dtype.type(np.iinfo(dtype).min))
    return None


def is_storable(dtype: np.dtype[Any]) -> bool:
    """Tell whether rows of this dtype can be recorded."""
    return dtype.kind in _STORABLE_KINDS and dtype.itemsize > 0 and dtype.names is None


def name_problem(name: object) -> str | None:
    """Say what is wrong with the name of a field, event type or group, if anything is."""
    if not isinstance(name, str):
        return f"{type(name).__name__} {name!r}"
    if not name or name in {".", ".."}:
        return f"{name!r}, which is no name"
    if "/" in name or "\0" in name:
        return f"{name!r}, which has a slash or NUL in it"
    if not is_utf8(name):
        return f"{name!r}, which is no Unicode text"
    return None


def is_utf8(text: str) -> bool:
    """Tell whether a text can be stored: one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable_version(version: str) -> bool:
    """Tell whether this release reads files of that format version."""
    return version.partition(".")[0] == FORMAT_VERSION.partition(".")[0]
