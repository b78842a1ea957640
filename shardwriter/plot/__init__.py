"""One picture of one recorded episode: what fired, what it earned, where it went.

It draws any episode; a group that was not recorded leaves its panel out. Two kinds of static data
make it say more, if an episode has them:

``units``
    text by field: ``timestep`` (``ms`` or ``s``: then rates are in hertz), ``weight``,
    ``reward``, and the names of neural and behaviour fields.
``populations``
    ``[first id, stop]`` by name, for at most eight populations of neurons.

Matplotlib is imported by the functions that need it.
"""

from pathlib import Path

from shardwriter.plot.panels import draw
from shardwriter.plot.recording import read_recording
from shardwriter.plot.style import PALETTE, STYLE, require_matplotlib
from shardwriter.recorded_episode import RecordedEpisode

__all__ = ["PALETTE", "STYLE", "plot_episode", "require_matplotlib"]


def plot_episode(
    episode: RecordedEpisode,
    output: Path,
    *,
    start: int | None = None,
    stop: int | None = None,
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

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed; nothing was read or written.
    """
    matplotlib = require_matplotlib()
    recording = read_recording(episode, start, stop)
    with matplotlib.rc_context(STYLE):
        figure = draw(recording)
        figure.savefig(output, dpi=150)
    return output
