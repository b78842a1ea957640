"""``shardwriter import``: make an experiment of data of other tools."""

import argparse
from dataclasses import asdict
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    print_json,
    say,
    shows_progress,
)
from shardwriter.errors import counted

__all__ = ["add_to"]

_MINARI = """Make an experiment of a Minari dataset that is on this machine
(MINARI_DATASETS_PATH). Needs `pip install 'shardwriter[minari]'`."""
_MINARI_EXAMPLES = """
shardwriter import minari D4RL/door/human-v2 experiments
shardwriter import minari maze/random-v0 experiments --json
"""


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    text = "make an experiment of data of other tools"
    parser = add_command(
        commands,
        common,
        "import",
        text,
        f"{text.capitalize()}.",
        _MINARI_EXAMPLES.strip().splitlines()[0],
    )
    formats = parser.add_subparsers(title="formats", required=True, metavar="FORMAT")
    minari = add_command(formats, common, "minari", "a Minari dataset", _MINARI, _MINARI_EXAMPLES)
    minari.add_argument("name", metavar="NAME", help="of the dataset, such as maze/random-v0")
    minari.add_argument(
        "output", type=Path, metavar="DIR", help="where the experiment's directory is made"
    )
    add_json(minari)
    minari.set_defaults(action=_minari)


def _minari(options: argparse.Namespace) -> int:
    from shardwriter.interop.minari import import_minari

    report = import_minari(options.name, options.output, progress=shows_progress(options))
    if options.json:
        print_json(asdict(report))
    else:
        say(report.directory)
        episodes = counted(report.episodes, "episode")
        say(f"  {episodes} with {counted(report.steps, 'step')} of {report.dataset}")
        say(f"  environment: {report.env or 'none recorded'}")
    return 0
