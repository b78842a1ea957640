"""Texts that a terminal shows as they are.

Invariant: what is returned commands no terminal, whatever was recorded.
"""

from collections.abc import Iterable

__all__ = ["printable", "printable_lines"]


def printable(text: str) -> str:
    """Return one line, with whatever is not printable, line ends too, as its escape."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def printable_lines(lines: Iterable[str]) -> str:
    """Join lines, with whatever in one is not printable as its escape."""
    return "\n".join(map(printable, lines))
