"""``shardwriter verify``: check that everything is there and as it was."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_expected,
    add_json,
    add_root,
    print_json,
    say,
    shows_progress,
)

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    verify = add_command(
        commands,
        common,
        "verify",
        "check that everything is there and as it was",
        "Check an experiment, a master, a packed file or a shard, and print each problem with its "
        "mend.",
        """
shardwriter verify experiments/maze_20250601_120000
shardwriter verify experiments/maze_20250601_120000 --deep --expected 0:100
""",
        exit_codes="0 sound, 1 problems or an error",
    )
    verify.add_argument("path", type=Path, metavar="FILE|DIR", help="what to check")
    verify.add_argument("--deep", action="store_true", help="decode and compare every chunk")
    add_expected(verify)
    add_root(verify)
    add_json(verify)
    verify.set_defaults(action=_verify)


def _verify(options: argparse.Namespace) -> int:
    from merge import verify

    report = verify(
        options.path,
        deep=options.deep,
        expected=options.expected,
        root=options.root,
        progress=shows_progress(options),
    )
    if options.json:
        print_json(report.to_json())
    else:
        say(report)
    return 0 if report.is_sound else 1
