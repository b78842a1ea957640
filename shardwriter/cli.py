"""The ``shardwriter`` command: parse, dispatch, print, exit code."""

import argparse
import json
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
        return action(options)
    except (ShardWriterError, OSError) as error:
        if options.debug:
            raise
        print(f"shardwriter: {error}", file=sys.stderr)
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

    info = commands.add_parser("info", parents=[common], help="say what an experiment holds")
    info.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(action=_info)

    demo = commands.add_parser(
        "demo", parents=[common], help="record, merge and draw a foraging spiking network"
    )
    demo.add_argument("--episodes", type=_positive, default=16, metavar="N")
    demo.add_argument("--workers", type=_positive, metavar="N", help="default: one per core")
    demo.add_argument("--steps", type=_positive, default=2000, metavar="N", help="per episode")
    demo.add_argument("--output", type=Path, default=Path("experiments"), metavar="DIR")
    demo.add_argument("--seed", type=int, default=1, metavar="N")
    demo.set_defaults(action=_demo)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _merge(options: argparse.Namespace) -> int:
    from merge import merge_experiment
    from shardwriter.loader import ExperimentLoader

    master = merge_experiment(options.directory, options.output, progress=sys.stderr.isatty())
    with ExperimentLoader(master) as loader:
        print(f"{master}: {len(loader)} episodes")
    return 0


def _info(options: argparse.Namespace) -> int:
    from shardwriter.info import experiment_info, info_text

    info = experiment_info(options.directory)
    print(json.dumps(info, indent=2) if options.json else info_text(info))
    return 0


def _demo(options: argparse.Namespace) -> int:
    import os

    from shardwriter import demo

    workers = options.workers or len(os.sched_getaffinity(0))
    result = demo.run(options.output, options.episodes, options.steps, workers, options.seed)
    print(demo.summary_text(result))
    return 0
