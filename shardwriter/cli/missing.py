"""``shardwriter missing``: print the ids of episodes to run, or to run again."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, episode_ids

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    missing = commands.add_parser(
        "missing", parents=[common], help="print the ids of episodes to run, or to run again"
    )
    missing.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    missing.add_argument(
        "--expected", type=episode_ids, required=True, metavar="IDS", help="such as 0:100 or 0:8,12"
    )
    missing.set_defaults(action=_missing)


def _missing(options: argparse.Namespace) -> int:
    from shardwriter.recovery import missing

    for episode in missing(options.directory, options.expected):
        print(episode)
    return 0
