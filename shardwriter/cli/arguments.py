"""What several commands share: how they are added, ids of episodes, counts, progress."""

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TextIO, TypeAlias

from shardwriter.files.layout import unfinished_text
from shardwriter.printable import printable_lines

__all__ = [
    "Parser",
    "Subparsers",
    "add_command",
    "add_directory",
    "add_expected",
    "add_json",
    "add_root",
    "at_least",
    "episode_ids",
    "expected_ids",
    "positive",
    "print_json",
    "say",
    "shows_progress",
    "tell_unfinished",
    "write",
]

Parser: TypeAlias = argparse.ArgumentParser
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Subparsers,
    common: Parser,
    name: str,
    help_text: str,
    description: str,
    examples: str,
    *,
    exit_codes: str = "0 done, 1 an error",
) -> Parser:
    """Add a command whose help ends with examples, one a line, and exit codes; return its parser.

    What is parsed names the parser as ``parser``, for errors of usage.
    """
    paragraphs = (textwrap.fill(each, 79) for each in description.split("\n\n"))
    lines = textwrap.indent(examples.strip(), "  ")
    codes = textwrap.fill(f"exit codes: {exit_codes}, 2 wrong usage, 130 Ctrl-C", 79)
    parser = commands.add_parser(
        name,
        parents=[common],
        help=help_text,
        description="\n\n".join(paragraphs),
        epilog=f"examples:\n{lines}\n\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)
    return parser


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_directory(parser: Parser) -> None:
    """Add the directory of an experiment, merged or not."""
    parser.add_argument(
        "directory", type=Path, metavar="EXPERIMENT_DIR", help="the experiment's directory"
    )


def add_expected(parser: Parser, *, required: bool = False) -> None:
    """Add ``--expected``."""
    parser.add_argument(
        "--expected",
        type=expected_ids,
        required=required,
        metavar="IDS",
        help="episodes that there have to be, such as 100 (for 0 to 99), 0:100 or 0:8,12",
    )


def add_root(parser: Parser) -> None:
    """Add ``--root``."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="shards may lie anywhere below this (default: the master's directory)",
    )


def shows_progress(options: argparse.Namespace) -> bool:
    """Tell whether to draw progress bars: on a terminal, unless ``--quiet``."""
    return sys.stderr.isatty() and not options.quiet


def tell_unfinished(directory: Path, done: str) -> None:
    """Say on stderr which episodes of an experiment were not ``merged``, ``packed``, …, and why."""
    text = unfinished_text(directory)
    if text:
        say(f"not {done}, as {text}", sys.stderr)


def say(text: object, file: TextIO | None = None) -> None:
    """Print lines for people, in which what is not printable is escaped."""
    write(printable_lines(str(text).split("\n")) + "\n", file)


def print_json(value: object) -> None:
    """Print a value for programs."""
    write(json.dumps(value, indent=2) + "\n")


def write(text: str, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Print a text as it is, to standard output by default.

    Raises
    ------
    OSError
        It cannot be written; the error says so of standard output, which nothing reaches any more.
    """
    try:
        print(text, end="", file=file, flush=flush)
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for what is flushed at exit)
        problem = f"cannot be written: {error.strerror}"
        raise OSError(error.errno, problem, "standard output") from error


def positive(text: str) -> int:
    """Return an int of at least 1."""
    return at_least(1, text)


def at_least(least: int, text: str) -> int:
    """Return an int that is not below `least`."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
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
