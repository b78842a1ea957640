"""``shardwriter pack`` and ``shardwriter unpack``: fewer files, and back."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_directory,
    add_json,
    positive,
    print_json,
    say,
    shows_progress,
    tell_unfinished,
)
from shardwriter.files.layout import unfinished_episodes

__all__ = ["add_to"]

_DEEP = "decode every chunk too, and compare it with its digest, as `verify --deep` does"


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the commands to the parser."""
    pack = add_command(
        commands,
        common,
        "pack",
        "write an experiment into one file, or into few shards",
        "Write an experiment into one HDF5 file that needs no shards, or with --shards into a new "
        "experiment of few files. The experiment itself stays as it is.",
        """
shardwriter pack experiments/maze_20250601_120000 -o maze.h5
shardwriter pack experiments/maze_20250601_120000 --shards 16 -o packed
""",
    )
    add_directory(pack)
    pack.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="PATH",
        help="the file to write, or with --shards the directory to make",
    )
    pack.add_argument(
        "--shards", type=positive, metavar="N", help="an experiment of N shards, not one file"
    )
    pack.add_argument("--deep", action="store_true", help=_DEEP)
    add_json(pack)
    pack.set_defaults(action=_pack)

    unpack = add_command(
        commands,
        common,
        "unpack",
        "write what was packed with one shard per episode again",
        "Write what was packed as an experiment with one shard for each episode.",
        """
shardwriter unpack maze.h5 -o maze_again
""",
    )
    unpack.add_argument("path", type=Path, metavar="FILE|DIR", help="what `pack` wrote")
    unpack.add_argument(
        "--output", "-o", type=Path, required=True, metavar="DIR", help="the directory to make"
    )
    unpack.add_argument("--deep", action="store_true", help=_DEEP)
    add_json(unpack)
    unpack.set_defaults(action=_unpack)


def _pack(options: argparse.Namespace) -> int:
    from merge import pack, pack_shards

    shows = shows_progress(options)
    if options.shards is None:
        path = pack(options.directory, options.output, deep=options.deep, progress=shows)
    else:
        few = options.shards
        path = pack_shards(
            options.directory, options.output, few, deep=options.deep, progress=shows
        )
    _print(path, options, options.directory, "packed")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    from merge import unpack

    shows = shows_progress(options)
    path = unpack(options.path, options.output, deep=options.deep, progress=shows)
    _print(path, options, options.path, "unpacked")
    return 0


def _print(path: Path, options: argparse.Namespace, source: Path, done: str) -> None:
    """Say what was written, and which episodes of its source are not in it."""
    if options.json:
        left = {str(source): unfinished_episodes(source)}
        print_json({"path": str(path), "bytes": _bytes(path), "unfinished": left})
    else:
        say(path)
        tell_unfinished(source, done)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
