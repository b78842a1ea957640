"""What several commands share: how they are added, ids of episodes, counts, progress."""

import argparse
import json
import sys
from pathlib import Path
from typing import TypeAlias

from shardwriter.files.layout import unfinished_text

__all__ = [
    "Parser",
    "Subparsers",
    "add_command",
    "episode_ids",
    "expected_ids",
    "positive",
    "print_json",
    "shows_progress",
    "tell_unfinished",
]

Parser: TypeAlias = argparse.ArgumentParser
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Subparsers, common: Parser, name: str, help_text: str, description: str, examples: str
) -> Parser:
    """Add a command whose help ends with examples, one a line; return its parser."""
    return commands.add_parser(
        name,
        parents=[common],
        help=help_text,
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def shows_progress(options: argparse.Namespace) -> bool:
    """Tell whether to draw progress bars: on a terminal, unless ``--quiet``."""
    return sys.stderr.isatty() and not options.quiet


def tell_unfinished(directory: Path, done: str) -> None:
    """Say on stderr which episodes of an experiment were not ``merged``, ``packed``, …, and why."""
    text = unfinished_text(directory)
    if text:
        print(f"not {done}, as {text}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value for programs."""
    print(json.dumps(value, indent=2))


def positive(text: str) -> int:
    """Return an int of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def episode_ids(text: str) -> list[int]:
    """Return the ids of ``0:100`` or ``0:8,12``."""
    ids: list[int] = []
    try:
        for part in text.split(","):
            bounds = [int(number) for number in part.split(":")]
            ids += range(*bounds) if len(bounds) > 1 else bounds
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"expected ids such as 0:100, got {text!r}") from None
    return ids


def expected_ids(text: str) -> list[int]:
    """Return the ids of ``100``, which stands for ``0:100``, or of ``0:8,12``."""
    return list(range(int(text))) if text.isdecimal() else episode_ids(text)
