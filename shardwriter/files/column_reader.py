"""Rows of a column, straight from its chunks.

HDF5's own pipeline inflates with zlib, one chunk after the other. Here chunks are read as they
are stored, and inflated by libdeflate outside the HDF5 library, on several threads. Invariant: the
result is bit for bit what ``dataset[start:stop]`` gives; what this module cannot decode is left
to HDF5.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from h5py import h5fd, h5i

from shardwriter.errors import ShardDamaged
from shardwriter.files.codec import inflate, unshuffle

__all__ = ["Decoder", "RowReader", "decoder", "read_rows", "row_reader", "search_sorted"]

Array = np.ndarray[Any, Any]
Decoder: TypeAlias = Callable[[bytes, Array, int], None]
RowReader: TypeAlias = Callable[[int, int], Array]

DEFLATE, SHUFFLE = 1, 2
_DECODED = {(SHUFFLE, DEFLATE), (DEFLATE,), (SHUFFLE,), ()}

_THREADS = 4  # more than this many decode faster than one thread of HDF5 can read
_LEAST_PARALLEL_BYTES = 1 << 20
_GUESSES = 4  # of a timestep's chunk, before chunks are halved instead


def read_rows(dataset: h5py.Dataset, start: int, stop: int) -> Array:
    """Return rows ``start`` to ``stop`` of a column.

    Parameters
    ----------
    dataset
        A dataset chunked along its first axis alone.
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
    column = None if dataset.size == 0 else _Column.of(dataset)
    return (lambda start, stop: np.asarray(dataset[start:stop])) if column is None else column.read


class _Column:
    """A dataset whose chunks are decoded here."""

    def __init__(self, dataset: h5py.Dataset, decode: Decoder) -> None:
        self._dataset = dataset
        self._decode = decode
        self._file = _descriptor(dataset)
        self._shape = dataset.shape[1:]
        self._dtype = dataset.dtype
        self.rows: int = dataset.chunks[0]

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "_Column | None":
        """Return the column of a dataset, None where HDF5 has to decode it."""
        chunk = dataset.chunks
        if chunk is None or chunk[1:] != dataset.shape[1:]:
            return None
        properties = dataset.id.get_create_plist()
        filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
        decode = decoder(dataset.dtype, chunk, filters)
        return None if decode is None else cls(dataset, decode)

    def read(self, start: int, stop: int) -> Array:
        """Return rows, by several threads where they are many."""
        out = np.empty((stop - start, *self._shape), self._dtype)
        chunks = range(start // self.rows, -(-stop // self.rows))

        def place(chunk: int) -> None:
            first = chunk * self.rows
            low, high = max(start, first), min(stop, first + self.rows)
            self._place(chunk, out[low - start : high - start], low - first)

        if len(chunks) == 1 or out.nbytes < _LEAST_PARALLEL_BYTES or threads() == 1:
            for chunk in chunks:
                place(chunk)
        else:
            for _ in _pool().map(place, chunks):
                pass
        return out

    def _place(self, chunk: int, target: Array, first: int) -> None:
        """Decode a chunk's rows from `first` on into their place."""
        dataset = self._dataset
        origin = (chunk * self.rows,) + (0,) * len(self._shape)
        stored = dataset.id.get_chunk_info_by_coord(origin)
        if stored.byte_offset is None:
            target[...] = dataset.fillvalue
            return
        try:
            if stored.filter_mask:
                raise ValueError(f"it skips filters ({stored.filter_mask})")
            if self._file is None:
                _, data = dataset.id.read_direct_chunk(origin)
            else:  # outside the library, which lets in one thread at a time
                data = os.pread(self._file, stored.size, stored.byte_offset)
            self._decode(data, target, first)
        except ValueError as error:
            place = f"{dataset.name}, chunk {chunk}"
            raise ShardDamaged(Path(dataset.file.filename), place, str(error)) from error


def _descriptor(dataset: h5py.Dataset) -> int | None:
    """Return the descriptor of a dataset's file, None for one that is no plain file."""
    file = h5i.get_file_id(dataset.id)
    is_plain = file.get_access_plist().get_driver() == h5fd.SEC2
    return int(file.get_vfd_handle()) if is_plain else None


def search_sorted(dataset: h5py.Dataset, low: int, high: int) -> tuple[int, int]:
    """Return the rows of sorted timesteps, from the first not below `low` to that not below `high`.

    Guesses the chunk, as if timesteps were evenly spaced, and otherwise halves what is left.
    """
    search = _Search(dataset)
    first = search.row(low)
    return first, max(first, search.row(high))


class _Search:
    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._column = _Column.of(dataset)
        self._rows: int = dataset.chunks[0]
        self._length: int = len(dataset)
        self._seen: dict[int, Array] = {}

    def _chunk(self, number: int) -> Array:
        if number not in self._seen:
            start = number * self._rows
            stop = min(self._length, start + self._rows)
            self._seen[number] = (
                self._column.read(start, stop) if self._column else self._dataset[start:stop]
            )
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
    if filters not in _DECODED or dtype.kind not in "biufc" or not dtype.isnative:
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
