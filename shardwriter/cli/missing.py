"""``shardwriter missing``: print the ids of episodes to run, or to run again."""

import argparse

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_directory,
    add_expected,
    add_json,
    print_json,
    say,
)

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
    add_directory(missing)
    add_expected(missing, required=True)
    add_json(missing)
    missing.set_defaults(action=_missing)


def _missing(options: argparse.Namespace) -> int:
    from shardwriter.recovery import missing

    ids = missing(options.directory, options.expected)
    if options.json:
        print_json(ids)
    else:
        for episode in ids:
            say(episode)
    return 0
