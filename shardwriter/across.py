"""Reading one field over many episodes.

Invariant: memory is bounded by what is returned, or by the buffer given, and descriptors by the
shards' cache, however many episodes there are.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5o, h5s

from shardwriter.column_reader import read_rows
from shardwriter.errors import ConfigError, FieldsDiffer, ShardDamaged
from shardwriter.layout import TIMESTEPS
from shardwriter.quick_columns import QuickColumns
from shardwriter.shard_episode import timestep_rows
from shardwriter.untrusted import check_column, check_memory, check_path, file_of

__all__ = ["Windows", "concatenated", "windows"]

Array = np.ndarray[Any, Any]
Opened = Callable[[int], AbstractContextManager[h5py.Group]]
Windows = dict[str, Array]

_SMALL_BYTES = 64 * 1024


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
    if rows is not None and start is None and stop is None:
        return _whole(opened, quick, field, episodes, rows)
    spans = [_span(opened, episode, field, start, stop) for episode in episodes]
    offsets = _offsets([span.count for span in spans])
    there = [span for span in spans if span.dtype is not None]
    if not there:
        raise ConfigError("field", "a table and column of some episode", field)
    first = there[0]
    _check_alike(field, there)
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
    first: _Span | None = None
    filled = 0
    for i, episode in enumerate(episodes):
        if out is not None and counts[i]:
            target = out[filled : filled + counts[i]]
            if quick.read(episode, [(field, 0, target)]):
                filled += counts[i]
                continue
        with opened(episode) as group:
            path = file_of(group)
            dataset = _found(path, group, field)
            if dataset is None:
                counts[i] = 0
                continue
            dtype, _ = check_column(path, dataset)
            shape = dataset.shape
            span = _Span(episode, path, 0, shape[0], dtype, shape[1:])
            if shape[0] != counts[i]:
                raise ShardDamaged(path, field, f"expected {counts[i]} rows, got {shape[0]}")
            if out is None or first is None:
                first = span
                check_memory(path, field, sum(counts) * span.row_bytes)
                out = np.empty((sum(counts), *shape[1:]), dtype)
            _check_alike(field, [first, span])
            _read_into(dataset, out[filled : filled + shape[0]])
            filled += shape[0]
    if out is None:
        raise ConfigError("field", "a table and column of some episode", field)
    _read_again(opened, quick)
    return out[:filled], _offsets(counts)


def _read_again(opened: Opened, quick: QuickColumns) -> None:
    """Read by HDF5, which names what is wrong, what was read from unsound bytes."""
    for episode, reads in quick.unsound():
        for field, first, target in reads:
            span = _span(opened, episode, field, None, None)
            part = _Span(episode, span.path, first, len(target), span.dtype, span.shape)
            target[...] = _rows(opened, field, part)


def _read_into(dataset: h5d.DatasetID, out: Array) -> None:
    """Read a whole column; HDF5 itself is quickest for a small one."""
    if out.nbytes and out.nbytes < _SMALL_BYTES:
        dataset.read(h5s.ALL, h5s.ALL, out)
    elif out.nbytes:
        out[...] = read_rows(h5py.Dataset(dataset), 0, len(out))


def _found(path: Path, group: h5py.Group, field: str) -> h5d.DatasetID | None:
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
class _Span:
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


def _span(opened: Opened, episode: int, field: str, start: int | None, stop: int | None) -> _Span:
    table = field.rpartition("/")[0]
    with opened(episode) as group:
        path = file_of(group)
        found = _found(path, group, field)
        if found is None:
            return _Span(episode, path)
        check_column(path, found)
        dataset = h5py.Dataset(found)
        rows, chosen = slice(0, len(dataset)), None
        if start is not None or stop is not None:
            timesteps = _dataset(path, group, f"{table}/{TIMESTEPS}")
            rows, chosen = timestep_rows(timesteps, start, stop)
        count = rows.stop - rows.start if chosen is None else len(chosen)
        shape = dataset.shape[1:]
        return _Span(episode, path, rows.start, count, dataset.dtype, shape, chosen)


def _dataset(path: Path, group: h5py.Group, place: str) -> h5py.Dataset:
    check_path(path, group.id, place)
    dataset = group[place]
    check_column(path, dataset.id)
    return dataset


def _check_alike(field: str, spans: Sequence[_Span]) -> None:
    first = spans[0]
    for span in spans:
        if (span.dtype, span.shape) != (first.dtype, first.shape):
            forms = [f"{one.dtype} {one.shape}" for one in (first, span)]
            raise FieldsDiffer(field, first.episode, forms[0], span.episode, forms[1])


def _rows(opened: Opened, field: str, span: _Span) -> Array:
    with opened(span.episode) as group:
        dataset = group[field]
        if span.chosen is None:
            return read_rows(dataset, span.first, span.first + span.count)
        last = span.first + int(span.chosen[-1]) + 1
        return np.asarray(read_rows(dataset, span.first, last)[span.chosen])


@dataclass(frozen=True, slots=True)
class _Segment:
    """Rows of one episode that some windows lie in."""

    episode: int
    first: int
    starts: Array  # of the windows, counted from `first`
    rows: int
    forms: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]  # of each field


def windows(
    opened: Opened,
    quick: QuickColumns,
    fields: Sequence[str],
    episodes: Sequence[int],
    length: int,
    stride: int,
    batch_size: int,
    seed: int | None,
    buffer_bytes: int,
) -> Iterator[Windows]:
    """Yield batches of windows of some fields; see ``ExperimentLoader.iter_windows``.

    Shuffled windows are drawn from a buffer of segments of random episodes, so that memory
    stays bounded; without a seed they come in order.
    """
    segments = list(_segments(opened, quick, fields, episodes, length, stride, buffer_bytes))
    rng = None if seed is None else np.random.default_rng(seed)
    if rng is not None:
        rng.shuffle(segments)
    waiting: Windows = {}
    for group in _filled(segments, fields, opened, buffer_bytes):
        drawn = _drawn(opened, quick, fields, group, length, rng)
        waiting = _joined(waiting, drawn)
        count = len(waiting["episode"]) // batch_size * batch_size
        for i in range(0, count, batch_size):
            yield {name: values[i : i + batch_size] for name, values in waiting.items()}
        waiting = {name: values[count:].copy() for name, values in waiting.items()}
    if waiting and len(waiting["episode"]):
        yield waiting


def _segments(
    opened: Opened,
    quick: QuickColumns,
    fields: Sequence[str],
    episodes: Sequence[int],
    length: int,
    stride: int,
    buffer_bytes: int,
) -> Iterator[_Segment]:
    spans: dict[str, _Span] = {}
    for episode in episodes:
        found = _spans(opened, quick, episode, fields)
        counts = {span.count for span in found}
        if len(counts) > 1:
            rows = ", ".join(f"{f}: {s.count}" for f, s in zip(fields, found, strict=True))
            raise ConfigError("fields", "fields with a row for the same timesteps", rows)
        for field, span in zip(fields, found, strict=True):
            if span.dtype is not None:
                _check_alike(field, [spans.setdefault(field, span), span])
        row_bytes = max(1, sum(span.row_bytes for span in found))
        forms = tuple((span.dtype or np.dtype(float), span.shape) for span in found)
        starts = np.arange(0, counts.pop() - length + 1, stride)
        # A window is held twice, in its segment and in its batch, and length/stride times.
        copies = 1 + -(-length // stride)
        per_segment = max(1, buffer_bytes // (4 * copies * row_bytes * stride))
        for i in range(0, len(starts), per_segment):
            part = starts[i : i + per_segment]
            rows_needed = int(part[-1] - part[0]) + length
            yield _Segment(episode, int(part[0]), part - part[0], rows_needed, forms)


def _spans(opened: Opened, quick: QuickColumns, episode: int, fields: Sequence[str]) -> list[_Span]:
    """Return the whole length of some fields of an episode."""
    forms = quick.forms(episode, fields)
    if forms is None:
        return [_span(opened, episode, field, None, None) for field in fields]
    return [_Span(episode, Path(), 0, form.shape[0], form.dtype, form.shape[1:]) for form in forms]


def _filled(
    segments: Sequence[_Segment], fields: Sequence[str], opened: Opened, buffer_bytes: int
) -> Iterator[list[_Segment]]:
    """Yield as many segments at a time as fit into the buffer."""
    group: list[_Segment] = []
    if not segments:
        return
    row_bytes = sum(_span(opened, segments[0].episode, f, None, None).row_bytes for f in fields)
    held = 0
    for segment in segments:
        size = 2 * max(row_bytes, 1) * (segment.rows + len(segment.starts))
        if group and held + size > buffer_bytes:
            yield group
            group, held = [], 0
        group.append(segment)
        held += size
    yield group


def _drawn(
    opened: Opened,
    quick: QuickColumns,
    fields: Sequence[str],
    segments: Sequence[_Segment],
    length: int,
    rng: np.random.Generator | None,
) -> Windows:
    """Read segments, and return all their windows, shuffled if wanted."""
    parts: dict[str, list[Array]] = {name: [] for name in ("episode", "start", *fields)}
    for segment in segments:
        parts["episode"].append(np.full(len(segment.starts), segment.episode, np.int64))
        parts["start"].append(segment.starts + segment.first)
    for segment, rows_of in zip(
        segments, _segment_rows(opened, quick, fields, segments), strict=True
    ):
        for field, rows in zip(fields, rows_of, strict=True):
            views = np.lib.stride_tricks.sliding_window_view(rows, length, axis=0)
            parts[field].append(np.moveaxis(views[segment.starts], -1, 1))
    together = {name: np.concatenate(values) for name, values in parts.items()}
    if rng is None:
        return together
    order = rng.permutation(len(together["episode"]))
    return {name: values[order] for name, values in together.items()}


def _segment_rows(
    opened: Opened, quick: QuickColumns, fields: Sequence[str], segments: Sequence[_Segment]
) -> list[list[Array]]:
    """Return the rows of each field of each segment."""
    found = []
    for segment in segments:
        arrays = [np.empty((segment.rows, *shape), dtype) for dtype, shape in segment.forms]
        reads = [(field, segment.first, rows) for field, rows in zip(fields, arrays, strict=True)]
        if not quick.read(segment.episode, reads):
            with opened(segment.episode) as group:
                for field, first, rows in reads:
                    rows[...] = read_rows(group[field], first, first + len(rows))
        found.append(arrays)
    _read_again(opened, quick)
    return found


def _joined(first: Mapping[str, Array], second: Windows) -> Windows:
    if not first or not len(first["episode"]):
        return second
    return {name: np.concatenate([first[name], second[name]]) for name in second}
