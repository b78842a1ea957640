"""How an experiment is recorded: every option, checked once."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from shardwriter.errors import ConfigError
from shardwriter.files.compression import optional

__all__ = ["RecorderConfig", "checked_path"]

COMPRESSIONS = ("gzip", "lzf", None, "zstd", "lz4", "blosc")
_PATHS = ("buffer_dir", "scratch_dir")
DURABILITIES = ("process", "power")
_CODEC_PACKAGES = {
    "zstd": ("hdf5plugin", "zstandard"),
    "lz4": ("hdf5plugin", "lz4.block"),
    "blosc": ("hdf5plugin",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecorderConfig:
    """Options of recording; see ``DataExporter`` for what each means.

    Raises
    ------
    ConfigError
        An option has a value it cannot have.
    """

    neural_sampling_rate: int = 100
    validate_data: bool = True
    compression: str | None = "gzip"
    compression_level: int = 4
    adaptive_compression: bool = False
    precision: Mapping[str, float] = field(default_factory=dict)
    chunk_size: int = 10_000
    async_write: bool = False
    n_async_workers: int = 4
    enable_profiling: bool = False
    max_memory_mb: float = 500
    flush_interval_s: float = 30.0
    durability: str = "process"
    buffer_dir: Path | None = None
    scratch_dir: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if sys.platform != "linux":
            raise ConfigError("recording", "Linux (reading works anywhere)", sys.platform)
        _check_int("neural_sampling_rate", self.neural_sampling_rate, 1)
        _check_int("compression_level", self.compression_level, 1, 9)
        _check_int("chunk_size", self.chunk_size, 1)
        _check_int("n_async_workers", self.n_async_workers, 1)
        _check_positive("max_memory_mb", self.max_memory_mb)
        _check_positive("flush_interval_s", self.flush_interval_s)
        _check_int("seed", self.seed, 0)
        _check_bool("validate_data", self.validate_data)
        _check_bool("async_write", self.async_write)
        _check_bool("enable_profiling", self.enable_profiling)
        _check_bool("adaptive_compression", self.adaptive_compression)
        if self.compression not in COMPRESSIONS:
            names = ", ".join(repr(name) for name in COMPRESSIONS)
            raise ConfigError("compression", f"one of {names}", self.compression)
        for package in _CODEC_PACKAGES.get(str(self.compression), ()):
            optional(package)
        for name, tolerance in self.precision.items():
            _check_positive(f"precision[{name!r}]", tolerance)
        if self.adaptive_compression and self.compression is None:
            raise ConfigError("adaptive_compression", "False with compression=None", True)
        if self.durability not in DURABILITIES:
            raise ConfigError("durability", "'process' or 'power'", self.durability)
        if self.durability == "power" and self.buffer_dir is not None:
            expected = "None with durability='power': buffers have to lie beside the shards"
            raise ConfigError("buffer_dir", expected, str(self.buffer_dir))
        if self.scratch_dir is not None and self.buffer_dir is not None:
            expected = "None with scratch_dir: buffers lie there, too"
            raise ConfigError("buffer_dir", expected, str(self.buffer_dir))
        if self.buffer_dir is not None and not self.buffer_dir.is_dir():
            raise ConfigError("buffer_dir", "an existing directory", str(self.buffer_dir))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "RecorderConfig":
        """Return the options of a ``DataExporter``, as they are given to it.

        Raises
        ------
        ConfigError
            An option has a value it cannot have.
        """
        values = {**options, "precision": options.get("precision") or {}}
        if not isinstance(values["precision"], Mapping):
            raise ConfigError("precision", "errors by field", values["precision"])
        values["precision"] = dict(values["precision"])
        for option in _PATHS:
            if values.get(option) is not None:
                values[option] = checked_path(option, values[option])
        if values.get("seed") is None:
            values["seed"] = int.from_bytes(os.urandom(8), "big") >> 1
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the options by name, as JSON values."""
        values = asdict(self)
        for option in _PATHS:
            values[option] = None if values[option] is None else str(values[option])
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RecorderConfig":
        """Return the options that ``to_json`` wrote."""
        paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
        return cls(**{**values, **paths})


def checked_path(option: str, value: str | os.PathLike[str]) -> Path:
    """Return a path that the caller gave.

    Raises
    ------
    ConfigError
        It is none.
    """
    try:
        return Path(value)
    except TypeError as error:
        raise ConfigError(option, "a path", value) from error


def _check_int(option: str, value: object, low: int, high: int | None = None) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not good or (high is not None and isinstance(value, int) and value > high):
        span = f"{low} to {high}" if high is not None else f"at least {low}"
        raise ConfigError(option, f"an int, {span}", value)


def _check_positive(option: str, value: object) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 0 < cast(float, value) < float("inf"):
        raise ConfigError(option, "a number above 0", value)


def _check_bool(option: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(option, "True or False", value)
