"""``shardwriter verify``: check that everything is there and as it was."""

import argparse
import json
import sys
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, expected_ids

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    verify = commands.add_parser(
        "verify",
        parents=[common],
        help="check that everything is there and as it was",
        description="Check an experiment, a master, a packed file or a shard. "
        "Exit code: 0 sound, 1 problems, each with its mend.",
    )
    verify.add_argument("path", type=Path, metavar="FILE|DIR")
    verify.add_argument("--deep", action="store_true", help="decode and compare every chunk")
    verify.add_argument("--expected", type=expected_ids, metavar="IDS", help="100, 0:100 or 0:8,12")
    verify.add_argument("--root", type=Path, metavar="DIR", help="shards may lie anywhere below")
    verify.add_argument("--json", action="store_true", help="for programs")
    verify.set_defaults(action=_verify)


def _verify(options: argparse.Namespace) -> int:
    from merge import verify

    report = verify(
        options.path,
        deep=options.deep,
        expected=options.expected,
        root=options.root,
        progress=sys.stderr.isatty(),
    )
    print(json.dumps(report.to_json(), indent=2) if options.json else report)
    return 0 if report.is_sound else 1
