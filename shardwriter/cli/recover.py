"""``shardwriter recover``: seal the episodes of processes that died."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, add_command, print_json, shows_progress

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    recover = add_command(
        commands,
        common,
        "recover",
        "seal the episodes of processes that died",
        "Seal the episodes of processes that died, with every row that was logged. "
        "Exit code: 0 all is recovered, 3 recovered with loss, 1 something could not be.",
        """
shardwriter recover experiments/maze_20250601_120000 --dry-run
shardwriter recover experiments/maze_20250601_120000
""",
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
        progress=shows_progress(options),
    )
    if options.json:
        print_json([episode.to_json() for episode in episodes])
    else:
        print("\n".join(map(str, episodes)) or "nothing to recover")
    return exit_code(episodes)
