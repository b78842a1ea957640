"""What a report says, as JSON values.

Invariant: an episode that cannot be read does not keep the others from being reported.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from merge import verify
from shardwriter import __version__
from shardwriter.errors import ShardWriterError, ranges
from shardwriter.files.layout import unfinished_episodes
from shardwriter.info import (
    add_fields,
    field_kind,
    ratio_text,
    recorded_text,
    size_text,
)
from shardwriter.loader import ExperimentLoader
from shardwriter.notebook import name_of, status_text, statuses
from shardwriter.plot.firing_rate import firing_rate
from shardwriter.progress import progress_bar
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.recording.performance import performance_text
from shardwriter.report.columns import episode_columns
from shardwriter.report.drawing import drawing

__all__ = ["gathered"]

Array = np.ndarray[Any, Any]
Rows = list[list[str]]

_MOST_ROWS = 20_000  # of the table: some 3 MB
_MOST_PROBLEMS = 200
_MOST_TEXT = 4_000
_SHOWN_ABOVE = {"experiment_name", "start_time", "end_time", "timestamp", "episode_count"}


def gathered(
    directory: Path,
    *,
    episodes: Sequence[int] | None,
    expected: Sequence[int] | None,
    root: Path | None,
    verifies: bool,
    progress: bool,
) -> dict[str, Any]:
    """Return all that a report says; the parameters are those of ``write_report``."""
    with ExperimentLoader(directory, root=root) as loader:
        index = loader.episode_index
        ids = _drawn_ids(index) if episodes is None else list(dict.fromkeys(episodes))
        handles = [loader.get_episode(episode) for episode in ids]
        listed = index[_listed(index)]
        summaries, fields, unread = _read(loader, listed["episode_id"].tolist(), progress)
        metadata = loader.get_metadata()
        units = loader.get_units()
        return {
            "title": name_of(metadata),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "dt": units.dt,
            "facts": _facts(loader, index, fields),
            "fields": [_field_row(name, field, units.of) for name, field in fields.items()],
            "config": _table(loader.get_config()),
            "options": _table({k: v for k, v in metadata.items() if k not in _SHOWN_ABOVE}),
            "git": _table(loader.get_git_info()),
            "runtime": _table(loader.get_runtime_info()),
            "episodes": {
                "count": len(index),
                "columns": episode_columns(listed, summaries, firing_rate(loader, listed)),
            },
            "drawn": [drawn for each in handles if (drawn := _drawn(each, unread))],
            "health": {
                "statuses": status_text(statuses(index)),
                "unread": unread[:_MOST_PROBLEMS],
                "unfinished": _ids(unfinished_episodes(loader.path.parent)),
                "missing": None if expected is None else _ids(_not_completed(index, expected)),
                "verified": _verified(directory, root, progress) if verifies else None,
                "performance": _performance(loader.get_performance()),
            },
        }


def _drawn_ids(index: Array) -> list[int]:
    """Choose the first and the last episode, and those with the highest and lowest return."""
    whole = index[index["status"] == b"completed"]
    if len(whole) == 0:
        whole = index
    if len(whole) == 0:
        return []
    rows = {0, len(whole) - 1}
    if (whole["rows_rewards"] > 0).any():
        rows |= {int(whole["total_reward"].argmax()), int(whole["total_reward"].argmin())}
    return [int(whole["episode_id"][row]) for row in sorted(rows)]


def _listed(index: Array) -> Array:
    """Choose the rows of the table: all, or those not completed and an even choice of the rest."""
    if len(index) <= _MOST_ROWS:
        return np.arange(len(index))
    completed = index["status"] == b"completed"
    odd, rest = np.flatnonzero(~completed)[:_MOST_ROWS], np.flatnonzero(completed)
    even = np.linspace(0, len(rest) - 1, min(_MOST_ROWS - len(odd), len(rest))).astype(int)
    return np.sort(np.concatenate([odd, rest[even]]))


def _read(
    loader: ExperimentLoader, ids: Sequence[int], progress: bool
) -> tuple[dict[int, dict[str, Any]], dict[str, Any], Rows]:
    """Return summaries, facts about fields, and which episodes cannot be read, and why."""
    summaries: dict[int, dict[str, Any]] = {}
    fields: dict[str, Any] = {}
    unread: Rows = []
    with progress_bar("read", "episode", len(ids), shown=progress) as bar:
        for number, found in loader.describe(ids):
            if isinstance(found, ShardWriterError):
                unread.append([str(number), str(found)])
            else:
                summaries[number] = found.metadata
                add_fields(fields, found)
            bar.update()
    return summaries, fields, unread


def _drawn(episode: RecordedEpisode, unread: Rows) -> dict[str, Any] | None:
    try:
        return drawing(episode)
    except ShardWriterError as error:
        if not any(row[0] == str(episode.id) for row in unread):
            unread.append([str(episode.id), str(error)])
        return None


def _facts(loader: ExperimentLoader, index: Array, fields: Mapping[str, Any]) -> Rows:
    raw = sum(field["raw_bytes"] for field in fields.values())
    stored = sum(field["stored_bytes"] for field in fields.values())
    size = int(index["size"].sum())
    rows = [
        ["recorded", recorded_text(index["start_time"].tolist(), index["end_time"].tolist())],
        ["episodes", f"{len(index):,} ({status_text(statuses(index))})"],
        ["ids", ranges(index["episode_id"].tolist())],
        ["steps", f"{int(index['steps'].sum()):,}"],
        ["spikes", f"{int(index['spikes'].sum()):,}"],
    ]
    if (index["rows_rewards"] > 0).any():
        values = index["total_reward"]
        low, high, mean = values.min(), values.max(), values.mean()
        rows.append(["return", f"{mean:.6g} on average, {low:.6g} to {high:.6g}"])
    columns = f"{size_text(raw)} in {size_text(stored)} ({ratio_text(raw, stored)})"
    rows += [["columns", columns], ["shards", size_text(size)], ["file", str(loader.path)]]
    return rows


def _field_row(name: str, field: Mapping[str, Any], unit_of: Any) -> list[Any]:
    table, _, column = name.rpartition("/")
    return [
        name,
        unit_of(table, column) or "",
        field_kind(field),
        field["rows"],
        field["raw_bytes"],
        ratio_text(field["raw_bytes"], field["stored_bytes"]),
        field["compression"],
    ]


def _table(values: Mapping[str, Any], root: str = "") -> Rows:
    """Write nested values as rows of a dotted name and a text."""
    rows: Rows = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _table(value, f"{root}{name}.")
        else:
            rows.append([f"{root}{name}", _text(value)])
    return rows


def _text(value: object) -> str:
    if isinstance(value, np.ndarray) and value.size > 50:
        return f"{value.dtype} array {value.shape}"
    text = str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}… ({len(text):,} characters)"


def _not_completed(index: Array, expected: Sequence[int]) -> list[int]:
    completed = index["episode_id"][index["status"] == b"completed"]
    return sorted(set(expected) - set(completed.tolist()))


def _ids(ids: Sequence[int]) -> dict[str, Any]:
    return {"count": len(ids), "text": ranges(ids) if ids else ""}


def _performance(stats: Mapping[str, Any]) -> str:
    return performance_text(stats) if stats else ""


def _verified(directory: Path, root: Path | None, progress: bool) -> dict[str, Any]:
    found = verify(directory, root=root, progress=progress).to_json()
    count = len(found["problems"])
    found["problems"] = found["problems"][:_MOST_PROBLEMS]
    return {**found, "count": count}
