"""``shardwriter recover``: seal the episodes of processes that died."""

import argparse
import json
import sys
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    recover = commands.add_parser(
        "recover",
        parents=[common],
        help="seal the episodes of processes that died",
        description="Seal the episodes of processes that died, with every row that was logged. "
        "Exit code: 0 all is recovered, 3 recovered with loss, 1 something could not be.",
    )
    recover.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    recover.add_argument("--dry-run", action="store_true", help="only say what would be done")
    recover.add_argument("--json", action="store_true", help="for programs")
    recover.add_argument(
        "--force-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also seal the episodes of this host, where nothing records any more (repeatable)",
    )
    recover.set_defaults(action=_recover)


def _recover(options: argparse.Namespace) -> int:
    from shardwriter.recovery import exit_code, recover

    episodes = recover(
        options.directory,
        dry_run=options.dry_run,
        force_hosts=options.force_host,
        progress=sys.stderr.isatty(),
    )
    if options.json:
        print(json.dumps([episode.to_json() for episode in episodes], indent=2))
    else:
        print("\n".join(map(str, episodes)) or "nothing to recover")
    return exit_code(episodes)
