"""Parse, dispatch, and turn what a command raises into an exit code."""

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from shardwriter import __version__
from shardwriter.cli import (
    completion,
    demo,
    export,
    importing,
    info,
    merge,
    missing,
    pack,
    plot,
    recover,
    relink,
    report,
    run,
    verify,
    watch,
)
from shardwriter.cli.arguments import say, write
from shardwriter.errors import ShardWriterError

__all__ = ["main", "parser"]

# In the order of --help.
_COMMANDS = (
    run, info, plot, report, watch, merge, verify, pack, relink, recover, missing, export,
    importing, demo, completion,
)  # fmt: skip

_OF_A_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

_EPILOG = """
exit codes:
  0    done
  1    an error, one line on stderr; or problems that `verify` found, or episodes of `run` failed
  2    wrong usage
  3    `recover` and `merge --recover`: recovered, but rows were lost, from damaged files
  130  Ctrl-C
  143  SIGTERM, which ends `run` in an orderly way

A command's own help has examples: shardwriter merge --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code.

    0 for success, 1 for an error (one line on stderr), 2 for wrong usage, 130 for Ctrl-C;
    SystemExit with 143 for SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever its encoding lacks
    options, others = parser().parse_known_args(arguments)
    if others:
        options.parser.error(_unexpected(others))
    action: Callable[[argparse.Namespace], int] = options.action
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = action(options)
        write("", flush=True)
        return code
    except BrokenPipeError:  # `| head` has read enough
        return 0
    except (ShardWriterError, OSError) as error:
        if options.debug:
            raise
        say(f"shardwriter: {' '.join(_text(error).split())}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.debug:
            raise
        say("shardwriter: interrupted", sys.stderr)
        return 130


def _unexpected(others: Sequence[str]) -> str:
    if any(each.startswith("-") for each in others):
        return f"unrecognized arguments: {' '.join(others)}"
    return f"expected nothing more, got {' '.join(others)}; give one at a time"


def _text(error: ShardWriterError | OSError) -> str:
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    text = f"{error.filename}: {error.strerror}"
    return f"{text}; check the path" if isinstance(error, _OF_A_PATH) else text


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As ``warnings.showwarning``, but in one line, without the place in the code."""
    say(f"shardwriter: {' '.join(str(message).split())}", sys.stderr)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    common = _common()
    whole = argparse.ArgumentParser(
        prog="shardwriter",
        description="Record parallel episodes into shards; merge and inspect them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"shardwriter {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands, common)
    return whole


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    common.add_argument("--quiet", "-q", action="store_true", help="no progress bars")
    return common
