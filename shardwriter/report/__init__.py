"""A report of an experiment: one HTML file that needs nothing else, not even a network.

It holds what was recorded, with what and how, a table of the episodes, pictures of all of them and
of a few closer, and whether everything is there. Invariant: what an experiment says of itself (its
names, texts, errors) reaches the page as data, never as markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwriter.files.refusal import named_refusals
from shardwriter.report.gather import gathered
from shardwriter.report.render import page

__all__ = ["Report", "write_report"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Attributes
    ----------
    path
        The file.
    size_bytes
        Its size.
    episodes
        How many episodes the experiment has.
    drawn
        The ids of those that can be looked at closer.
    problems
        How many problems verifying found; None if it was not asked to look.
    """

    path: Path
    size_bytes: int
    episodes: int
    drawn: tuple[int, ...]
    problems: int | None


def write_report(
    directory: Path,
    output: Path | None = None,
    *,
    episodes: Sequence[int] | None = None,
    expected: Sequence[int] | None = None,
    root: Path | None = None,
    verify: bool = True,
    progress: bool = False,
) -> Report:
    """Write a report of an experiment as one HTML file.

    Shards are opened one by one, so it takes some milliseconds an episode. The table shows at most
    20,000 episodes, and of a drawn one at most 200,000 spikes and 4,000 points of each curve: the
    page says so where that leaves something out.

    Parameters
    ----------
    directory
        The experiment's directory, its master file, or a packed file.
    output
        The file; None writes ``report.html`` beside the master.
    episodes
        Ids of the episodes to draw closer; by default four: the first, the last, and those with
        the highest and the lowest return.
    expected
        Ids that have to be there; the report names those that are not completed.
    root
        The directory that no shard may lie outside of; by default the master's own.
    verify
        Verify the experiment, and say what was found.
    progress
        Show progress bars.

    Raises
    ------
    ExperimentNotFound, FormatError
        There is no experiment, or it cannot be read; nothing was written.
    EpisodeNotFound
        There is no such episode to draw; nothing was written.
    """
    data = gathered(
        directory,
        episodes=episodes,
        expected=expected,
        root=root,
        verifies=verify,
        progress=progress,
    )
    if output is None:
        output = (directory if directory.is_dir() else directory.parent) / "report.html"
    content = page(data).encode()
    with named_refusals(output):
        output.write_bytes(content)
    found = data["health"]["verified"]
    return Report(
        path=output,
        size_bytes=len(content),
        episodes=data["episodes"]["count"],
        drawn=tuple(each["id"] for each in data["drawn"]),
        problems=None if found is None else found["count"],
    )
