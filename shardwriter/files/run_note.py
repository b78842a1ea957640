"""Which episodes a process is about to record: a note that lies there while it runs them.

Invariant: a visible note is whole and never changes, and its name says whose it is. So one that a
killed process has left is told apart from one that holds.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from shardwriter.files.layout import run_note_path, run_notes, temporary_path
from shardwriter.system.process import Identity

__all__ = ["RunNote", "joined", "note_run", "read_notes"]

_MOST_BYTES = 16 << 20  # of a note
_MOST_EPISODES = 10_000_000
_MOST_RANGES = 1_000_000  # of all notes


@dataclass(frozen=True, slots=True)
class RunNote:
    """A run of episodes.

    Attributes
    ----------
    owner
        The process that runs them.
    episodes
        The ids, as ranges; None where their number is not known before the end.
    since
        When it began, in seconds since 1970-01-01 UTC.
    """

    owner: Identity
    episodes: Sequence[range] | None
    since: float


@contextmanager
def note_run(directory: Path, episodes: Iterable[int] | None) -> Iterator[None]:
    """Let a note lie in an experiment for as long as the block runs.

    Parameters
    ----------
    directory
        The experiment's directory.
    episodes
        The ids that are to have a shard in the end, also those that have one; None for an
        iterator of unknown length.
    """
    owner, tag = Identity.own().label, os.urandom(4).hex()
    note = run_note_path(directory, owner, tag)
    hidden = temporary_path(note.with_name(tag), owner)
    content = {"episodes": None if episodes is None else _bounds(episodes)}
    try:
        hidden.write_text(json.dumps(content))
        hidden.replace(note)
        yield
    finally:
        for path in (hidden, note):
            path.unlink(missing_ok=True)


def read_notes(directory: Path, known: Mapping[Path, RunNote]) -> dict[Path, RunNote]:
    """Return the notes of an experiment by their paths; those that are known are not read again.

    Notes that have too many ranges together, as only a forged one can, are left out.
    """
    notes: dict[Path, RunNote] = {}
    ranges = 0
    for path, label in run_notes(directory).items():
        note = known.get(path) or _read(path, label)
        if note is None:
            continue
        ranges += len(note.episodes or ())
        if ranges > _MOST_RANGES:
            break
        notes[path] = note
    return notes


def joined(episodes: Iterable[range]) -> list[range]:
    """Return the ranges that hold the same ids, in order, with a gap between any two."""
    found: list[range] = []
    for each in sorted(episodes, key=lambda each: each.start):
        if found and each.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, each.stop))
        else:
            found.append(each)
    return found


def _read(path: Path, label: str) -> RunNote | None:
    """Return what a note says; None where it is gone, or says nothing that is known here."""
    owner = Identity.from_label(label)
    try:
        text, since = _content(path)
        bounds = json.loads(text)["episodes"]
        episodes = None
        if bounds is not None:
            episodes = tuple(range(start, stop) for start, stop in bounds)
            if not all(map(len, episodes)) or sum(map(len, episodes)) > _MOST_EPISODES:
                return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return None if owner is None else RunNote(owner, episodes, since)


def _content(path: Path) -> tuple[bytes, float]:
    """Return the beginning of a regular file, and when it was written."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        stat = os.fstat(fd)
        if not S_ISREG(stat.st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read(_MOST_BYTES), stat.st_mtime


def _bounds(episodes: Iterable[int]) -> list[list[int]]:
    """Return start and stop of each sequence of ids that follow one another."""
    bounds: list[list[int]] = []
    for episode in episodes:
        if bounds and episode == bounds[-1][1]:
            bounds[-1][1] += 1
        else:
            bounds.append([episode, episode + 1])
    return bounds
