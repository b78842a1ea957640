"""``shardwriter relink``: tell a master that was moved where its shards are."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    print_json,
    say,
    shows_progress,
)

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    relink = add_command(
        commands,
        common,
        "relink",
        "tell a master that was moved where its shards are",
        "Tell a master that was moved without its shards, or whose shards were, where they are.",
        """
shardwriter relink both.h5 --shards experiments/run_a experiments/run_b
""",
    )
    relink.add_argument("master", type=Path, metavar="MASTER", help="the master file")
    relink.add_argument(
        "--shards",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="directories of the experiments that have the shards",
    )
    add_json(relink)
    relink.set_defaults(action=_relink)


def _relink(options: argparse.Namespace) -> int:
    from merge import relink
    from merge.report import report_text

    report = relink(options.master, options.shards, progress=shows_progress(options))
    if options.json:
        print_json(report.to_json())
    else:
        say(report_text(report))
    return 0
