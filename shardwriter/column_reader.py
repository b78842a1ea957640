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

from shardwriter.codec import inflate, unshuffle
from shardwriter.errors import ShardDamaged

__all__ = ["Decoder", "decoder", "read_rows", "search_sorted"]

Array = np.ndarray[Any, Any]
Decoder: TypeAlias = Callable[[bytes, Array, int], None]

DEFLATE, SHUFFLE = 1, 2
_DECODED = {(SHUFFLE, DEFLATE), (DEFLATE,), (SHUFFLE,), ()}

_THREADS = 4  # more than this many decode faster than one thread of HDF5 can read
_LEAST_PARALLEL_BYTES = 1 << 20


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
    decode = _decoder_of(dataset)
    if decode is None or stop <= start or dataset.size == 0:
        return np.asarray(dataset[start:stop])
    out = np.empty((stop - start, *dataset.shape[1:]), dataset.dtype)
    rows = dataset.chunks[0]
    chunks = range(start // rows, -(-stop // rows))

    def place(chunk: int) -> None:
        first = chunk * rows
        low, high = max(start, first), min(stop, first + rows)
        target = out[low - start : high - start]
        data = _stored(dataset, chunk)
        if data is None:
            target[...] = dataset.fillvalue
            return
        try:
            decode(data, target, low - first)
        except ValueError as error:
            raise _damaged(dataset, chunk, str(error)) from error

    if len(chunks) == 1 or out.nbytes < _LEAST_PARALLEL_BYTES or threads() == 1:
        for chunk in chunks:
            place(chunk)
        return out
    for _ in _pool().map(place, chunks):
        pass
    return out


def search_sorted(dataset: h5py.Dataset, value: int) -> int:
    """Return the first row of sorted timesteps that is not below `value`.

    Reads one chunk for each halving of their number.
    """
    rows = dataset.chunks[0]
    low, high = 0, -(-len(dataset) // rows)
    while low < high:  # the first chunk whose last row is not below value
        middle = (low + high) // 2
        last = min(len(dataset), (middle + 1) * rows) - 1
        if read_rows(dataset, last, last + 1)[0] < value:
            low = middle + 1
        else:
            high = middle
    first = low * rows
    if first >= len(dataset):
        return len(dataset)
    chunk = read_rows(dataset, first, min(len(dataset), first + rows))
    return int(first + np.searchsorted(chunk, value))


def _decoder_of(dataset: h5py.Dataset) -> Decoder | None:
    """Return what makes rows of a stored chunk, None where HDF5 has to."""
    if dataset.chunks is None or dataset.chunks[1:] != dataset.shape[1:]:
        return None
    properties = dataset.id.get_create_plist()
    filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
    return decoder(dataset.dtype, dataset.chunks, filters)


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


def _stored(dataset: h5py.Dataset, chunk: int) -> bytes | None:
    """Return a chunk as it is stored, None for one that was never written."""
    origin = (chunk * dataset.chunks[0],) + (0,) * (dataset.ndim - 1)
    if dataset.id.get_chunk_info_by_coord(origin).byte_offset is None:
        return None
    mask, data = dataset.id.read_direct_chunk(origin)
    if mask:
        raise _damaged(dataset, chunk, f"it skips filters ({mask})")
    return bytes(data)


def _damaged(dataset: h5py.Dataset, chunk: int, problem: str) -> ShardDamaged:
    return ShardDamaged(Path(dataset.file.filename), f"{dataset.name}, chunk {chunk}", problem)


def threads() -> int:
    """Return how many threads decode at a time."""
    return min(_THREADS, len(os.sched_getaffinity(0)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="shardwriter-read")
