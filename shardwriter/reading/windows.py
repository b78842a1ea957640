"""Windows of consecutive rows, out of many episodes, for training.

Invariant: what each batch holds follows from the experiment and from a `WindowOrder`, whoever reads
it; what is held to draw from stays within its buffer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.errors import ConfigError
from shardwriter.files.column_reader import read_rows
from shardwriter.files.quick_columns import QuickColumns
from shardwriter.reading.across import (
    Array,
    Opened,
    Span,
    check_alike,
    read_again,
    span_of,
)

__all__ = ["WindowOrder", "Windows", "window_counts", "windows"]

Windows = dict[str, Array]
Form = tuple[np.dtype[Any], tuple[int, ...]]  # of a row of a field


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowOrder:
    """Which windows there are, and in what order; see ``ExperimentLoader.iter_windows``.

    Raises
    ------
    ConfigError
        An option has a value that it cannot have.
    """

    fields: tuple[str, ...]
    length: int
    stride: int
    shuffle: bool = True
    seed: int = 0
    epoch: int = 0
    batch_size: int = 256
    buffer_mb: float = 256
    lanes: int = 1
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("fields", "at least one", self.fields)
        for name in ("length", "stride", "batch_size", "lanes"):
            if getattr(self, name) < 1:
                raise ConfigError(name, "an int above 0", getattr(self, name))
        for name in ("seed", "epoch"):
            if getattr(self, name) < 0:
                raise ConfigError(name, "an int of 0 or more", getattr(self, name))
        number, parts = self.part
        if not 0 <= number < parts:
            raise ConfigError("part", "(i, n) with 0 <= i < n", self.part)

    def count(self, rows: Array) -> Array:
        """Return how many windows episodes of so many rows have."""
        found: Array = np.maximum(rows - self.length + self.stride, 0) // self.stride
        return found


def window_counts(
    opened: Opened, quick: QuickColumns, episodes: Sequence[int], order: WindowOrder
) -> Array:
    """Return how many windows each episode has, (episodes,) int64."""
    rows = [count for _, count, _ in _extents(opened, quick, episodes, order.fields)]
    return order.count(np.array(rows, np.int64))


def windows(
    opened: Opened, quick: QuickColumns, episodes: Sequence[int], order: WindowOrder
) -> Iterator[Windows]:
    """Yield the batches of one part of an order; see ``ExperimentLoader.iter_windows``.

    Batch `k` of the whole order comes from lane `k` modulo the lanes. Each lane draws from segments
    of its own, so that a part reads only the lanes that its batches come from.
    """
    lanes = order.lanes if order.shuffle else 1
    buffer_bytes = int(order.buffer_mb * 1e6) // lanes
    segments = list(_segments(opened, quick, episodes, order, buffer_bytes))
    rng = np.random.default_rng((order.seed, order.epoch))
    if order.shuffle:
        rng.shuffle(segments)
    number, parts = order.part
    step = math.gcd(lanes, parts)
    drawn = {
        lane: _drawn(opened, quick, own, order, chance, buffer_bytes)
        for lane, (own, chance) in enumerate(
            zip(_dealt(segments, order, lanes), rng.spawn(lanes), strict=True)
        )
        if lane % step == number % step
    }
    batches = -(-sum(segment.count for segment in segments) // order.batch_size)
    for k in range(batches):
        if k % lanes in drawn:
            batch = next(drawn[k % lanes])
            if k % parts == number:
                yield batch


def _extents(
    opened: Opened, quick: QuickColumns, episodes: Sequence[int], fields: Sequence[str]
) -> Iterator[tuple[int, int, tuple[Form, ...]]]:
    """Yield each episode, the rows that all its fields have, and their forms.

    An episode without the fields has no rows.
    """
    known: dict[str, Span] = {}
    for episode in episodes:
        spans = _spans(opened, quick, episode, fields)
        rows = {span.count for span in spans}
        if len(rows) > 1:
            got = ", ".join(f"{f}: {s.count}" for f, s in zip(fields, spans, strict=True))
            raise ConfigError("fields", "fields with a row for the same timesteps", got)
        for field, span in zip(fields, spans, strict=True):
            if span.dtype is not None:
                check_alike(field, [known.setdefault(field, span), span])
        forms = tuple((span.dtype or np.dtype(float), span.shape) for span in spans)
        yield episode, rows.pop(), forms
    if episodes and not known:
        raise ConfigError(
            "fields",
            "tables and columns of some episode (`shardwriter info` lists them)",
            list(fields),
        )
    for episode, _ in quick.unsound():  # HDF5 says what is wrong
        for field in fields:
            span_of(opened, episode, field, None, None)


def _spans(opened: Opened, quick: QuickColumns, episode: int, fields: Sequence[str]) -> list[Span]:
    """Return the whole length of some fields of an episode."""
    forms = quick.forms(episode, fields)
    if forms is None:
        return [span_of(opened, episode, field, None, None) for field in fields]
    return [Span(episode, Path(), 0, form.shape[0], form.dtype, form.shape[1:]) for form in forms]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Windows of one episode that follow each other, and so the rows that they lie in."""

    episode: int
    first: int  # row
    count: int  # of windows
    forms: tuple[Form, ...]  # of each field

    def part(self, start: int, stop: int, order: WindowOrder) -> "_Segment":
        """Return some of its windows."""
        first = self.first + start * order.stride
        return _Segment(self.episode, first, stop - start, self.forms)

    def rows(self, order: WindowOrder) -> int:
        return (self.count - 1) * order.stride + order.length

    def held_bytes(self, order: WindowOrder) -> int:
        """Return what drawing from it takes: rows, batches, and batches given out before."""
        return _row_bytes(self.forms) * (self.rows(order) + 2 * self.count * order.length)


def _row_bytes(forms: Sequence[Form]) -> int:
    return max(1, sum(dtype.itemsize * math.prod(shape) for dtype, shape in forms))


def _segments(
    opened: Opened,
    quick: QuickColumns,
    episodes: Sequence[int],
    order: WindowOrder,
    buffer_bytes: int,
) -> Iterator[_Segment]:
    """Yield all windows, at least four segments to the buffer."""
    for episode, rows, forms in _extents(opened, quick, episodes, order.fields):
        count = int(order.count(np.array(rows)))
        window_bytes = _row_bytes(forms) * (order.stride + 2 * order.length)
        most = max(1, buffer_bytes // (4 * window_bytes))
        whole = _Segment(episode, 0, count, forms)
        for start in range(0, count, most):
            yield whole.part(start, min(start + most, count), order)


def _dealt(segments: Sequence[_Segment], order: WindowOrder, lanes: int) -> list[list[_Segment]]:
    """Deal windows out to lanes, so that each has whole batches, as many as it is due.

    The last batch of them all may have fewer windows.
    """
    windows_in_all = sum(segment.count for segment in segments)
    batches = -(-windows_in_all // order.batch_size)
    due = [len(range(lane, batches, lanes)) * order.batch_size for lane in range(lanes)]
    due[(batches - 1) % lanes] -= batches * order.batch_size - windows_in_all
    waiting = list(reversed(segments))
    return [_taken(waiting, count, order) for count in due]


def _taken(waiting: list[_Segment], count: int, order: WindowOrder) -> list[_Segment]:
    """Take so many windows off the end of what waits."""
    taken: list[_Segment] = []
    while count:
        segment = waiting.pop()
        if segment.count > count:
            waiting.append(segment.part(count, segment.count, order))
            segment = segment.part(0, count, order)
        taken.append(segment)
        count -= segment.count
    return taken


def _drawn(
    opened: Opened,
    quick: QuickColumns,
    segments: Sequence[_Segment],
    order: WindowOrder,
    rng: "np.random.Generator",
    buffer_bytes: int,
) -> Iterator[Windows]:
    """Yield batches of the windows of some segments, a buffer of them at a time."""
    left: Windows = {}
    for group in _filled(segments, order, buffer_bytes):
        held = _read(opened, quick, group, order, rng, left)
        stop = len(held["episode"]) // order.batch_size * order.batch_size
        for i in range(0, stop, order.batch_size):
            yield {name: values[i : i + order.batch_size] for name, values in held.items()}
        left = {name: values[stop:].copy() for name, values in held.items()}
    if left and len(left["episode"]):
        yield left


def _filled(
    segments: Sequence[_Segment], order: WindowOrder, buffer_bytes: int
) -> Iterator[list[_Segment]]:
    """Yield as many segments at a time as fit into the buffer."""
    group: list[_Segment] = []
    held = 0
    for segment in segments:
        size = segment.held_bytes(order)
        if group and held + size > buffer_bytes:
            yield group
            group, held = [], 0
        group.append(segment)
        held += size
    if group:
        yield group


def _read(
    opened: Opened,
    quick: QuickColumns,
    segments: Sequence[_Segment],
    order: WindowOrder,
    rng: "np.random.Generator",
    left: Windows,
) -> Windows:
    """Return the windows that were left, then those of some segments, shuffled if wanted."""
    ahead = len(left["episode"]) if left else 0
    count = sum(segment.count for segment in segments)
    places = ahead + (rng.permutation(count) if order.shuffle else np.arange(count))
    held = _empty(ahead + count, segments[0].forms, order)
    for name, values in left.items():
        held[name][:ahead] = values
    first = 0
    found = _segment_rows(opened, quick, segments, order)
    for segment, rows_of in zip(segments, found, strict=True):
        own = places[first : first + segment.count]
        starts = np.arange(segment.count) * order.stride
        held["episode"][own] = segment.episode
        held["start"][own] = segment.first + starts
        for field, rows in zip(order.fields, rows_of, strict=True):
            target = held[field]
            for place, start in zip(own.tolist(), starts.tolist(), strict=True):
                target[place] = rows[start : start + order.length]
        first += segment.count
    return held


def _empty(count: int, forms: Sequence[Form], order: WindowOrder) -> Windows:
    """Return room for so many windows."""
    numbers = {name: np.empty(count, np.int64) for name in ("episode", "start")}
    fields = zip(order.fields, forms, strict=True)
    return numbers | {
        field: np.empty((count, order.length, *shape), dtype) for field, (dtype, shape) in fields
    }


def _segment_rows(
    opened: Opened, quick: QuickColumns, segments: Sequence[_Segment], order: WindowOrder
) -> list[list[Array]]:
    """Return the rows of each field of each segment."""
    found = []
    for segment in segments:
        count = segment.rows(order)
        arrays = [np.empty((count, *shape), dtype) for dtype, shape in segment.forms]
        reads = [
            (field, segment.first, rows) for field, rows in zip(order.fields, arrays, strict=True)
        ]
        if not quick.read(segment.episode, reads):
            with opened(segment.episode) as group:
                for field, first, rows in reads:
                    rows[...] = read_rows(group[field], first, first + len(rows))
        found.append(arrays)
    read_again(opened, quick)
    return found
