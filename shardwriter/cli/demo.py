"""``shardwriter demo``: record, merge and draw a foraging spiking network."""

import argparse
import os
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, positive

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo", parents=[common], help="record, merge and draw a foraging spiking network"
    )
    demo.add_argument("--episodes", type=positive, default=8, metavar="N")
    demo.add_argument("--workers", type=positive, metavar="N", help="default: one per core")
    demo.add_argument("--steps", type=positive, default=20_000, metavar="N", help="per episode")
    demo.add_argument("--output", type=Path, default=Path("experiments"), metavar="DIR")
    demo.add_argument("--seed", type=int, default=1, metavar="N")
    demo.set_defaults(action=_demo)


def _demo(options: argparse.Namespace) -> int:
    from shardwriter import demo

    workers = options.workers or len(os.sched_getaffinity(0))
    result = demo.run(options.output, options.episodes, options.steps, workers, options.seed)
    print(demo.summary_text(result))
    return 0
