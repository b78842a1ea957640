"""``shardwriter info``: say what an experiment holds."""

import argparse
import json
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    info = commands.add_parser("info", parents=[common], help="say what an experiment holds")
    info.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    info.add_argument("--performance", action="store_true", help="also say what recording cost")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(action=_info)


def _info(options: argparse.Namespace) -> int:
    from shardwriter.info import experiment_info, info_text, performance_report

    info = experiment_info(options.directory)
    print(json.dumps(info, indent=2) if options.json else info_text(info))
    if options.performance and not options.json:
        print(f"\n{performance_report(info)}")
    return 0
