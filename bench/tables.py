"""Tables as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["markdown"]


def markdown(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)
) -> str:
    """Align a table; the columns in `left` to the left, all others to the right."""
    lines = [list(titles), *map(list, rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(titles))]
    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )
