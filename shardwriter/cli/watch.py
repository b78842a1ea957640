"""``shardwriter watch``: a running experiment in the terminal."""

import argparse
import json
import shutil
import sys
import time

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_directory,
    add_expected,
    add_json,
    write,
)

__all__ = ["add_to"]

_UP_AND_CLEAR = "\x1b[{}A\x1b[J"


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    watch = add_command(
        commands,
        common,
        "watch",
        "follow a running experiment",
        "Follow a running experiment, without disturbing it: episodes done, running and failed, "
        "rows and MB per second, what is left and how long it takes, and how full the slots are. "
        "How many episodes there will be is known from the run_episodes, or shardwriter run, that "
        "records them; --expected says otherwise. It ends with Ctrl-C, when as many as --expected "
        "says are done, or when all there are have been merged and nobody records more. --json "
        "prints one line of JSON for each look.",
        """
shardwriter watch experiments/maze_20250601_120000
shardwriter watch experiments/maze_20250601_120000 --once --json
""",
    )
    add_directory(watch)
    add_expected(watch)
    watch.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="seconds from one look to the next; default: 1",
    )
    watch.add_argument("--once", action="store_true", help="look once (twice, for the rates)")
    add_json(watch)
    watch.set_defaults(action=_watch)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.05 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"expected 0.05 to 86400 seconds, got {text}")
    return value


def _watch(options: argparse.Namespace) -> int:
    from shardwriter.watch import Watcher
    from shardwriter.watch_text import snapshot_text

    expected = None if options.expected is None else len(options.expected)
    watcher = Watcher(options.directory, expected)
    snapshot = watcher.snapshot()
    if options.once:
        time.sleep(min(options.interval, 1.0))
        snapshot = watcher.snapshot()
    in_place = sys.stdout.isatty() and not options.json
    before = ""
    while True:
        text = json.dumps(snapshot.to_json()) if options.json else snapshot_text(snapshot)
        if before and in_place:
            write(_UP_AND_CLEAR.format(_height(before)))
        elif before and not options.json:
            write("\n")
        write(text + "\n", flush=True)
        before = text
        if options.once or snapshot.is_over:
            return 0
        time.sleep(options.interval)
        snapshot = watcher.snapshot()


def _height(text: str) -> int:
    """Return how many lines of the terminal a text takes, long ones being wrapped."""
    columns = shutil.get_terminal_size().columns
    return sum(max(1, -(-len(line) // columns)) for line in text.splitlines())
