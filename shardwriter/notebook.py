"""What a notebook shows of an experiment and of its episodes.

Invariant: everything is told from the index, without reading a shard; whatever an experiment says
of itself is escaped.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["episode_facts", "facts_html", "index_html", "name_of", "status_text", "statuses"]

_MOST_ROWS = 10
_COLUMNS = ("episode_id", "status", "steps", "total_reward", "spikes")


def _escaped(text: str) -> str:
    from html import escape  # noqa: PLC0415  (it imports a table of all entities)

    return escape(text)


def facts_html(title: str, facts: Mapping[str, object], more: str = "") -> str:
    """Return a table of facts by name below a title; `more` is HTML that follows it."""
    rows = "".join(
        f'<tr><th style="text-align:left">{_escaped(name)}</th>'
        f'<td style="text-align:left">{_escaped(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f"<div><strong>{_escaped(title)}</strong><table>{rows}</table>{more}</div>"


def index_html(index: np.ndarray[Any, Any]) -> str:
    """Return a table of an index's episodes, of many the first and the last."""
    half = _MOST_ROWS // 2
    few = len(index) <= _MOST_ROWS
    parts = [_rows(index)] if few else [_rows(index[:half]), _gap(index), _rows(index[-half:])]
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in _COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(parts)}</tbody></table>"


def _gap(index: np.ndarray[Any, Any]) -> str:
    return f'<tr><td colspan="{len(_COLUMNS)}">… {len(index) - _MOST_ROWS:,} more …</td></tr>'


def _rows(index: np.ndarray[Any, Any]) -> str:
    lines = []
    for row in index:
        cells = (_escaped(_text(row[name].item())) for name in _COLUMNS)
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "".join(lines)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def episode_facts(row: np.void) -> dict[str, str]:
    """Return what the index says of one episode."""
    facts = {
        "status": _text(row["status"].item()),
        "steps": _text(row["steps"].item()),
        "spikes": _text(row["spikes"].item()),
        "return": _text(row["total_reward"].item()),
        "seed": str(row["seed"].item()),
    }
    for name in row.dtype.names or ():
        if name.startswith("rows_") and row[name] >= 0:
            facts[f"rows of {name.removeprefix('rows_')}"] = _text(row[name].item())
    return facts


def name_of(metadata: Mapping[str, Any]) -> str:
    """Return the name of an experiment by its attributes, which those of others may lack."""
    return str(metadata.get("experiment_name", "without a name"))


def statuses(index: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.str_]]:
    """Return the statuses in an index, of which those of foreign files may be no text."""
    return np.char.decode(index["status"], "utf-8", "backslashreplace")


def status_text(statuses: Iterable[str]) -> str:
    """Count episodes by status: ``7 completed, 1 failed``."""
    counts = Counter(statuses)
    return ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())) or "none"
