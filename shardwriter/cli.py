"""The ``shardwriter`` command: parse, dispatch, print, exit code."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from shardwriter import __version__
from shardwriter.errors import ShardWriterError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code.

    0 for success, 1 for an error (one line on stderr), 2 for wrong usage, 130 for Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    action: Callable[[argparse.Namespace], int] = options.action
    try:
        code = action(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for what is flushed at exit)
        return 0
    except (ShardWriterError, OSError) as error:
        if options.debug:
            raise
        print(f"shardwriter: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.debug:
            raise
        print("shardwriter: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    parser = argparse.ArgumentParser(
        prog="shardwriter",
        description="Record parallel episodes into shards; merge and inspect them.",
    )
    parser.add_argument("--version", action="version", version=f"shardwriter {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    merge = commands.add_parser(
        "merge", parents=[common], help="build the master file over all finished shards"
    )
    merge.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    merge.add_argument("--output", "-o", type=Path, metavar="FILE", help="the master's path")
    merge.set_defaults(action=_merge)

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
        "--include-elsewhere",
        action="store_true",
        help="also seal episodes of other hosts and containers, where nothing records any more",
    )
    recover.set_defaults(action=_recover)

    missing = commands.add_parser(
        "missing", parents=[common], help="print the ids of episodes to run, or to run again"
    )
    missing.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    missing.add_argument(
        "--expected", type=_ids, required=True, metavar="IDS", help="such as 0:100 or 0:8,12"
    )
    missing.set_defaults(action=_missing)

    info = commands.add_parser("info", parents=[common], help="say what an experiment holds")
    info.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(action=_info)

    demo = commands.add_parser(
        "demo", parents=[common], help="record, merge and draw a foraging spiking network"
    )
    demo.add_argument("--episodes", type=_positive, default=8, metavar="N")
    demo.add_argument("--workers", type=_positive, metavar="N", help="default: one per core")
    demo.add_argument("--steps", type=_positive, default=20_000, metavar="N", help="per episode")
    demo.add_argument("--output", type=Path, default=Path("experiments"), metavar="DIR")
    demo.add_argument("--seed", type=int, default=1, metavar="N")
    demo.set_defaults(action=_demo)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _ids(text: str) -> list[int]:
    ids: list[int] = []
    try:
        for part in text.split(","):
            bounds = [int(number) for number in part.split(":")]
            ids += range(*bounds) if len(bounds) > 1 else bounds
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"expected ids such as 0:100, got {text!r}") from None
    return ids


def _merge(options: argparse.Namespace) -> int:
    from merge import merge_experiment
    from shardwriter.loader import ExperimentLoader

    master = merge_experiment(options.directory, options.output, progress=sys.stderr.isatty())
    with ExperimentLoader(master) as loader:
        print(f"{master}: {len(loader)} episodes")
    return 0


def _recover(options: argparse.Namespace) -> int:
    from shardwriter.recovery import exit_code, recover

    episodes = recover(
        options.directory,
        dry_run=options.dry_run,
        include_elsewhere=options.include_elsewhere,
        progress=sys.stderr.isatty(),
    )
    if options.json:
        print(json.dumps([episode.to_json() for episode in episodes], indent=2))
    else:
        print("\n".join(map(str, episodes)) or "nothing to recover")
    return exit_code(episodes)


def _missing(options: argparse.Namespace) -> int:
    from shardwriter.recovery import missing

    for episode in missing(options.directory, options.expected):
        print(episode)
    return 0


def _info(options: argparse.Namespace) -> int:
    from shardwriter.info import experiment_info, info_text

    info = experiment_info(options.directory)
    print(json.dumps(info, indent=2) if options.json else info_text(info))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from shardwriter import demo

    workers = options.workers or len(os.sched_getaffinity(0))
    result = demo.run(options.output, options.episodes, options.steps, workers, options.seed)
    print(demo.summary_text(result))
    return 0
