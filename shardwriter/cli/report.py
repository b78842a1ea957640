"""``shardwriter report``: an experiment as one HTML page."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_expected,
    add_json,
    add_root,
    episode_ids,
    print_json,
    say,
    shows_progress,
)
from shardwriter.errors import command

__all__ = ["add_to"]

_DESCRIPTION = """Write one HTML file that any browser opens without a network: a summary, all
episodes in plots and a table, some of them closer, whether everything is there, and what it was
recorded with. That includes host name, command line and working directory: think of it before you
publish the file."""
_EXAMPLES = """
shardwriter report experiments/maze_20250601_120000
shardwriter report experiments/maze_20250601_120000 -o maze.html --episodes 0:3,40
shardwriter report experiments/maze_20250601_120000 --expected 100 --no-verify
"""


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    report = add_command(
        commands, common, "report", "write a page about an experiment", _DESCRIPTION, _EXAMPLES
    )
    report.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    report.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="the page; default: report.html in DIR"
    )
    report.add_argument(
        "--episodes",
        type=episode_ids,
        metavar="IDS",
        help="to draw closer, such as 0:3,40 (default: first, last, highest and lowest return)",
    )
    add_expected(report)
    report.add_argument("--no-verify", action="store_true", help="do not verify, which takes time")
    add_root(report)
    add_json(report)
    report.set_defaults(action=_report)


def _report(options: argparse.Namespace) -> int:
    from shardwriter.report import write_report

    report = write_report(
        options.directory,
        options.output,
        episodes=options.episodes,
        expected=options.expected,
        root=options.root,
        verify=not options.no_verify,
        progress=shows_progress(options),
    )
    if options.json:
        print_json({**asdict(report), "path": str(report.path)})
    else:
        say(report.path)
    if report.problems:
        root = ("--root", options.root) if options.root else ()
        mend = command("verify", options.directory, *root)
        say(f"problems: {report.problems}; the page and {mend} name them", sys.stderr)
    return 0
