"""A running experiment, seen from outside: how far it is and how fast it goes.

Invariant: nobody is disturbed. Counters are read where they lie, in the buffers; no lock is taken,
and a file that vanishes meanwhile is an episode that has ended.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from shardwriter.errors import ShardWriterError
from shardwriter.files.buffer import Buffer, TableSlots
from shardwriter.files.layout import (
    EVENTS,
    MASTER,
    TABLES,
    TIMESTEPS,
    check_experiment,
    episode_group,
    listed_episodes,
    unfinished_buffers,
    unfinished_episodes,
)
from shardwriter.files.links import check_path, is_there, members
from shardwriter.files.run_note import RunNote, joined, read_notes
from shardwriter.files.untrusted import UNREADABLE
from shardwriter.files.vetting import vet
from shardwriter.reading.shard_episode import table_columns
from shardwriter.recovery.abandoned import owner
from shardwriter.system.process import Identity

__all__ = ["Run", "RunningEpisode", "Snapshot", "Watcher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningEpisode:
    """An episode that has no shard yet.

    ``state``: ``running``; ``dead`` where its process died, so that it waits for ``recover``;
    ``elsewhere`` on a host or in a container that cannot be asked. ``fill``: how full the fullest
    slot that is being filled is, from 0 to 1. ``slots``: slots of all its tables.
    """

    episode: int
    state: str
    steps: int
    rows: int
    raw_bytes: int
    fill: float
    slots: int


@dataclass(frozen=True, slots=True)
class Run:
    """A process that runs episodes with ``run_episodes``; ``state`` as that of an episode."""

    host: str
    pid: int
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """An experiment at one instant.

    Attributes
    ----------
    finished
        Episodes that have a shard, by status.
    running
        Those that have none yet.
    runs
        The processes that run episodes, and those that died while they did.
    expected
        How many episodes there will be; None where nobody knows.
    rows, raw_bytes
        What is recorded.
    rows_per_s, bytes_per_s
        Since the last snapshot; None in the first one.
    eta_s
        Seconds to the end, at the pace of the runs that go on; None where that is not known.
    is_merged
        The master holds every finished episode.
    is_over
        All that was expected is done, or all there is has been merged and nobody records more.
    """

    directory: Path
    finished: Mapping[str, int]
    running: tuple[RunningEpisode, ...]
    runs: tuple[Run, ...]
    expected: int | None
    rows: int
    raw_bytes: int
    rows_per_s: float | None
    bytes_per_s: float | None
    eta_s: float | None
    is_merged: bool
    is_over: bool

    @property
    def done(self) -> int:
        """Episodes that have a shard, whatever their status."""
        return sum(self.finished.values())

    @property
    def is_recorded(self) -> bool:
        """Whether somebody records; there may be where that cannot be told."""
        return _are_alive(self.runs, self.running)

    @property
    def left(self) -> int | None:
        """Episodes that are to come to their end; None where nobody knows."""
        return None if self.expected is None else max(0, self.expected - self.done)

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**asdict(self), "directory": str(self.directory), "finished": dict(self.finished)}


class _Shard(NamedTuple):
    size: int
    mtime_ns: int
    status: str
    rows: int
    raw_bytes: int


class Watcher:
    """Takes snapshots of an experiment.

    Parameters
    ----------
    directory
        The experiment's directory.
    expected
        How many episodes it will have; None for those that the processes which run them have
        left word of.

    Raises
    ------
    ExperimentNotFound
        The directory is not an experiment's.
    """

    def __init__(self, directory: Path, expected: int | None = None) -> None:
        check_experiment(directory)
        self._directory = directory
        self._expected = expected
        self._notes: dict[Path, RunNote] = {}
        self._planned: list[range] = []  # also of runs that have ended meanwhile
        self._shards: dict[int, _Shard] = {}
        self._begin = time.time()
        self._last: tuple[float, int, int] | None = None

    def snapshot(self) -> Snapshot:
        """Look at the experiment now; rates are those since the last look."""
        now = time.monotonic()
        runs = self._look_at_runs()
        running = [found for path in unfinished_buffers(self._directory) if (found := _seen(path))]
        self._look_at_shards(unfinished={episode.episode for episode in running})
        shards = self._shards.values()
        rows = sum(each.rows for each in shards) + sum(each.rows for each in running)
        raw = sum(each.raw_bytes for each in shards) + sum(each.raw_bytes for each in running)
        before, self._last = self._last, (now, rows, raw)
        seconds = now - before[0] if before else 0.0
        expected = self._known_number(running)
        is_merged = self._is_merged()
        return Snapshot(
            directory=self._directory,
            finished=dict(sorted(Counter(each.status for each in shards).items())),
            running=tuple(running),
            runs=runs,
            expected=expected,
            rows=rows,
            raw_bytes=raw,
            rows_per_s=max(0, rows - before[1]) / seconds if before and seconds else None,
            bytes_per_s=max(0, raw - before[2]) / seconds if before and seconds else None,
            eta_s=self._eta_s(expected, runs, running),
            is_merged=is_merged,
            is_over=self._is_over(is_merged, runs),
        )

    def _look_at_runs(self) -> tuple[Run, ...]:
        known, self._notes = self._notes, read_notes(self._directory, self._notes)
        new = [self._notes[path].episodes or () for path in self._notes.keys() - known]
        if new:
            self._planned = joined(itertools.chain(self._planned, *new))
        owners = dict.fromkeys(note.owner for note in self._notes.values())
        return tuple(Run(each.host, each.pid, _state(each)) for each in owners)

    def _look_at_shards(self, unfinished: set[int]) -> None:
        known, self._shards = self._shards, {}
        for episode, path in listed_episodes(self._directory).items():
            if episode in unfinished:
                continue  # published this instant, its buffer not yet removed
            shard = known.get(episode)
            if shard is None or shard.status != "completed":  # else it is never run again
                shard = _finished(path, episode, shard)
            if shard is not None:
                self._shards[episode] = shard

    def _known_number(self, running: Iterable[RunningEpisode]) -> int | None:
        if self._expected is not None or not self._planned:
            return self._expected
        if any(note.episodes is None for note in self._living()):
            return None
        there = [*self._shards, *(each.episode for each in running)]
        known = joined([*self._planned, *(range(i, i + 1) for i in there)])
        return sum(each.stop - each.start for each in known)

    def _eta_s(
        self, expected: int | None, runs: Iterable[Run], running: Sequence[RunningEpisode]
    ) -> float | None:
        """Return the seconds to the end, at the pace since the first of the living runs began.

        An episode that runs will have as many rows as those that ended have on average.
        """
        if expected is None or expected <= len(self._shards):
            return None if expected is None else 0.0
        if not _are_alive(runs, running):
            return None
        begin = min([self._begin, *(note.since for note in self._living())])
        # One more for each, so that episodes without rows count.
        ended = [each.rows + 1 for each in self._shards.values() if each.mtime_ns >= 1e9 * begin]
        if not ended:
            return None
        mean = sum(ended) / len(ended)
        begun = sum(min(each.rows, mean) for each in running)
        seconds_a_row = max(0.0, time.time() - begin) / (sum(ended) + begun)
        return max(0.0, (expected - len(self._shards)) * mean - begun) * seconds_a_row

    def _living(self) -> list[RunNote]:
        return [note for note in self._notes.values() if note.owner.state != "dead"]

    def _is_merged(self) -> bool:
        try:
            merged = (self._directory / MASTER).stat().st_mtime_ns
        except OSError:
            return False
        return all(each.mtime_ns <= merged for each in self._shards.values())

    def _is_over(self, is_merged: bool, runs: tuple[Run, ...]) -> bool:
        if unfinished_episodes(self._directory):
            return False
        if self._expected is not None:
            return len(self._shards) >= self._expected
        return is_merged and all(run.state == "dead" for run in runs)


def _are_alive(runs: Iterable[Run], running: Iterable[RunningEpisode]) -> bool:
    states = [*(each.state for each in runs), *(each.state for each in running)]
    return any(state != "dead" for state in states)


def _state(process: Identity | None) -> str:
    """Return the state of an episode or a run by its process."""
    state = process.state if process else "unknown"
    return {"alive": "running", "dead": "dead"}.get(state, "elsewhere")


def _seen(path: Path) -> RunningEpisode | None:
    """Return what a buffer's counters say; None where the buffer is gone or not begun."""
    try:
        buffer = Buffer.open(path)
        tables: dict[str, TableSlots] = {}
        for _, slots in buffer.read_new():
            tables |= {each.table.name: each for each in slots}
        process = owner(path)
    except (*UNREADABLE, ShardWriterError):
        return None
    return RunningEpisode(
        episode=int(path.name.removeprefix("episode_").removesuffix(".buffer")),
        state=_state(process),
        steps=buffer.steps[0],
        rows=sum(each.rows for each in tables.values()),
        raw_bytes=sum(each.rows * _row_bytes(each) for each in tables.values()),
        fill=max((_fill(each) for each in tables.values()), default=0.0),
        slots=sum(len(each.slots) for each in tables.values()),
    )


def _row_bytes(slots: TableSlots) -> int:
    return sum(column.row_bytes for column in slots.table.columns)


def _fill(slots: TableSlots) -> float:
    return slots.rows % slots.table.rows_per_chunk / slots.table.rows_per_chunk


def _finished(path: Path, episode: int, known: _Shard | None) -> _Shard | None:
    """Return what a shard holds, as known before where it is the same file; None where it is gone.

    Of one that cannot be read, the status says so.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return _Shard(0, 0, "unreadable", 0, 0)
    if known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return known
    try:
        place = episode_group(episode)
        vet(path, place)
        with h5py.File(path, locking=False) as file:
            check_path(path, file.id, place)
            group = file[place]
            names = [name for name in TABLES if is_there(path, group.id, name)]
            names += [f"{EVENTS}/{name}" for name in members(path, group.id, EVENTS)]
            tables = [table_columns(group, name) for name in names]
            columns = [column for table in tables for column in table.values()]
            rows = sum(len(table[TIMESTEPS]) for table in tables)
            status = group.attrs["status"]
            text = status.decode() if isinstance(status, bytes | np.bytes_) else str(status)
            content = (text, rows, sum(int(column.nbytes) for column in columns))
    except (*UNREADABLE, ShardWriterError):
        content = ("unreadable", 0, 0)
    return _Shard(stat.st_size, stat.st_mtime_ns, *content)
