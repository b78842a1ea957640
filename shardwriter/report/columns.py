"""The table of episodes, column by column.

A column is a key, a heading, a kind (``number``, ``text``, ``time`` or ``whole`` for numbers that
are only to be read, such as seeds, which JavaScript cannot hold) and its values, None for none.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from shardwriter.notebook import statuses
from shardwriter.plot.firing_rate import FiringRate

__all__ = ["episode_columns"]

Array = np.ndarray[Any, Any]
Column = dict[str, Any]

_MOST_OWN = 12  # columns of what the recording program itself kept
_MOST_TEXT = 120
_KNOWN = {
    "end_time", "episode_id", "error", "seed", "start_time", "status", "success", "summary",
    "total_reward", "total_spikes", "total_timesteps", "traceback",
}  # fmt: skip


def episode_columns(
    index: Array, summaries: Mapping[int, Mapping[str, Any]], rate: FiringRate
) -> list[Column]:
    """Return the columns of the table.

    Parameters
    ----------
    index
        Rows of the episode index.
    summaries
        What ``get_episode_summary`` says of those episodes that can be read, by id.
    rate
        How often neurons fire in those episodes.
    """
    columns = [
        _column("id", "episode", "number", index["episode_id"].tolist()),
        _column("status", "status", "text", statuses(index).tolist()),
        _column("steps", "steps", "number", index["steps"].tolist()),
    ]
    if (index["rows_rewards"] > 0).any():
        columns.append(_column("return", "return", "number", _numbers(index["total_reward"])))
    if index["spikes"].any():
        heading = f"firing rate ({rate.unit})"
        columns.append(_column("spikes", "spikes", "number", index["spikes"].tolist()))
        columns.append(_column("rate", heading, "number", _numbers(rate.values)))
    columns += _own_columns(index["episode_id"].tolist(), summaries)
    errors = [str(summaries.get(i, {}).get("error", "")) for i in index["episode_id"].tolist()]
    if any(errors):
        columns.append(_column("error", "error", "text", [_short(error) for error in errors]))
    took = index["end_time"] - index["start_time"]
    return [
        *columns,
        _column("took", "took (s)", "number", _numbers(took, digits=4)),
        _column("started", "started", "time", _numbers(index["start_time"], digits=13)),
        _column("seed", "seed", "whole", [str(seed) for seed in index["seed"].tolist()]),
    ]


def _column(key: str, heading: str, kind: str, values: list[Any]) -> Column:
    return {"key": key, "heading": heading, "kind": kind, "values": values}


def _numbers(values: Array, digits: int = 9) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]


def _own_columns(ids: list[int], summaries: Mapping[int, Mapping[str, Any]]) -> list[Column]:
    """Return columns of plain values in the summaries and attributes that the user gave."""
    own: dict[str, dict[int, Any]] = {}
    for episode, summary in summaries.items():
        given = {name: value for name, value in summary.items() if name not in _KNOWN}
        result = summary.get("summary")
        for name, value in {**given, **(result if isinstance(result, Mapping) else {})}.items():
            if isinstance(value, (bool, int, float, str, np.generic)):
                own.setdefault(str(name), {})[episode] = _plain(value)
    return [_own_column(name, ids, values) for name, values in list(own.items())[:_MOST_OWN]]


def _own_column(name: str, ids: list[int], values: Mapping[int, Any]) -> Column:
    mine = [values.get(episode) for episode in ids]
    if all(value is None or isinstance(value, (int, float)) for value in mine):
        return _column(f"own:{name}", name, "number", mine)
    return _column(f"own:{name}", name, "text", [_short(v) for v in mine])


def _plain(value: Any) -> bool | float | str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, str)):
        return value if isinstance(value, str) else str(value).lower()
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _short(value: object) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"
