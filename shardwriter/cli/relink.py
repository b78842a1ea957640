"""``shardwriter relink``: tell a master that was moved where its shards are."""

import argparse
import sys
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    relink = commands.add_parser(
        "relink", parents=[common], help="tell a master that was moved where its shards are"
    )
    relink.add_argument("master", type=Path, metavar="MASTER")
    relink.add_argument(
        "--shards", type=Path, nargs="+", required=True, metavar="DIR", help="experiments"
    )
    relink.set_defaults(action=_relink)


def _relink(options: argparse.Namespace) -> int:
    from merge import relink
    from merge.report import report_text

    report = relink(options.master, options.shards, progress=sys.stderr.isatty())
    print(report_text(report))
    return 0
