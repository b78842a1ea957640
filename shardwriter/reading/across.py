"""Reading one field over many episodes.

Invariant: memory is bounded by what is returned, or by the buffer given, and descriptors by the
shards' cache, however many episodes there are.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5o

from shardwriter.errors import ConfigError, FieldsDiffer, ShardDamaged
from shardwriter.files.column_reader import read_rows
from shardwriter.files.layout import TIMESTEPS
from shardwriter.files.links import check_path
from shardwriter.files.quick_columns import QuickColumns
from shardwriter.files.untrusted import check_column, check_memory, file_of
from shardwriter.reading.recorded_episode import check_window
from shardwriter.reading.shard_episode import timestep_rows

__all__ = [
    "Array",
    "Opened",
    "Span",
    "check_alike",
    "concatenated",
    "found_column",
    "read_again",
    "span_of",
]

Array = np.ndarray[Any, Any]
Opened = Callable[[int], AbstractContextManager[h5py.Group]]


def concatenated(
    opened: Opened,
    quick: QuickColumns,
    field: str,
    episodes: Sequence[int],
    rows: Sequence[int] | None,
    start: int | None,
    stop: int | None,
) -> tuple[Array, Array]:
    """Return a field's rows of many episodes in one array, and where each episode starts.

    Parameters
    ----------
    opened
        Lends out an episode's group.
    quick
        Reads what it can without that.
    field
        Table and column, as ``behavior/position``.
    episodes
        Ids, in the order wanted.
    rows
        The rows of that table in each episode, None where they are not known.
    start, stop
        Bounds of timesteps in each episode.
    """
    check_window(start, stop)
    if rows is not None and start is None and stop is None:
        return _whole(opened, quick, field, episodes, rows)
    spans = [span_of(opened, episode, field, start, stop) for episode in episodes]
    offsets = _offsets([span.count for span in spans])
    there = [span for span in spans if span.dtype is not None]
    if not there:
        raise ConfigError(
            "field", "a table and column of some episode (`shardwriter info` lists them)", field
        )
    first = there[0]
    check_alike(field, there)
    check_memory(first.path, field, int(offsets[-1]) * first.row_bytes)
    out = np.empty((int(offsets[-1]), *first.shape), first.dtype)
    for i, span in enumerate(spans):
        if span.count:
            out[offsets[i] : offsets[i + 1]] = _rows(opened, field, span)
    return out, offsets


def _offsets(counts: Sequence[int]) -> Array:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _whole(
    opened: Opened, quick: QuickColumns, field: str, episodes: Sequence[int], rows: Sequence[int]
) -> tuple[Array, Array]:
    """Read whole columns, each episode opened once, into an array of known length."""
    counts = list(rows)
    out: Array | None = None
    first: Span | None = None
    filled = 0
    for i, episode in enumerate(episodes):
        if out is not None and counts[i]:
            target = out[filled : filled + counts[i]]
            if quick.read(episode, [(field, 0, target)]):
                filled += counts[i]
                continue
        with opened(episode) as group:
            path = file_of(group)
            dataset = found_column(path, group, field)
            if dataset is None:
                counts[i] = 0
                continue
            dtype, _ = check_column(path, dataset)
            shape = dataset.shape
            span = Span(episode, path, 0, shape[0], dtype, shape[1:])
            if shape[0] != counts[i]:
                raise ShardDamaged(path, field, f"expected {counts[i]} rows, got {shape[0]}")
            if out is None or first is None:
                first = span
                check_memory(path, field, sum(counts) * span.row_bytes)
                out = np.empty((sum(counts), *shape[1:]), dtype)
            check_alike(field, [first, span])
            _read_into(dataset, out[filled : filled + shape[0]])
            filled += shape[0]
    if out is None:
        raise ConfigError(
            "field", "a table and column of some episode (`shardwriter info` lists them)", field
        )
    read_again(opened, quick)
    return out[:filled], _offsets(counts)


def read_again(opened: Opened, quick: QuickColumns) -> None:
    """Read by HDF5, which names what is wrong, what was read from unsound bytes."""
    for episode, reads in quick.unsound():
        for field, first, target in reads:
            span = span_of(opened, episode, field, None, None)
            part = Span(episode, span.path, first, len(target), span.dtype, span.shape)
            target[...] = _rows(opened, field, part)


def _read_into(dataset: h5d.DatasetID, out: Array) -> None:
    """Read a whole column."""
    if out.nbytes:
        out[...] = read_rows(h5py.Dataset(dataset), 0, len(out))


def found_column(path: Path, group: h5py.Group, field: str) -> h5d.DatasetID | None:
    """Return a column's dataset, None where the episode has none, once no link leads to it."""
    table, _, column = field.rpartition("/")
    links = group.id.links
    place = field.encode()
    if not (table and column and links.exists(table.encode()) and links.exists(place)):
        return None
    check_path(path, group.id, field)
    node = h5o.open(group.id, place)
    return node if isinstance(node, h5d.DatasetID) else None


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one episode's field; without a dtype the episode has no such field."""

    episode: int
    path: Path
    first: int = 0
    count: int = 0
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = ()
    chosen: Array | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 0)


def span_of(opened: Opened, episode: int, field: str, start: int | None, stop: int | None) -> Span:
    """Return which rows of an episode's field lie within some timesteps."""
    table = field.rpartition("/")[0]
    with opened(episode) as group:
        path = file_of(group)
        found = found_column(path, group, field)
        if found is None:
            return Span(episode, path)
        check_column(path, found)
        dataset = h5py.Dataset(found)
        rows, chosen = slice(0, len(dataset)), None
        if start is not None or stop is not None:
            timesteps = _dataset(path, group, f"{table}/{TIMESTEPS}")
            rows, chosen = timestep_rows(timesteps, start, stop)
        count = rows.stop - rows.start if chosen is None else len(chosen)
        shape = dataset.shape[1:]
        return Span(episode, path, rows.start, count, dataset.dtype, shape, chosen)


def _dataset(path: Path, group: h5py.Group, place: str) -> h5py.Dataset:
    check_path(path, group.id, place)
    dataset = group[place]
    check_column(path, dataset.id)
    return dataset


def check_alike(field: str, spans: Sequence[Span]) -> None:
    """Raise FieldsDiffer unless dtype and shape are the same in all."""
    first = spans[0]
    for span in spans:
        if (span.dtype, span.shape) != (first.dtype, first.shape):
            forms = [f"{one.dtype} {one.shape}" for one in (first, span)]
            raise FieldsDiffer(field, first.episode, forms[0], span.episode, forms[1])


def _rows(opened: Opened, field: str, span: Span) -> Array:
    with opened(span.episode) as group:
        dataset = group[field]
        if span.chosen is None:
            return read_rows(dataset, span.first, span.first + span.count)
        last = span.first + int(span.chosen[-1]) + 1
        return np.asarray(read_rows(dataset, span.first, last)[span.chosen])
