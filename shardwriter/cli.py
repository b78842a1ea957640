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
    merge.add_argument("directories", type=Path, nargs="+", metavar="EXPERIMENT_DIR")
    merge.add_argument("--output", "-o", type=Path, metavar="FILE", help="the master's path")
    merge.add_argument(
        "--expected", type=_expected, metavar="IDS", help="fail if one lacks: 100, 0:100 or 0:8,12"
    )
    merge.add_argument(
        "--renumber", action="store_true", help="give the later ones of colliding ids new ids"
    )
    merge.add_argument(
        "--forget-missing", action="store_true", help="drop episodes whose shards are gone"
    )
    merge.add_argument(
        "--recover", action="store_true", help="first seal the episodes of processes that died"
    )
    merge.add_argument("--rebuild", action="store_true", help="read every shard anew")
    merge.add_argument(
        "--concat", action="store_true", help="add datasets over all episodes, for few shards"
    )
    merge.add_argument("--dry-run", action="store_true", help="only say what would be done")
    merge.set_defaults(action=_merge)

    verify = commands.add_parser(
        "verify",
        parents=[common],
        help="check that everything is there and as it was",
        description="Check an experiment, a master, a packed file or a shard. "
        "Exit code: 0 sound, 1 problems, each with its mend.",
    )
    verify.add_argument("path", type=Path, metavar="FILE|DIR")
    verify.add_argument("--deep", action="store_true", help="decode and compare every chunk")
    verify.add_argument("--expected", type=_expected, metavar="IDS", help="100, 0:100 or 0:8,12")
    verify.add_argument("--root", type=Path, metavar="DIR", help="shards may lie anywhere below")
    verify.add_argument("--json", action="store_true", help="for programs")
    verify.set_defaults(action=_verify)

    pack = commands.add_parser(
        "pack", parents=[common], help="write an experiment into one file, or into few shards"
    )
    pack.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    pack.add_argument("--output", "-o", type=Path, required=True, metavar="PATH")
    pack.add_argument(
        "--shards", type=_positive, metavar="N", help="an experiment of N shards, not one file"
    )
    pack.set_defaults(action=_pack)

    unpack = commands.add_parser(
        "unpack", parents=[common], help="write what was packed with one shard per episode again"
    )
    unpack.add_argument("path", type=Path, metavar="FILE|DIR")
    unpack.add_argument("--output", "-o", type=Path, required=True, metavar="DIR")
    unpack.set_defaults(action=_unpack)

    relink = commands.add_parser(
        "relink", parents=[common], help="tell a master that was moved where its shards are"
    )
    relink.add_argument("master", type=Path, metavar="MASTER")
    relink.add_argument(
        "--shards", type=Path, nargs="+", required=True, metavar="DIR", help="experiments"
    )
    relink.set_defaults(action=_relink)

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
    info.add_argument("--performance", action="store_true", help="also say what recording cost")
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


def _expected(text: str) -> list[int]:
    """Return the ids of ``100``, which stands for ``0:100``, or of ``0:8,12``."""
    return list(range(int(text))) if text.isdecimal() else _ids(text)


def _merge(options: argparse.Namespace) -> int:
    from merge import MergeOptions, merge_experiments
    from merge.report import report_text
    from shardwriter.errors import ranges
    from shardwriter.layout import unfinished_episodes

    chosen = MergeOptions(
        expected=options.expected,
        renumber=options.renumber,
        forget_missing=options.forget_missing,
        rebuild=options.rebuild,
        concat=options.concat,
        dry_run=options.dry_run,
        progress=sys.stderr.isatty(),
    )
    code = 0
    if options.recover and not options.dry_run:
        code = max(_sealed(directory) for directory in options.directories)
    report = merge_experiments(options.directories, options.output, chosen)
    print(report_text(report, is_dry=options.dry_run))
    for directory in options.directories:
        unfinished = unfinished_episodes(directory)
        if unfinished:
            mend = f"wait for their end, or run `shardwriter recover {directory}`"
            print(f"unfinished, not merged: episodes {ranges(unfinished)}; {mend}")
    return code


def _sealed(directory: Path) -> int:
    from shardwriter.recovery import exit_code, recover

    episodes = recover(directory, progress=sys.stderr.isatty())
    for episode in episodes:
        print(episode)
    return exit_code(episodes)


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


def _pack(options: argparse.Namespace) -> int:
    from merge import pack, pack_shards

    shows = sys.stderr.isatty()
    if options.shards is None:
        path = pack(options.directory, options.output, progress=shows)
    else:
        path = pack_shards(options.directory, options.output, options.shards, progress=shows)
    print(path)
    return 0


def _unpack(options: argparse.Namespace) -> int:
    from merge import unpack

    print(unpack(options.path, options.output, progress=sys.stderr.isatty()))
    return 0


def _relink(options: argparse.Namespace) -> int:
    from merge import relink
    from merge.report import report_text

    report = relink(options.master, options.shards, progress=sys.stderr.isatty())
    print(report_text(report))
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
    from shardwriter.info import experiment_info, info_text, performance_report

    info = experiment_info(options.directory)
    print(json.dumps(info, indent=2) if options.json else info_text(info))
    if options.performance and not options.json:
        print(f"\n{performance_report(info)}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from shardwriter import demo

    workers = options.workers or len(os.sched_getaffinity(0))
    result = demo.run(options.output, options.episodes, options.steps, workers, options.seed)
    print(demo.summary_text(result))
    return 0
