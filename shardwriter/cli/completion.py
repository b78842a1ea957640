"""``shardwriter completion``: what a shell needs to complete the command line."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from shardwriter.cli.arguments import Parser, Subparsers, add_command, write

__all__ = ["add_to"]


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    completion = add_command(
        commands,
        common,
        "completion",
        "print a completion script for a shell",
        "Print a script with which a shell completes commands, options and paths.",
        """
shardwriter completion bash > ~/.local/share/bash-completion/completions/shardwriter
shardwriter completion zsh > ~/.zfunc/_shardwriter
""",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="which shell")
    completion.set_defaults(action=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    from shardwriter.cli.main import parser

    whole = parser()
    for command in (whole, *_commands_of(whole)):
        for argument in command._actions:
            if argument.type is Path:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab has it
    write(shtab.complete(whole, options.shell) + "\n")
    return 0


def _commands_of(whole: Parser) -> Iterator[Parser]:
    for action in whole._actions:
        for command in action.choices.values() if isinstance(action.choices, dict) else ():
            yield command
            yield from _commands_of(command)
