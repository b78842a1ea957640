"""``shardwriter recover``: seal the episodes of processes that died."""

import argparse

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_directory,
    add_json,
    print_json,
    say,
    shows_progress,
)

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    recover = add_command(
        commands,
        common,
        "recover",
        "seal the episodes of processes that died",
        "Seal the episodes of processes that died, with every row that was logged.",
        """
shardwriter recover experiments/maze_20250601_120000 --dry-run
shardwriter recover experiments/maze_20250601_120000
""",
        exit_codes="0 all is recovered, 1 something could not be, or an error, "
        "3 recovered with loss",
    )
    add_directory(recover)
    recover.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_json(recover)
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
        say("\n".join(map(str, episodes)) or "nothing to recover")
    return exit_code(episodes)
