"""``shardwriter plot``: draw an episode, or all of them."""

import argparse
from pathlib import Path

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    add_root,
    print_json,
    say,
)

__all__ = ["add_to"]

_EXAMPLES = """
shardwriter plot experiments/maze_20250601_120000
shardwriter plot experiments/maze_20250601_120000 --episode 3 -o episode_3.pdf
shardwriter plot experiments/maze_20250601_120000 --episode 3 --fields spikes,position
"""


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    plot = add_command(
        commands,
        common,
        "plot",
        "draw an episode, or all of them",
        "Draw return, length and firing rate of all episodes, or with --episode what one recorded: "
        "spikes and rates, potentials, behaviour, rewards, weight changes.",
        _EXAMPLES,
    )
    plot.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    plot.add_argument("--episode", type=int, metavar="ID", help="draw this one")
    plot.add_argument(
        "--fields",
        type=lambda text: text.split(","),
        metavar="A,B",
        help="of an episode, only these: spikes, rewards, weight_changes, or names of fields",
    )
    plot.add_argument("--start", type=int, metavar="T", help="of an episode, timesteps from T on")
    plot.add_argument("--stop", type=int, metavar="T", help="of an episode, timesteps before T")
    plot.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help=".png, .pdf or .svg; default: episodes.png or episode_<ID>.png in DIR",
    )
    add_root(plot)
    add_json(plot)
    plot.set_defaults(action=_plot)


def _plot(options: argparse.Namespace) -> int:
    from shardwriter import ExperimentLoader
    from shardwriter.plot import plot_episode, plot_experiment

    window = {name: getattr(options, name) for name in ("start", "stop", "fields")}
    if options.episode is None and any(value is not None for value in window.values()):
        options.parser.error(
            "--start, --stop and --fields are of one episode; name it: --episode ID"
        )
    with ExperimentLoader(options.directory, root=options.root) as loader:
        name = "episodes" if options.episode is None else f"episode_{options.episode:04d}"
        output = options.output or loader.path.parent / f"{name}.png"
        if options.episode is None:
            plot_experiment(loader, output)
        else:
            plot_episode(loader.get_episode(options.episode), output, **window)
    if options.json:
        print_json({"picture": str(output)})
    else:
        say(output)
    return 0
