"""``python -m bench all``: run the benchmarks, print one table, save, draw and compare."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.against import compare
from bench.findings import Findings, Setting
from bench.machine import Machine, disk_folder, memory_folder
from bench.question import IN_MEMORY, QUESTIONS, ask
from bench.report import changes_text, details, summary

__all__ = ["load", "main", "save"]

FORMAT = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for.

    Returns
    -------
    int
        0; 1 if a benchmark failed, or a figure is worse than in the run compared with.
    """
    options = _arguments(argv)
    before = load(options.against) if options.against else None
    findings = {}
    disk = disk_folder(options.folder)
    memory = None if options.folder else memory_folder()
    with ExitStack() as stack:
        place, in_memory = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=folder)))
            for folder in (disk, memory or disk)
        )
        setting = Setting(
            folder=place,
            is_quick=options.quick,
            is_full=options.full,
            shards=options.shards,
            rounds=options.rounds,
            quiet_s=options.quiet_s,
        )
        machine = Machine.here(setting.folder)
        for name in options.names:
            where = in_memory if name in IN_MEMORY else place
            findings[name] = ask(name, replace(setting, folder=where))
            how = "failed" if findings[name].error else "done"
            print(f"{name}: {how} in {findings[name].took_s:.0f} s", file=sys.stderr, flush=True)
    print(f"{machine}{_where(memory, findings)}\n\n{summary(findings)}\n\n{details(findings)}")
    for name, each in findings.items():
        if each.error is not None:
            print(f"\n{name} failed:\n{textwrap.indent(each.error, '    ')}", file=sys.stderr)
    if options.json:
        save(options.json, machine, findings, is_quick=options.quick)
    if options.figures:
        from bench.plots import draw

        for path in draw(findings, options.figures, f"{machine.cpu}, {machine.cores} cores"):
            print(f"drawn: {path}", file=sys.stderr)
    has_failed = any(each.error for each in findings.values())
    is_worse = before is not None and _is_worse(before, machine, findings, options)
    return 1 if has_failed or is_worse else 0


def _where(memory: Path | None, names: Iterable[str]) -> str:
    asked = [name for name in names if name in IN_MEMORY]
    return f"\nRecorded into {memory}: {', '.join(asked)}" if memory and asked else ""


def _is_worse(
    before: dict[str, Any],
    machine: Machine,
    findings: Mapping[str, Findings],
    options: argparse.Namespace,
) -> bool:
    """Print the comparison."""
    if before["machine"]["cpu"] != machine.cpu or before["machine"]["cores"] != machine.cores:
        print("\nAnother machine: what follows compares machines as well.", file=sys.stderr)
    if before["is_quick"] or options.quick:
        print("\nQuick runs are too short to compare; this only shows how.", file=sys.stderr)
    asked = {name: each for name, each in before["findings"].items() if name in findings}
    old = [figure for each in asked.values() for figure in each.figures]
    new = [figure for each in findings.values() for figure in each.figures]
    changes, gone, added = compare(old, new)
    print("\n" + changes_text(changes, gone, added, str(options.against)))
    return any(change.verdict == "worse" for change in changes)


def save(path: Path, machine: Machine, findings: Mapping[str, Findings], *, is_quick: bool) -> None:
    """Write a run to JSON."""
    run = {
        "format": FORMAT,
        "machine": machine.as_dict(),
        "is_quick": is_quick,
        "findings": {name: each.to_json() for name, each in findings.items()},
    }
    path.write_text(json.dumps(run, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises
    ------
    SystemExit
        It is not such a file.
    """
    try:
        run: dict[str, Any] = json.loads(path.read_text())
        if run["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {run['format']}")
        read = {name: Findings.from_json(each) for name, each in run["findings"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path}: expected a run saved by --json, got {error!r}") from error
    return {**run, "findings": read}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:16}{what}" for name, what in QUESTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"Run benchmarks:\n\n  {'all':16}all of these\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--quick", action="store_true", help="that they work, in seconds; for CI")
    parser.add_argument("--full", action="store_true", help="also the largest sizes")
    parser.add_argument("--shards", type=int, default=0, help="of `merge`: this size alone")
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument("--quiet-s", type=float, help="wait so long for a quiet machine; 4, or 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the run")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with a saved run")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw PNGs there")
    parser.add_argument("--folder", type=Path, help="record here, also what goes into memory else")
    options = parser.parse_args(argv)
    if not options.names or "all" in options.names:
        options.names = list(QUESTIONS)
    for name in options.names:
        if name not in QUESTIONS:
            parser.error(f"expected all or some of {', '.join(QUESTIONS)}; got {name}")
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    if options.shards < 0:
        parser.error(f"--shards: expected at least 1, got {options.shards}")
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    if options.quiet_s is None:
        options.quiet_s = 0.0 if options.quick else 4.0
    return options
