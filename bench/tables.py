"""Tables as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown"]


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table; the first column to the left, all others to the right."""
    lines = [list(titles), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )
