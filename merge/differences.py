"""Fields whose dtype or shape is not the same in every episode.

Invariant: a merge allows them, since episodes stand alone, but never without saying so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardwriter.errors import ranges
from shardwriter.files.shard_description import ColumnDescription, TableDescription

__all__ = ["SchemaDifference", "difference_lines", "differences"]


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One field and its forms: each a dtype with the shape of a row, and the episodes of it."""

    field: str
    forms: tuple[tuple[str, tuple[int, ...]], ...]


def differences(
    schemas: Mapping[int, Mapping[str, TableDescription]],
) -> tuple[SchemaDifference, ...]:
    """Return the fields that differ between episodes, most common form first.

    Parameters
    ----------
    schemas
        Each episode's tables. That an episode lacks a field is no difference.
    """
    forms: dict[tuple[str, ColumnDescription], list[int]] = {}
    for episode, tables in schemas.items():
        for table, description in tables.items():
            for column in description.columns:
                forms.setdefault((table, column), []).append(episode)
    fields: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for (table, column), episodes in forms.items():
        if not column.is_text:  # its width is storage, not meaning
            field = fields.setdefault(f"{table}/{column.name}", [])
            field.append((_form(column), tuple(episodes)))
    found = []
    for name, several in fields.items():
        if len({form for form, _ in several}) > 1:
            ordered = sorted(several, key=lambda one: -len(one[1]))
            found.append(SchemaDifference(name, tuple(ordered)))
    return tuple(found)


def _form(column: ColumnDescription) -> str:
    return f"{column.dtype.name} {column.shape}"


def difference_lines(found: Sequence[SchemaDifference]) -> list[str]:
    """Write differences as a table for people, one line per field and form."""
    rows = [("field", "form", "episodes")]
    rows += [
        (each.field, form, f"{len(episodes)}: {ranges(episodes)}")
        for each in found
        for form, episodes in each.forms
    ]
    first, second = (max(len(row[i]) for row in rows) for i in range(2))
    return [f"  {a:<{first}}  {b:<{second}}  {c}" for a, b, c in rows]
