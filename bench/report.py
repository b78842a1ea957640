"""A run as text: one table of all figures with goals, then the benchmarks' own tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.against import Change
from bench.findings import BUSY_CORES, Beside, Figure, Findings
from bench.goals import GOALS, Goal, judged
from bench.tables import markdown

__all__ = ["changes_text", "details", "summary"]

COLUMNS = ["what", "measured", "smallest to largest", "goal", "", "peer", "limit"]
NOTE = """\
Medians over rounds that take turns; ratios are taken within a round. "smallest to largest" are the
rounds. "x" is this figure / the peer's, whose own stands in brackets; for times, less is better."""


def number(value: float) -> str:
    """Spell a figure with three digits or more."""
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"


def summary(findings: Mapping[str, Findings]) -> str:
    """Write the one table, and below it what failed, lacks or was disturbed."""
    rows = []
    for name, each in findings.items():
        if each.error is not None:
            last = each.error.strip().splitlines()[-1]
            rows.append([f"**{name} failed**: {last}", *[""] * 6])
        for figure in each.figures:
            goals = [goal for goal in GOALS if goal.key == figure.key]
            rows += [_row(figure, goal) for goal in goals or [None]]
    judgements = judged(_figures(findings))
    verdicts = [verdict for goal, _, verdict in judgements if goal.question in findings]
    lines = [markdown(COLUMNS, rows, left={0, 5, 6}), "", NOTE, ""]
    counts = (f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    lines.append(f"Goals: {', '.join(counts)}")
    missing = dict.fromkeys(text for each in findings.values() for text in each.missing)
    if missing:
        lines.append(f"Not installed (pip install '.[bench]'): {'; '.join(missing)}")
    busy = [
        f"{name} ({each.foreign_cores:.1f})"
        for name, each in findings.items()
        if each.foreign_cores > BUSY_CORES
    ]
    if busy:
        lines.append(f"Disturbed, other processes used so many cores: {', '.join(busy)}")
    return "\n".join(lines)


def _figures(findings: Mapping[str, Findings]) -> Iterable[Figure]:
    return (figure for each in findings.values() for figure in each.figures)


def _row(figure: Figure, goal: Goal | None) -> list[str]:
    return [
        figure.what,
        f"{number(figure.value)} {figure.unit}",
        f"{number(figure.low)} to {number(figure.high)}",
        goal.spell(figure.unit) if goal else "",
        goal.judge(figure) if goal else "",
        _beside(figure.peer, "x"),
        _beside(figure.ceiling, "%" if figure.is_rate else "x"),
    ]


def _beside(beside: Beside | None, kind: str) -> str:
    if beside is None:
        return ""
    ratio = f"{number(100 * beside.ratio)} % of" if kind == "%" else f"{number(beside.ratio)}x"
    return f"{ratio} {beside.name} ({number(beside.value)})"


def details(findings: Mapping[str, Findings]) -> str:
    """Write the tables that go into more detail."""
    parts = []
    for each in findings.values():
        parts += [
            f"{table.title}\n\n{markdown(table.columns, table.rows)}" for table in each.tables
        ]
    return "\n\n".join(parts)


def changes_text(
    changes: Iterable[Change], gone: Iterable[str], new: Iterable[str], name: str
) -> str:
    """Write what became worse and better."""
    listed = sorted(changes, key=lambda change: change.factor)
    rows = [
        [
            change.now.what,
            f"{number(change.before.value)} {change.now.unit}",
            f"{number(change.now.value)} {change.now.unit}",
            f"{change.factor:.2f}",
            f"{change.tolerance:.0%}",
            change.compared,
            change.verdict,
        ]
        for change in listed
        if change.verdict != "same"
    ]
    titles = ["what", "before", "now", "times better", "tolerance", "compared", ""]
    unchanged = sum(change.verdict == "same" for change in listed)
    lines = [f"Against {name}: {unchanged} figures unchanged"]
    lines += ["", markdown(titles, rows)] if rows else []
    lines += [f"Only measured before: {', '.join(gone)}"] if gone else []
    lines += [f"Only measured now: {', '.join(new)}"] if new else []
    return "\n".join(lines)
