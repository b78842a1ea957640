"""What a merge did, as text for people."""

import shlex

from merge.differences import difference_lines
from merge.options import MergeReport
from shardwriter.errors import counted, ranges
from shardwriter.printable import printable_lines

__all__ = ["report_text"]


def report_text(report: MergeReport, *, is_dry: bool = False) -> str:
    """Write a report as lines: the master, what changed in it, fields that differ."""
    lines = [f"{report.path}: {counted(report.episodes, 'episode')}"]
    if is_dry:
        lines[0] += " (dry run: nothing was written)"
    elif report.episodes and report.is_unchanged:
        lines[0] += ", as before"
    for name, ids in (
        ("added", report.added),
        ("read anew", report.changed),
        ("removed", report.removed),
    ):
        if ids:
            lines.append(f"  {name}: {len(ids)} ({ranges(ids)})")
    for episode, (path, original) in report.renumbered.items():
        lines.append(f"  episode {episode} is episode {original} of {path}")
    if report.differences:
        lines.append("Fields that are not alike in all episodes:")
        lines += difference_lines(report.differences)
    if report.leaves_folder:
        root = f"root={report.root}, or --root {shlex.quote(str(report.root))}"
        lines.append(f"Readers need {root}, as shards lie outside the master's folder.")
    return printable_lines(lines)
