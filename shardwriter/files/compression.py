"""How columns are compressed: HDF5 filter pipelines, rounding, and choosing by measurement.

Invariant: what a pipeline declares to HDF5 is what its encoder makes, so that any reader with
these filters gets back the bytes that were stored.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, cast

import h5py
import numpy as np

from shardwriter.errors import MissingDependency
from shardwriter.files.codec import Deflater, shuffle
from shardwriter.files.schema import Column

__all__ = ["FILTER_NAMES", "ColumnCodec", "Compression", "Pipeline"]

Array = np.ndarray[Any, Any]
Encoder = Callable[[Array], Any]

# The pipeline that a filter of a number belongs to.
FILTER_NAMES = {1: "gzip", 32000: "lzf", 32015: "zstd", 32004: "lz4", 32001: "blosc"}
_BLOSC_LEVEL, _BLOSC_SHUFFLE = 4, 5  # places among the parameters of HDF5's Blosc filter
_BY_BITS = 2  # its number for shuffling bits
_WORTHWHILE = 1.05  # a smaller ratio is not worth decompressing for
_LEVELLED = ("gzip", "zstd", "blosc")
_NEAR_BEST = 1.02  # of the candidates this close to the smallest, the fastest is taken,
_AS_FAST = 1.5  # and of those about as fast, the one of the lowest level


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The filters of one column.

    ``name`` is ``gzip``, ``lzf``, ``zstd``, ``lz4``, ``blosc`` or None; ``level`` counts for
    gzip, zstd and blosc; ``by_bits``, to shuffle bits instead of bytes, for blosc alone.
    """

    name: str | None
    level: int = 4
    shuffle: bool = True
    by_bits: bool = False

    def dataset_options(self) -> dict[str, object]:
        """Return what ``create_dataset`` needs to declare the filters."""
        if self.name is None:
            return {}
        if self.name == "gzip":
            declared: dict[str, object] = {"compression": "gzip", "compression_opts": self.level}
        elif self.name == "lzf":
            declared = {"compression": "lzf"}
        else:
            declared = dict(self._plugin_options())
        return {**declared, "shuffle": self.shuffle and self.name != "blosc"}

    def _plugin_options(self) -> Mapping[str, object]:
        plugin: Any = optional("hdf5plugin")
        if self.name == "zstd":
            return plugin.Zstd(clevel=self.level)  # type: ignore[no-any-return]  # untyped
        if self.name == "lz4":
            return plugin.LZ4()  # type: ignore[no-any-return]  # untyped
        shuffling = plugin.Blosc.SHUFFLE if self.shuffle else plugin.Blosc.NOSHUFFLE
        if self.by_bits:
            shuffling = plugin.Blosc.BITSHUFFLE
        return plugin.Blosc(clevel=self.level, shuffle=shuffling)  # type: ignore[no-any-return]  # untyped

    def encoder(self) -> Encoder | None:
        """Return what compresses a chunk outside the HDF5 library, None where only that can."""
        if self.name is None:
            return lambda block: block
        if self.name in ("lzf", "blosc"):
            return None
        if self.name == "gzip":
            deflater = Deflater(self.level)
            if self.shuffle:
                return lambda block: deflater(shuffle(block), block.dtype.itemsize)
            return lambda block: deflater(block.tobytes())
        compress = _lz4 if self.name == "lz4" else _Zstd(self.level)
        if self.shuffle:
            return lambda block: compress(shuffle(block))
        return lambda block: compress(block.tobytes())

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "Pipeline":
        """Return the pipeline that a dataset was created with."""
        filters = dataset._filters
        with_shuffle = "shuffle" in filters
        if "gzip" in filters:
            return cls("gzip", filters["gzip"], with_shuffle)
        for name, key in (("lzf", "lzf"), ("zstd", "32015"), ("lz4", "32004"), ("blosc", "32001")):
            if key in filters:
                level, shuffling = _plugin_parameters(name, filters[key] or ())
                return cls(name, level, with_shuffle or shuffling > 0, shuffling == _BY_BITS)
        return cls(None)


def _plugin_parameters(name: str, values: tuple[int, ...]) -> tuple[int, int]:
    """Return level and kind of shuffling from a filter's parameters as they stand in a file."""
    if name == "zstd" and values:
        return values[0], 0
    if name == "blosc" and len(values) > _BLOSC_SHUFFLE:
        return values[_BLOSC_LEVEL], values[_BLOSC_SHUFFLE]
    return 4, 0


class _Zstd:
    """Compresses to Zstandard frames; each thread has a compressor of its own."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._local = threading.local()

    def __call__(self, data: bytes) -> bytes:
        """Return data compressed."""
        compress = getattr(self._local, "compress", None)
        if compress is None:
            compress = optional("zstandard").ZstdCompressor(self._level).compress
            self._local.compress = compress
        return cast(bytes, compress(data))


def _lz4(data: bytes) -> bytes:
    """Return a chunk in the format of HDF5's registered LZ4 filter (32004): one block."""
    block: bytes = optional("lz4.block").compress(data, store_size=False)
    stored = block if len(block) < len(data) else data  # of equal length reads as not compressed
    sizes = len(data).to_bytes(8, "big") + len(data).to_bytes(4, "big")
    return sizes + len(stored).to_bytes(4, "big") + stored


@cache
def optional(module: str, extra: str = "codecs") -> ModuleType:
    """Import a package that an extra brings.

    Raises
    ------
    MissingDependency
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(module.partition(".")[0], extra) from error


@dataclass(slots=True)
class ColumnCodec:
    """One column's pipeline, rounding and encoder; kept from episode to episode.

    ``reason`` says what an adaptive choice was made from, empty for none.
    """

    pipeline: Pipeline
    precision: float | None = None
    reason: str = ""
    encode: Encoder | None = field(init=False)

    def __post_init__(self) -> None:
        self.encode = self.pipeline.encoder()

    def rounded(self, block: Array) -> Array:
        """Return a block whose values may be stored: rounded where a precision is set."""
        return block if self.precision is None else round_to(block, self.precision)


@dataclass(frozen=True, slots=True)
class Compression:
    """How the columns of an experiment are compressed.

    ``precision`` maps fields, as ``name`` or ``table/name``, to the largest absolute error.
    """

    name: str | None = "gzip"
    level: int = 4
    adaptive: bool = False
    precision: Mapping[str, float] = field(default_factory=dict)

    def codec(self, table: str, column: Column, sample: Array | None = None) -> ColumnCodec:
        """Return the codec of a column; `sample` is what an adaptive one is chosen from."""
        precision = self._precision(table, column)
        pipeline = Pipeline(self.name, self.level)
        if not self.adaptive or sample is None or sample.size == 0:
            return ColumnCodec(pipeline, precision)
        rounded = sample if precision is None else round_to(sample, precision)
        chosen, reason = _choose(pipeline, np.ascontiguousarray(rounded))
        return ColumnCodec(chosen, precision, reason)

    def rounded(self, table: str, column: Column, values: Array) -> Array:
        """Return values of a column as they will be stored."""
        precision = self._precision(table, column)
        return values if precision is None else round_to(values, precision)

    def _precision(self, table: str, column: Column) -> float | None:
        name = column.name
        precision = self.precision.get(f"{table}/{name}", self.precision.get(name))
        return precision if column.dtype.kind in "fc" else None


def round_to(values: Array, precision: float) -> Array:
    """Return float values rounded to multiples of the largest power of two that is fine enough.

    Every value is within `precision` of what it was, complex ones by their distance; NaN,
    infinities, and values too large to have digits that fine stay as they are. The bits cleared
    compress away.
    """
    if values.dtype.kind == "c":
        parts = np.ascontiguousarray(values).view(values.real.dtype)
        return round_to(parts, precision / 2**0.5).view(values.dtype)
    dtype = values.dtype
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        step = dtype.type(2.0 ** np.floor(np.log2(precision) + 1))
        if step == 0 or not np.isfinite(step):
            return values
        digits = np.finfo(dtype).nmant + 1
        rounded = np.rint(values / step) * step
        has_digits = np.abs(values) < float(step) * 2.0**digits
        return np.where(has_digits & np.isfinite(rounded), rounded, values)


def _choose(default: Pipeline, sample: Array) -> tuple[Pipeline, str]:
    """Return the pipeline for data like `sample`, and the measurement it was chosen by."""
    name = default.name or "gzip"
    levels = sorted({1, default.level, 9}) if name in _LEVELLED else [default.level]
    ways = [(True, False), (False, False), (True, True)][: 3 if name == "blosc" else 2]
    candidates = [Pipeline(name, level, *way) for way in ways for level in levels]
    measured = [(*_measure(candidate, sample), candidate) for candidate in candidates]
    smallest = min(size for size, _, _ in measured)
    if sample.nbytes < _WORTHWHILE * smallest:
        best = sample.nbytes / smallest
        return Pipeline(None), f"uncompressed: {best:.2f}x at best with {name}"
    near = [one for one in measured if one[0] <= _NEAR_BEST * smallest]
    fastest = min(seconds for _, seconds, _ in near)
    fast = [one for one in near if one[1] <= _AS_FAST * fastest]
    size, seconds, chosen = min(fast, key=lambda one: one[2].level)
    speed = sample.nbytes / max(seconds, 1e-9) / 1e6
    kind = "shuffle" if chosen.shuffle else "no shuffle"
    if chosen.by_bits:
        kind = "bit-shuffle"
    ratio = sample.nbytes / size
    best = sample.nbytes / smallest
    what = f"{name} {chosen.level}" if name in _LEVELLED else name
    return chosen, f"{what}, {kind}: {ratio:.2f}x at {speed:.0f} MB/s (best {best:.2f}x)"


def _measure(pipeline: Pipeline, sample: Array) -> tuple[int, float]:
    encode = pipeline.encoder()
    if encode is None:  # lzf and blosc work inside HDF5 alone
        return _measure_in_library(pipeline, sample)
    encode(sample)  # the first block also decides between encoders
    start = time.perf_counter()
    size = len(encode(sample))
    return size, time.perf_counter() - start


def _measure_in_library(pipeline: Pipeline, sample: Array) -> tuple[int, float]:
    with h5py.File.in_memory() as file:
        shape = (2 * len(sample), *sample.shape[1:])
        options = pipeline.dataset_options()
        dataset = file.create_dataset("x", shape, sample.dtype, chunks=sample.shape, **options)
        dataset[: len(sample)] = sample  # the first chunk also loads the filter
        size = dataset.id.get_storage_size()
        start = time.perf_counter()
        dataset[len(sample) :] = sample
        file.flush()
        return dataset.id.get_storage_size() - size, time.perf_counter() - start
