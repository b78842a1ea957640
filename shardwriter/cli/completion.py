"""``shardwriter completion``: what a shell needs to complete the command line."""

import argparse

from shardwriter.cli.arguments import Parser, Subparsers, add_command

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

    print(shtab.complete(parser(), options.shell))
    return 0
