"""``shardwriter pack`` and ``shardwriter unpack``: fewer files, and back."""

import argparse
import sys
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, positive

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the commands to the parser."""
    pack = commands.add_parser(
        "pack", parents=[common], help="write an experiment into one file, or into few shards"
    )
    pack.add_argument("directory", type=Path, metavar="EXPERIMENT_DIR")
    pack.add_argument("--output", "-o", type=Path, required=True, metavar="PATH")
    pack.add_argument(
        "--shards", type=positive, metavar="N", help="an experiment of N shards, not one file"
    )
    pack.set_defaults(action=_pack)

    unpack = commands.add_parser(
        "unpack", parents=[common], help="write what was packed with one shard per episode again"
    )
    unpack.add_argument("path", type=Path, metavar="FILE|DIR")
    unpack.add_argument("--output", "-o", type=Path, required=True, metavar="DIR")
    unpack.set_defaults(action=_unpack)


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
