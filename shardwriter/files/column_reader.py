"""Rows of a column, and whole arrays, straight from their chunks.

HDF5's own pipeline inflates with zlib, one chunk after the other. Here chunks are read as they
are stored, and inflated by libdeflate outside the HDF5 library, on several threads. Invariant: the
result is bit for bit what ``dataset[start:stop]`` gives; what this module cannot decode is left
to HDF5, once each chunk was found to decode to the bytes that it has.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from h5py import h5t

from shardwriter.errors import ShardDamaged
from shardwriter.files.chunk_sizes import DEFLATE, SHUFFLE, StoredChunks
from shardwriter.files.codec import inflate, unshuffle

__all__ = [
    "Decoder",
    "RowReader",
    "decoder",
    "read_rows",
    "read_texts",
    "read_value",
    "read_whole",
    "row_reader",
    "search_sorted",
]

Array = np.ndarray[Any, Any]
Decoder: TypeAlias = Callable[[bytes, Array, int], None]
RowReader: TypeAlias = Callable[[int, int], Array]

_DECODED = {(SHUFFLE, DEFLATE), (DEFLATE,), (SHUFFLE,), ()}

_THREADS = 4  # more than this many decode faster than one thread of HDF5 can read
_LEAST_PARALLEL_BYTES = 1 << 20
_GUESSES = 4  # of a timestep's chunk, before chunks are halved instead


def read_rows(dataset: h5py.Dataset, start: int, stop: int) -> Array:
    """Return rows ``start`` to ``stop`` of a column.

    Parameters
    ----------
    dataset
        A dataset of one dimension at least.
    start, stop
        Rows, within its length.

    Raises
    ------
    ShardDamaged
        A chunk does not hold what it should.
    """
    if stop <= start:
        return np.asarray(dataset[start:stop])
    return row_reader(dataset)(start, stop)


def row_reader(dataset: h5py.Dataset) -> RowReader:
    """Return what reads rows `start` to `stop` of a column, as `read_rows` does.

    It is worth keeping where few rows are read at a time; there must be one at least.
    """
    if dataset.size == 0 or dataset.chunks is None:
        return lambda start, stop: np.asarray(dataset[start:stop])
    return _Column(dataset).read


def read_texts(dataset: h5py.Dataset, start: int, stop: int) -> Array:
    """Return rows of a column of text as `str`; see `read_rows`."""
    return _decoded(dataset, read_rows(dataset, start, stop))


def read_whole(dataset: h5py.Dataset) -> Any:
    """Return all of a dataset, as ``dataset[()]`` gives it.

    Raises
    ------
    ShardDamaged
        A chunk does not hold what it should.
    """
    if dataset.chunks is None or not dataset.size:
        return dataset[()]
    return _Column(dataset).read(0, len(dataset))


def read_value(dataset: h5py.Dataset, errors: str = "strict") -> Any:
    """Return all of a dataset, text as `str`; `errors` is for what is not in its encoding.

    Raises
    ------
    ShardDamaged
        A chunk does not hold what it should.
    """
    if h5py.check_string_dtype(dataset.dtype) is None:
        return read_whole(dataset)
    if dataset.chunks is None or not dataset.size:
        return dataset.asstr(errors=errors)[()]
    return _decoded(dataset, read_whole(dataset), errors)


def _decoded(dataset: h5py.Dataset, values: Array, errors: str = "strict") -> Array:
    encoding = h5py.check_string_dtype(dataset.dtype).encoding
    texts = np.empty(values.size, object)
    texts[:] = [text.decode(encoding, errors) for text in values.reshape(-1).tolist()]
    return texts.reshape(values.shape)


class _Column:
    """A dataset in chunks, which are decoded here, or by HDF5 once their sizes are known."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._stored = StoredChunks(dataset)
        self._shape = dataset.shape
        self._dtype = dataset.dtype
        self._chunk = self._stored.shape
        self._is_whole_rows = self._chunk[1:] == self._shape[1:]
        self._decode = self._decoder(self._stored.filters)
        if self._decode and h5t.py_create(self._dtype, logical=True) != self._stored.kind:
            self._decode = None  # NumPy has it in other bytes than the file
        self._checked: set[tuple[int, ...]] = set()

    def _decoder(self, filters: tuple[int, ...]) -> Decoder | None:
        return decoder(self._dtype, self._chunk, filters)

    def read(self, start: int, stop: int) -> Array:
        """Return rows, by several threads where they are many."""
        if self._decode is None:
            for origin in self._origins(start, stop):
                self._check(origin)
            return np.asarray(self._dataset[start:stop])
        out = np.empty((stop - start, *self._shape[1:]), self._dtype)
        origins = list(self._origins(start, stop))

        def place(origin: tuple[int, ...]) -> None:
            self._place(origin, out, start, stop)

        if len(origins) == 1 or out.nbytes < _LEAST_PARALLEL_BYTES or threads() == 1:
            for origin in origins:
                place(origin)
        else:
            self._stored.share()
            for _ in _pool().map(place, origins):
                pass
        return out

    def _origins(self, start: int, stop: int) -> Iterator[tuple[int, ...]]:
        """Yield where the chunks start that some rows are in."""
        rows = self._chunk[0]
        first = range(start // rows * rows, stop, rows)
        if self._is_whole_rows:
            others = (0,) * (len(self._shape) - 1)
            return ((row, *others) for row in first)
        steps = zip(self._shape[1:], self._chunk[1:], strict=True)
        return product(first, *(range(0, length, step) for length, step in steps))

    def _place(self, origin: tuple[int, ...], out: Array, start: int, stop: int) -> None:
        """Decode a chunk into its place among rows `start` to `stop`."""
        low, high = max(start, origin[0]), min(stop, origin[0] + self._chunk[0])
        target, first = out[low - start : high - start], low - origin[0]
        if self._is_whole_rows:
            self._fill(origin, target, first)
            return
        whole = np.empty((high - low, *self._chunk[1:]), self._dtype)
        self._fill(origin, whole, first)
        ends = zip(origin[1:], self._chunk[1:], strict=True)
        part = target[(slice(None), *(slice(at, at + length) for at, length in ends))]
        part[...] = whole[tuple(map(slice, part.shape))]

    def _fill(self, origin: tuple[int, ...], target: Array, first: int) -> None:
        """Decode a chunk's rows from `first` on."""
        stored = self._stored.find(origin)
        if stored is None:
            target[...] = self._dataset.fillvalue
            return
        with self._naming(origin):
            mask = stored.filter_mask
            decode = self._decoder(self._stored.applied(mask)) if mask else self._decode
            if decode is None:
                raise ValueError(f"it skips filters ({mask})")
            decode(self._stored.data(origin, stored), target, first)

    def _check(self, origin: tuple[int, ...]) -> None:
        if origin not in self._checked:
            with self._naming(origin):
                self._stored.check(origin)
            self._checked.add(origin)

    @contextmanager
    def _naming(self, origin: tuple[int, ...]) -> Iterator[None]:
        """Say of what is wrong with a chunk where it is."""
        try:
            yield
        except ValueError as error:
            chunk = [at // length for at, length in zip(origin, self._chunk, strict=True)]
            number = chunk[0] if self._is_whole_rows else tuple(chunk)
            place = f"{self._dataset.name}, chunk {number}"
            raise ShardDamaged(Path(self._dataset.file.filename), place, str(error)) from error


def search_sorted(dataset: h5py.Dataset, low: int, high: int) -> tuple[int, int]:
    """Return the rows of sorted timesteps, from the first not below `low` to that not below `high`.

    Guesses the chunk, as if timesteps were evenly spaced, and otherwise halves what is left.
    """
    search = _Search(dataset)
    first = search.row(low)
    return first, max(first, search.row(high))


class _Search:
    def __init__(self, dataset: h5py.Dataset) -> None:
        self._read = row_reader(dataset)
        self._rows: int = dataset.chunks[0]
        self._length: int = len(dataset)
        self._seen: dict[int, Array] = {}

    def _chunk(self, number: int) -> Array:
        if number not in self._seen:
            start = number * self._rows
            stop = min(self._length, start + self._rows)
            self._seen[number] = self._read(start, stop)
        return self._seen[number]

    def row(self, value: int) -> int:
        """Return the first row that is not below a value."""
        low, high = 0, -(-self._length // self._rows)  # that chunk is among these, or the end
        guess, guesses = value // self._rows, 0
        while low < high:
            guess = min(max(guess, low), high - 1)
            chunk = self._chunk(guess)
            first, last = int(chunk[0]), int(chunk[-1])
            if last < value:
                low = guess + 1
            elif first < value or guess == 0:
                return guess * self._rows + int(np.searchsorted(chunk, value))
            else:
                high = guess
            guesses += 1
            if guesses < _GUESSES:
                guess += (value - first) // max(1, (last - first + 1) * self._rows // len(chunk))
            else:
                guess = (low + high) // 2
        return min(low * self._rows, self._length)


def decoder(
    dtype: np.dtype[Any], chunk: tuple[int, ...], filters: tuple[int, ...]
) -> Decoder | None:
    """Return what makes rows of a stored chunk, None where only HDF5 can.

    Parameters
    ----------
    dtype, chunk
        The column's dtype, and the shape of its chunks.
    filters
        The numbers of its filters, in order.

    Returns
    -------
    callable
        Of a stored chunk, a contiguous array for rows of it, and the first of these; it raises
        ValueError for a chunk that is damaged.
    """
    is_plain = dtype.kind in "biufcSV" and not dtype.hasobject and dtype.subdtype is None
    if filters not in _DECODED or not is_plain:
        return None
    row_items = math.prod(chunk[1:])
    size = chunk[0] * row_items * dtype.itemsize

    def decode(data: bytes, out: Array, first: int) -> None:
        plain = inflate(data, size) if DEFLATE in filters else data
        if len(plain) != size:
            raise ValueError(f"expected {size} bytes, got {len(plain)}")
        if SHUFFLE in filters:
            unshuffle(plain, out, first * row_items)
        else:
            rows = np.frombuffer(plain, dtype).reshape(chunk)
            out[...] = rows[first : first + len(out)]

    return decode


def threads() -> int:
    """Return how many threads decode at a time."""
    return min(_THREADS, len(os.sched_getaffinity(0)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="shardwriter-read")


# A forked child has the pool but none of its threads, and would wait for them.
os.register_at_fork(after_in_child=_pool.cache_clear)
