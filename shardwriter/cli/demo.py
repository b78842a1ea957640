"""``shardwriter demo``: record, merge and draw a foraging spiking network."""

import argparse
import os
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    positive,
    print_json,
    say,
    shows_progress,
)

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    demo = add_command(
        commands,
        common,
        "demo",
        "record, merge and draw a foraging spiking network",
        "Record agents whose spiking networks learn to forage, merge, read back and draw them.",
        """
shardwriter demo
shardwriter demo --episodes 2 --steps 5000 --output /tmp/demo
""",
    )
    demo.add_argument("--episodes", type=positive, default=8, metavar="N", help="default: 8")
    demo.add_argument(
        "--workers", type=positive, metavar="N", help="processes; default: one per core"
    )
    demo.add_argument(
        "--steps", type=positive, default=20_000, metavar="N", help="per episode; default: 20000"
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("experiments"),
        metavar="DIR",
        help="where the experiment's directory is made; default: experiments",
    )
    demo.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the experiment; default: 1"
    )
    add_json(demo)
    demo.set_defaults(action=_demo)


def _demo(options: argparse.Namespace) -> int:
    from shardwriter import demo

    workers = options.workers or len(os.sched_getaffinity(0))
    result = demo.run(
        options.output,
        options.episodes,
        options.steps,
        workers,
        options.seed,
        progress=None if shows_progress(options) else False,
    )
    if options.json:
        print_json(demo.summary_json(result))
    else:
        say(demo.summary_text(result))
    return 0
