"""What an experiment holds, for people and programs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import ShardWriterError, ranges
from shardwriter.loader import ExperimentLoader
from shardwriter.notebook import name_of, status_text
from shardwriter.printable import printable_lines
from shardwriter.reading.description import EpisodeColumn, EpisodeDescription
from shardwriter.recording.performance import performance_text

__all__ = [
    "add_fields",
    "experiment_info",
    "field_kind",
    "info_text",
    "performance_report",
    "ratio_text",
    "recorded_text",
    "size_text",
]

_YEAR_10000 = 253_402_300_800  # seconds: what neither a clock nor a NaN says, nor Python can write


def experiment_info(path: Path, *, root: Path | None = None) -> dict[str, Any]:
    """Return what is in an experiment, as JSON values.

    Parameters
    ----------
    path
        The experiment's directory or master.
    root
        The directory that no shard may lie outside of; by default the master's own.

    Returns
    -------
    dict
        ``path``, ``metadata``, ``episodes`` (one dict each), ``fields`` by table: dtype, shape
        of a row, rows, raw and stored bytes over all episodes, compression, and in ``choices``
        what an adaptive choice was made from. ``performance``: what ``get_performance_stats``
        returned at the end, ``{}`` for a recording without ``enable_profiling``.
    """
    with ExperimentLoader(path, root=root) as loader:
        fields: dict[str, dict[str, Any]] = {}
        for _, found in loader.describe():
            if isinstance(found, ShardWriterError):
                raise found
            add_fields(fields, found)
        index = loader.episode_index
        return {
            "path": str(loader.path),
            "metadata": loader.get_metadata(),
            "performance": loader.get_performance(),
            "episodes": [_row(row) for row in index],
            "fields": fields,
            "raw_bytes": sum(field["raw_bytes"] for field in fields.values()),
            "stored_bytes": int(index["size"].sum()),
        }


def add_fields(fields: dict[str, dict[str, Any]], episode: EpisodeDescription) -> None:
    """Add an episode to what ``experiment_info`` says of fields."""
    for column in episode.columns:
        _add(fields, column.path, _facts(column))


def _row(row: np.void) -> dict[str, Any]:
    values = {name: row[name].item() for name in row.dtype.names or ()}
    return {
        name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def _facts(column: EpisodeColumn) -> dict[str, Any]:
    dtype = column.dtype
    text = h5py.check_string_dtype(dtype) is not None
    return {
        "dtype": f"text, at most {dtype.itemsize} bytes" if text else dtype.name,
        "shape": list(column.shape),
        "rows": column.rows,
        "raw_bytes": column.raw_bytes,
        "stored_bytes": column.stored_bytes,
        "compression": column.compression,
        "choices": [column.choice] if column.choice else [],
    }


def _add(fields: dict[str, dict[str, Any]], name: str, facts: dict[str, Any]) -> None:
    nothing = {"rows": 0, "raw_bytes": 0, "stored_bytes": 0, "choices": []}
    known = fields.setdefault(name, {**facts, **nothing})
    for key in ("rows", "raw_bytes", "stored_bytes"):
        known[key] += facts[key]
    for key in ("dtype", "shape", "compression"):
        if known[key] != facts[key]:
            known[key] = "differs between episodes"
    known["choices"] += [each for each in facts["choices"] if each not in known["choices"]]


def performance_report(info: dict[str, Any]) -> str:
    """Write the saved performance in what ``experiment_info`` returned as lines for people."""
    if not info["performance"]:
        return "  no performance was saved: record with enable_profiling=True"
    return performance_text(info["performance"])


def info_text(info: dict[str, Any]) -> str:
    """Write what ``experiment_info`` returned as lines for people."""
    episodes = info["episodes"]
    raw, stored = info["raw_bytes"], info["stored_bytes"]
    data = f"{size_text(raw)} in {size_text(stored)} of shards ({ratio_text(raw, stored)})"
    recorded = recorded_text(*([e[key] for e in episodes] for key in ("start_time", "end_time")))
    lines = [
        f"{name_of(info['metadata'])}  ({info['path']})",
        f"  recorded   {recorded}",
        f"  episodes   {len(episodes)}: {ranges([e['episode_id'] for e in episodes])}",
        f"  status     {status_text(e['status'] for e in episodes)}",
        f"  steps      {sum(e['steps'] for e in episodes):,}",
        f"  spikes     {sum(e['spikes'] for e in episodes):,}",
        f"  data       {data}",
    ]
    if info["fields"]:
        lines += ["", *_field_lines(info["fields"])]
    return printable_lines(lines)


def _field_lines(fields: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max(map(len, fields))
    kind_width = max(len(field_kind(field)) for field in fields.values())
    lines = []
    for name, field in fields.items():
        rows = field["rows"]
        lines.append(
            f"  {name:<{width}}  {field_kind(field):<{kind_width}}  "
            f"{rows:>12,} {'row' if rows == 1 else 'rows':<4}  "
            f"{size_text(field['raw_bytes']):>9}  "
            f"{ratio_text(field['raw_bytes'], field['stored_bytes']):>8}"
        )
        lines += [f"    chosen: {choice}" for choice in field["choices"]]
    return lines


def recorded_text(starts: Sequence[float], ends: Sequence[float]) -> str:
    """Write, in UTC, from when to when episodes were recorded.

    The ``end_time`` of an experiment is that of its master, which may have been made much later.
    """
    if not starts:
        return "nothing"
    first = min((t for t in starts if 0 < t < _YEAR_10000), default=None)
    last = max((t for t in ends if 0 < t < _YEAR_10000), default=None)
    return f"{_when(first)} to {_when(last)} UTC"


def _when(seconds: float | None) -> str:
    return "…" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def field_kind(field: Mapping[str, Any]) -> str:
    """Write the dtype and the shape of a row of a field in what ``experiment_info`` returned."""
    shape = field["shape"]
    return field["dtype"] if isinstance(shape, str) else f"{field['dtype']} {tuple(shape)}"


def size_text(n: float) -> str:
    """Write a number of bytes with its decimal unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError(n)


def ratio_text(raw: int, stored: int) -> str:
    """Write how many times smaller data are stored than they are."""
    return f"{raw / stored:.2f}x" if stored else "-"
