"""A running experiment, seen from outside: how far it is and how fast it goes.

Invariant: nobody is disturbed. Counters are read where they lie, in the buffers; no lock is taken,
and a file that vanishes meanwhile is an episode that has ended.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import BufferDamaged, ranges
from shardwriter.files.buffer import Buffer, TableSlots
from shardwriter.files.layout import (
    EVENTS,
    MASTER,
    TABLES,
    check_experiment,
    episode_group,
    listed_episodes,
    unfinished_buffers,
    unfinished_episodes,
)
from shardwriter.recovery.abandoned import owner

__all__ = ["RunningEpisode", "Snapshot", "Watcher", "is_over", "snapshot_text"]

_RUNNING_SHOWN = 8


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """An experiment at one instant; rates are None in the first one."""

    directory: Path
    finished: Mapping[str, int]
    running: tuple[RunningEpisode, ...]
    expected: int | None
    rows: int
    raw_bytes: int
    rows_per_s: float | None = None
    bytes_per_s: float | None = None
    eta_s: float | None = None

    @property
    def done(self) -> int:
        """Episodes that have a shard, whatever their status."""
        return sum(self.finished.values())

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**asdict(self), "directory": str(self.directory), "finished": dict(self.finished)}


class Watcher:
    """Takes snapshots of an experiment.

    Parameters
    ----------
    directory
        The experiment's directory.
    expected
        How many episodes it will have; None where that is not known.

    Raises
    ------
    ExperimentNotFound
        The directory is not an experiment's.
    """

    def __init__(self, directory: Path, expected: int | None = None) -> None:
        check_experiment(directory)
        self._directory = directory
        self._expected = expected
        self._shards: dict[int, tuple[str, int, int]] = {}  # status, rows, bytes: they never change
        self._first: tuple[float, int] | None = None  # when, and episodes done then
        self._last: tuple[float, int, int] | None = None

    def snapshot(self) -> Snapshot:
        """Look at the experiment now; rates are those since the last look."""
        now = time.monotonic()
        running = [found for path in unfinished_buffers(self._directory) if (found := _seen(path))]
        finished: dict[str, int] = {}
        unfinished = {episode.episode for episode in running}
        for episode, path in listed_episodes(self._directory).items():
            if episode in unfinished:
                continue  # published this instant, its buffer not yet removed
            if episode not in self._shards:
                self._shards[episode] = _finished(path, episode)
            status = self._shards[episode][0]
            finished[status] = finished.get(status, 0) + 1
        alive = [e for e in self._shards if e not in unfinished]
        rows = sum(self._shards[e][1] for e in alive) + sum(e.rows for e in running)
        raw = sum(self._shards[e][2] for e in alive) + sum(e.raw_bytes for e in running)
        seconds = now - self._last[0] if self._last else 0.0
        before = self._last or (now, rows, raw)
        self._last = (now, rows, raw)
        return Snapshot(
            directory=self._directory,
            finished=dict(sorted(finished.items())),
            running=tuple(running),
            expected=self._expected,
            rows=rows,
            raw_bytes=raw,
            rows_per_s=max(0, rows - before[1]) / seconds if seconds else None,
            bytes_per_s=max(0, raw - before[2]) / seconds if seconds else None,
            eta_s=self._eta_s(now, sum(finished.values())),
        )

    def _eta_s(self, now: float, done: int) -> float | None:
        """Return the seconds to the end at the pace of the episodes that ended while watching."""
        if self._first is None:
            self._first = (now, done)
        begin, done_then = self._first
        if self._expected is None:
            return None
        left = max(0, self._expected - done)
        if left == 0:
            return 0.0
        return left * (now - begin) / (done - done_then) if done > done_then else None


def _seen(path: Path) -> RunningEpisode | None:
    """Return what a buffer's counters say; None where the buffer is gone or not begun."""
    try:
        buffer = Buffer.open(path)
        tables: dict[str, TableSlots] = {}
        for _, slots in buffer.read_new():
            tables |= {each.table.name: each for each in slots}
        process = owner(path)
    except (FileNotFoundError, BufferDamaged):
        return None
    state = process.state if process else "unknown"
    return RunningEpisode(
        episode=int(path.name.removeprefix("episode_").removesuffix(".buffer")),
        state={"alive": "running", "dead": "dead"}.get(state, "elsewhere"),
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


def _finished(path: Path, episode: int) -> tuple[str, int, int]:
    """Return status, rows and raw bytes of a shard; of one that cannot be read, that."""
    try:
        with h5py.File(path, locking=False) as file:
            group = file[episode_group(episode)]
            tables = [group[name] for name in TABLES if name in group]
            tables += list(group[EVENTS].values()) if EVENTS in group else []
            columns = [column for table in tables for column in table.values()]
            rows = sum(len(table["timesteps"]) for table in tables)
            status = group.attrs["status"]
            text = status.decode() if isinstance(status, bytes | np.bytes_) else str(status)
            return text, rows, sum(int(column.nbytes) for column in columns)
    except (OSError, KeyError, TypeError, AttributeError):
        return "unreadable", 0, 0


def snapshot_text(snapshot: Snapshot) -> str:
    """Write a snapshot as lines for people."""
    s = snapshot
    done = f"{s.done:,}" + (f" of {s.expected:,}" if s.expected is not None else "") + " done"
    if s.finished:
        done += f" ({', '.join(f'{count:,} {status}' for status, count in s.finished.items())})"
    for state in ("running", "dead", "elsewhere"):
        count = sum(e.state == state for e in s.running)
        done += f", {count:,} {state}" if count else ""
    lines = [
        str(s.directory),
        f"  episodes  {done}",
        f"  data      {s.rows:,} rows, {s.raw_bytes / 1e6:,.1f} MB raw",
    ]
    if s.rows_per_s is not None and s.bytes_per_s is not None:
        lines.append(f"  rate      {s.rows_per_s:,.0f} rows/s, {s.bytes_per_s / 1e6:,.1f} MB/s")
    if s.expected is not None:
        lines.append(f"  left      {'?' if s.eta_s is None else _duration(s.eta_s)}")
    shown = s.running[:_RUNNING_SHOWN]
    if shown:
        lines.append("")
        lines.append(f"  {'episode':>8} {'state':<9} {'steps':>11} {'rows':>13}  newest slot")
        lines += [
            f"  {e.episode:>8} {e.state:<9} {e.steps:>11,} {e.rows:>13,}  {_bar(e.fill)}"
            for e in shown
        ]
        if len(s.running) > len(shown):
            lines.append(f"  … and {len(s.running) - len(shown):,} more")
    dead = [e.episode for e in s.running if e.state == "dead"]
    if dead:
        mend = f"shardwriter recover {s.directory}"
        lines.append(f"  episodes {ranges(dead)}: their process died; when all is over: `{mend}`")
    return "\n".join(lines)


def is_over(directory: Path, snapshot: Snapshot) -> bool:
    """Tell whether all is recorded: nothing is unfinished, and no episode is to come.

    That is known once as many as were expected are done, or the master holds all there are.
    """
    if unfinished_episodes(directory):
        return False
    if snapshot.expected is not None:
        return snapshot.done >= snapshot.expected
    try:
        merged = (directory / MASTER).stat().st_mtime_ns
        shards = listed_episodes(directory).values()
        return all(path.stat().st_mtime_ns <= merged for path in shards)
    except FileNotFoundError:
        return False


def _bar(fill: float) -> str:
    full = round(10 * fill)
    return "█" * full + "░" * (10 - full) + f" {fill:4.0%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
