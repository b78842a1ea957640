"""How columns are compressed: HDF5 filter pipelines, rounding, and choosing by measurement.

Invariant: what a pipeline declares to HDF5 is what its encoder makes, so that any reader with
these filters gets back the bytes that were stored.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import h5py
import numpy as np

from shardwriter.codec import Deflater, shuffle
from shardwriter.errors import MissingDependency
from shardwriter.schema import Column

__all__ = ["ColumnCodec", "Compression", "Pipeline"]

Array = np.ndarray[Any, Any]
Encoder = Callable[[Array], Any]

EXTRA_CODECS = ("zstd", "lz4", "blosc")
_LZ4_HEADER = 12  # original size (8 bytes) and block size (4), big-endian
_WORTHWHILE = 1.05  # a smaller ratio is not worth decompressing for
_NEAR_BEST = 1.02  # of the candidates this close to the smallest, the fastest is taken,
_AS_FAST = 1.5  # and of those about as fast, the one of the lowest level


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The filters of one column.

    ``name`` is ``gzip``, ``lzf``, ``zstd``, ``lz4``, ``blosc`` or None; ``level`` counts for
    gzip, zstd and blosc.
    """

    name: str | None
    level: int = 4
    shuffle: bool = True

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
        return plugin.Blosc(clevel=self.level)  # type: ignore[no-any-return]  # untyped

    def encoder(self) -> Encoder | None:
        """Return what compresses a chunk outside the HDF5 library, None where only that can."""
        if self.name is None:
            return lambda block: block
        if self.name in ("lzf", "blosc"):
            return None
        compress = self._compress()
        if self.shuffle:
            return lambda block: compress(shuffle(block))
        return lambda block: compress(block.tobytes())

    def _compress(self) -> Callable[[bytes], bytes]:
        if self.name == "gzip":
            return Deflater(self.level)
        if self.name == "lz4":
            return _lz4
        compressor: Any = optional("zstandard").ZstdCompressor(self.level)
        return compressor.compress  # type: ignore[no-any-return]  # untyped

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "Pipeline":
        """Return the pipeline that a dataset was created with."""
        filters = dataset._filters
        with_shuffle = "shuffle" in filters
        if "gzip" in filters:
            return cls("gzip", filters["gzip"], with_shuffle)
        for name, key in (("lzf", "lzf"), ("zstd", "32015"), ("lz4", "32004"), ("blosc", "32001")):
            if key in filters:
                level = filters[key][0] if name == "zstd" and filters[key] else 4
                return cls(name, level, with_shuffle)
        return cls(None)


def _lz4(data: bytes) -> bytes:
    """Return a chunk in the format of HDF5's registered LZ4 filter (32004): one block."""
    block: bytes = optional("lz4.block").compress(data, store_size=False)
    stored = min(block, data, key=len)
    sizes = len(data).to_bytes(8, "big") + len(data).to_bytes(4, "big")
    return sizes + len(stored).to_bytes(4, "big") + stored


@cache
def optional(module: str) -> ModuleType:
    """Import a package of the extra ``codecs``.

    Raises
    ------
    MissingDependency
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(module.partition(".")[0], "codecs") from error


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
        name = column.name
        precision = self.precision.get(f"{table}/{name}", self.precision.get(name))
        if column.dtype.kind not in "fc":
            precision = None
        pipeline = Pipeline(self.name, self.level)
        if not self.adaptive or sample is None or sample.size == 0:
            return ColumnCodec(pipeline, precision)
        rounded = sample if precision is None else round_to(sample, precision)
        chosen, reason = _choose(pipeline, np.ascontiguousarray(rounded))
        return ColumnCodec(chosen, precision, reason)


def round_to(values: Array, precision: float) -> Array:
    """Return float values rounded to multiples of the largest power of two that is fine enough.

    Every value is within `precision` of what it was; NaN, infinities, and values too large to
    have digits that fine stay as they are. The bits cleared compress away.
    """
    if values.dtype.kind == "c":
        parts = round_to(values.view(values.real.dtype), precision)
        return parts.view(values.dtype)
    dtype = values.dtype
    step = dtype.type(2.0 ** np.floor(np.log2(2 * precision)))
    if step == 0 or not np.isfinite(step):
        return values
    digits = np.finfo(dtype).nmant + 1
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        small = np.abs(values) < dtype.type(min(float(step) * 2.0**digits, np.finfo(dtype).max))
        return np.where(small, np.rint(values / step) * step, values).astype(dtype, copy=False)


def _choose(default: Pipeline, sample: Array) -> tuple[Pipeline, str]:
    """Return the pipeline for data like `sample`, and the measurement it was chosen by."""
    name = default.name or "gzip"
    levels = sorted({1, default.level, 9}) if name in ("gzip", "zstd") else [default.level]
    candidates = [Pipeline(name, level, shuffled) for shuffled in (True, False) for level in levels]
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
    ratio = sample.nbytes / size
    best = sample.nbytes / smallest
    reason = f"{name} {chosen.level}, {kind}: {ratio:.2f}x at {speed:.0f} MB/s (best {best:.2f}x)"
    return chosen, reason


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
        start = time.perf_counter()
        dataset = file.create_dataset(
            "x", data=sample, chunks=sample.shape, **pipeline.dataset_options()
        )
        file.flush()
        return dataset.id.get_storage_size(), time.perf_counter() - start
