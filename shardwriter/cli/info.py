"""``shardwriter info``: say what an experiment holds."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    add_root,
    print_json,
    say,
)

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    info = add_command(
        commands,
        common,
        "info",
        "say what an experiment holds",
        "Say what an experiment holds: episodes, steps, every recorded field and its size.",
        """
shardwriter info experiments/maze_20250601_120000
shardwriter info experiments/maze_20250601_120000 --json | jq .episodes
""",
    )
    info.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    info.add_argument("--performance", action="store_true", help="also say what recording cost")
    add_root(info)
    add_json(info)
    info.set_defaults(action=_info)


def _info(options: argparse.Namespace) -> int:
    from shardwriter.info import experiment_info, info_text, performance_report

    info = experiment_info(options.directory, root=options.root)
    if options.json:
        print_json(info)
        return 0
    say(info_text(info))
    if options.performance:
        say(f"\n{performance_report(info)}")
    return 0
