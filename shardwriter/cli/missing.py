"""``shardwriter missing``: print the ids of episodes to run, or to run again."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, add_command, expected_ids, print_json

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    missing = add_command(
        commands,
        common,
        "missing",
        "print the ids of episodes to run, or to run again",
        "Print the ids of the expected episodes that have no completed shard, one a line.",
        """
shardwriter missing experiments/maze_20250601_120000 --expected 0:100
""",
    )
    missing.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    missing.add_argument(
        "--expected", type=expected_ids, required=True, metavar="IDS", help="100, 0:100 or 0:8,12"
    )
    missing.add_argument("--json", action="store_true", help="for programs")
    missing.set_defaults(action=_missing)


def _missing(options: argparse.Namespace) -> int:
    from shardwriter.recovery import missing

    ids = missing(options.directory, options.expected)
    if options.json:
        print_json(ids)
    else:
        for episode in ids:
            print(episode)
    return 0
