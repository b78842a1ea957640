"""Parse, dispatch, and turn what a command raises into an exit code."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from shardwriter import __version__
from shardwriter.cli import demo, info, merge, missing, pack, recover, relink, verify
from shardwriter.errors import ShardWriterError

__all__ = ["main"]

_COMMANDS = (merge, verify, pack, relink, recover, missing, info, demo)  # in the order of --help


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
    for command in _COMMANDS:
        command.add_to(commands, common)
    return parser
