"""``shardwriter export``: write an experiment in a format of other tools."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    add_root,
    episode_ids,
    positive,
    print_json,
    say,
    shows_progress,
)
from shardwriter.errors import counted

if TYPE_CHECKING:
    from shardwriter.interop.minari import MinariExport
    from shardwriter.interop.nwb import NwbReport
    from shardwriter.interop.sonata import SonataReport

__all__ = ["add_to"]

_NWB = """Write an experiment as one NWB file. Trials are the episodes, one after the other on one
time axis; units are the neurons. Needs `pip install 'shardwriter[nwb]'`."""
_NWB_EXAMPLES = """
shardwriter export nwb experiments/room_20250601_120000 room.nwb
shardwriter export nwb DIR room.nwb --dt 0.001 --episodes 0:10
"""
_SONATA = """Write episodes as SONATA spikes, OUT/episode_0000/spikes.h5, and a report for each
neural state, such as OUT/episode_0000/membrane_potential.h5. Times are in ms, anew in each."""
_SONATA_EXAMPLES = """
shardwriter export sonata experiments/room_20250601_120000 room_sonata
shardwriter export sonata DIR OUT --dt 0.0001 --population cortex
"""
_MINARI = """Write an experiment as a Minari dataset, to where Minari has its own
(MINARI_DATASETS_PATH). Needs `pip install 'shardwriter[minari]'`."""
_MINARI_EXAMPLES = """
shardwriter export minari experiments/cartpole_20250601_120000 cartpole/random-v0
shardwriter export minari DIR maze/walk-v0 --observations position,velocity --actions force
"""


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    export = add_command(
        commands,
        common,
        "export",
        "write an experiment in a format of other tools",
        "Write an experiment in a format of other tools.",
        "\n".join(
            text.strip().splitlines()[0]
            for text in (_MINARI_EXAMPLES, _NWB_EXAMPLES, _SONATA_EXAMPLES)
        ),
    )
    formats = export.add_subparsers(title="formats", required=True, metavar="FORMAT")
    _add_minari(formats, common)
    nwb = add_command(formats, common, "nwb", "one NWB file", _NWB, _NWB_EXAMPLES)
    _add_common(nwb)
    _add_dt(nwb)
    nwb.add_argument("output", type=Path, metavar="FILE", help="to write, such as room.nwb")
    nwb.add_argument(
        "--neurons",
        type=positive,
        metavar="N",
        help="a unit for each of the neurons 0 to N-1, silent ones too",
    )
    nwb.set_defaults(action=_nwb)
    sonata = add_command(
        formats, common, "sonata", "SONATA spikes and reports", _SONATA, _SONATA_EXAMPLES
    )
    _add_common(sonata)
    _add_dt(sonata)
    sonata.add_argument("output", type=Path, metavar="OUT", help="the directory to make")
    sonata.add_argument(
        "--population", default="neurons", metavar="NAME", help="of nodes (default: neurons)"
    )
    sonata.set_defaults(action=_sonata)


def _add_common(parser: Parser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="experiment or master file")
    parser.add_argument(
        "--episodes", type=episode_ids, metavar="IDS", help="such as 0:8,12 (default: all)"
    )
    add_root(parser)
    add_json(parser)


def _add_dt(parser: Parser) -> None:
    parser.add_argument(
        "--dt",
        type=float,
        metavar="SECONDS",
        help="length of a timestep (default: what save_units was given)",
    )


def _add_minari(formats: Subparsers, common: Parser) -> None:
    parser = add_command(formats, common, "minari", "a Minari dataset", _MINARI, _MINARI_EXAMPLES)
    _add_common(parser)
    parser.add_argument("name", metavar="NAME", help="of the dataset, such as maze/random-v0")
    for part in ("observations", "actions"):
        parser.add_argument(
            f"--{part}",
            type=lambda text: text.split(","),
            metavar="FIELDS",
            help=f"of behavior (default: {part[:-1]}, or all below {part[:-1]}.)",
        )
    for entry in ("author", "author-email"):
        parser.add_argument(
            f"--{entry}",
            action="append",
            metavar="TEXT",
            help="kept with the dataset; may be repeated",
        )
    for entry in ("algorithm-name", "code-permalink", "description"):
        parser.add_argument(f"--{entry}", metavar="TEXT", help="kept with the dataset")
    parser.set_defaults(action=_minari)


def _minari(options: argparse.Namespace) -> int:
    from shardwriter.interop.minari import export_minari

    entries = {
        "author": options.author and set(options.author),
        "author_email": options.author_email and set(options.author_email),
        "algorithm_name": options.algorithm_name,
        "code_permalink": options.code_permalink,
        "description": options.description,
    }
    report = export_minari(
        options.directory,
        options.name,
        episodes=options.episodes,
        root=options.root,
        observations=options.observations,
        actions=options.actions,
        metadata={name: value for name, value in entries.items() if value},
        progress=shows_progress(options),
    )
    if options.json:
        print_json(asdict(report))
    else:
        say(_minari_text(report))
    return 0


def _minari_text(report: "MinariExport") -> str:
    lines = [
        f"{report.dataset}  ({report.directory})",
        f"  {counted(report.episodes, 'episode')} with {counted(report.steps, 'step')}",
        f"  observations: {report.observation_space}",
        f"  actions: {report.action_space}",
        f"  spaces: {report.spaces}",
        f"  environment: {report.env or 'none recorded'}",
        *(f"  {note}" for note in report.notes),
    ]
    if report.left_out:
        lines.append(f"  left out, as Minari has no place for them: {', '.join(report.left_out)}")
    return "\n".join(lines)


def _nwb(options: argparse.Namespace) -> int:
    from shardwriter.interop.nwb import export_nwb

    report = export_nwb(
        options.directory,
        options.output,
        dt=options.dt,
        episodes=options.episodes,
        root=options.root,
        n_neurons=options.neurons,
        progress=shows_progress(options),
    )
    if options.json:
        print_json(asdict(report))
    else:
        say(_nwb_text(report))
    return 0


def _nwb_text(report: "NwbReport") -> str:
    lines = [
        report.file,
        f"  {counted(report.trials, 'trial')} in {report.seconds:g} s",
        f"  {counted(report.units, 'unit')} with {counted(report.spikes, 'spike')}",
        f"  time series: {', '.join(report.time_series) or 'none'}",
        f"  events: {', '.join(report.events) or 'none'}",
    ]
    if report.left_out:
        lines.append(f"  left out, as NWB has no place for them: {', '.join(report.left_out)}")
    return "\n".join(lines)


def _sonata(options: argparse.Namespace) -> int:
    from shardwriter.interop.sonata import export_sonata

    report = export_sonata(
        options.directory,
        options.output,
        dt=options.dt,
        episodes=options.episodes,
        root=options.root,
        population=options.population,
        progress=shows_progress(options),
    )
    if options.json:
        print_json(asdict(report))
    else:
        say(_sonata_text(report))
    return 0


def _sonata_text(report: "SonataReport") -> str:
    written = f"{counted(report.spikes, 'spike')} and {counted(report.reports, 'report')}"
    lines = [report.directory, f"  {counted(report.episodes, 'episode')} with {written}"]
    fields = sorted({name for names in report.left_out.values() for name in names})
    if fields:
        some = f"in {counted(len(report.left_out), 'episode')}"
        lines.append(f"  left out {some}, no number per neuron at even steps: {', '.join(fields)}")
    return "\n".join(lines)
