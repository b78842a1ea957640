"""``shardwriter merge``: build the master file over all finished shards."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_expected,
    add_json,
    print_json,
    say,
    shows_progress,
    tell_unfinished,
)

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    merge = add_command(
        commands,
        common,
        "merge",
        "build the master file over all finished shards",
        "Build the master over all finished shards, or bring it up to date: only what is new is "
        "read. Shards are never changed or deleted. With --expected it fails, and writes nothing, "
        "if an episode is missing.",
        """
shardwriter merge experiments/maze_20250601_120000
shardwriter merge experiments/maze_20250601_120000 --recover --expected 0:100
shardwriter merge run_a run_b --renumber -o both.h5
""",
        exit_codes="0 done, 1 an error, or with --recover something could not be recovered, "
        "3 with --recover: recovered with loss",
    )
    merge.add_argument(
        "directories",
        type=Path,
        nargs="+",
        metavar="EXPERIMENT_DIR",
        help="the experiment's directory; of several, one master is made, with -o",
    )
    merge.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help="the master's path (default: experiment_data.h5 in EXPERIMENT_DIR)",
    )
    add_expected(merge)
    merge.add_argument(
        "--renumber", action="store_true", help="give the later ones of colliding ids new ids"
    )
    merge.add_argument(
        "--forget-missing",
        action="store_true",
        help="drop episodes that the last merge had and this one has not",
    )
    merge.add_argument(
        "--recover", action="store_true", help="first seal the episodes of processes that died"
    )
    merge.add_argument("--rebuild", action="store_true", help="read every shard anew")
    merge.add_argument(
        "--concat", action="store_true", help="add datasets over all episodes, for few shards"
    )
    merge.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_json(merge)
    merge.set_defaults(action=_merge)


def _merge(options: argparse.Namespace) -> int:
    from merge import MergeOptions, merge_experiments
    from merge.report import report_text
    from shardwriter.files.layout import unfinished_episodes

    chosen = MergeOptions(
        expected=options.expected,
        renumber=options.renumber,
        forget_missing=options.forget_missing,
        rebuild=options.rebuild,
        concat=options.concat,
        dry_run=options.dry_run,
        progress=shows_progress(options),
    )
    code = 0
    if options.recover and not options.dry_run:
        code = max(_sealed(directory, options) for directory in options.directories)
    report = merge_experiments(options.directories, options.output, chosen)
    if options.json:
        left = {str(path): unfinished_episodes(path) for path in options.directories}
        print_json({**report.to_json(), "unfinished": left})
        return code
    say(report_text(report, is_dry=options.dry_run))
    for directory in options.directories:
        tell_unfinished(directory, "merged")
    return code


def _sealed(directory: Path, options: argparse.Namespace) -> int:
    from shardwriter.recovery import exit_code, recover

    episodes = recover(directory, progress=shows_progress(options))
    for episode in () if options.json else episodes:
        say(episode)
    return exit_code(episodes)
