"""Pictures of an experiment: of one episode, and of all of them.

`plot_episode` draws what fired, what it earned, where it went; `plot_experiment` return, length
and firing rate of every episode. They draw any recording; a group that was not recorded leaves its
panel out. Units are those of ``save_units``; with ``dt``, time is in seconds and rates in hertz.
Static data ``populations``, ``[first id, stop]`` by name for at most eight populations of neurons,
give these their colours.

Matplotlib is imported by the functions that need it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shardwriter.errors import ConfigError
from shardwriter.files.refusal import named_refusals
from shardwriter.loader import ExperimentLoader
from shardwriter.plot.overview import draw_overview
from shardwriter.plot.panels import draw
from shardwriter.plot.recording import read_recording
from shardwriter.plot.style import PALETTE, STYLE, require_matplotlib
from shardwriter.reading.recorded_episode import RecordedEpisode

_SUFFIXES = (".png", ".pdf", ".svg")

__all__ = ["PALETTE", "STYLE", "plot_episode", "plot_experiment", "require_matplotlib"]


def plot_episode(
    episode: RecordedEpisode,
    output: Path,
    *,
    start: int | None = None,
    stop: int | None = None,
    fields: Sequence[str] | None = None,
) -> Path:
    """Draw an episode, or its timesteps ``start <= t < stop``, into an image file.

    Parameters
    ----------
    episode
        From `ExperimentLoader.get_episode`.
    output
        The file; its suffix chooses the format (``.png``, ``.pdf``, ``.svg``).
    start, stop
        Window of timesteps; None leaves that side open.
    fields
        What to show: ``spikes``, ``rewards``, ``weight_changes``, and fields of neural states and
        behaviour by name, as ``position`` or ``behavior/position``. By default all for which there
        is room.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed; nothing was read or written.
    ConfigError
        The episode has no such field, or the suffix of `output` is of no picture.
    """
    require_matplotlib()
    _check_suffix(output)
    recording = read_recording(episode, start, stop, fields)
    return _saved(output, draw, recording)


def plot_experiment(loader: ExperimentLoader, output: Path) -> Path:
    """Draw return, length and firing rate of every episode into an image file.

    Only the index is read, and one shard where nothing else tells how many neurons there are:
    thousands of episodes take no longer than ten. With ``dt`` and the number of neurons the rate
    is in hertz; the axis says what it is.

    Parameters
    ----------
    loader
        The experiment.
    output
        The file; its suffix chooses the format (``.png``, ``.pdf``, ``.svg``).

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed; nothing was written.
    ConfigError
        The suffix of `output` is of no picture.
    """
    require_matplotlib()
    _check_suffix(output)
    return _saved(output, draw_overview, loader)


def _check_suffix(output: Path) -> None:
    if output.suffix not in _SUFFIXES:
        raise ConfigError("output", f"a file ending in {', '.join(_SUFFIXES)}", str(output))


def _saved(output: Path, drawing: Callable[[Any], Any], what: Any) -> Path:
    with require_matplotlib().rc_context(STYLE), named_refusals(output):
        drawing(what).savefig(output, dpi=150)
    return output
