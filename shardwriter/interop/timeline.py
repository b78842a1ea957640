"""All episodes of an experiment on one time axis, for formats that know one session.

Invariant: episodes follow each other without a gap, in the order of their ids. Timestep ``t`` of
an episode is timestep ``first + t`` of the axis, where ``first`` is the sum of the lengths before.
Rows are read window by window, never a whole experiment.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import ConfigError, EpisodeNotFound, FieldsDiffer
from shardwriter.files.column_reader import read_rows, read_texts
from shardwriter.files.layout import EVENTS, SPIKES, TABLES, TIMESTEPS
from shardwriter.files.links import check_path
from shardwriter.files.untrusted import check_column, file_of, readable
from shardwriter.interop.recorded import seconds_per_timestep
from shardwriter.loader import ExperimentLoader

__all__ = ["Field", "Stretch", "Timeline"]

Array = np.ndarray[Any, Any]

_WINDOW_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """One episode's place: its first timestep on the axis, and how many it has."""

    episode: int
    first: int
    length: int


@dataclass(frozen=True, slots=True)
class Field:
    """One column of one table over all episodes that have it, its rows one after the other.

    ``ends[i]`` is the row behind the last one of ``episodes[i]``; the dtype of text is object.
    """

    table: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    episodes: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows it has in all episodes together."""
        return self.ends[-1]

    @property
    def place(self) -> str:
        """Its table and name, ``behavior/position``."""
        return f"{self.table}/{self.name}"


class Timeline:
    """The episodes of an experiment, one after the other.

    Parameters
    ----------
    loader
        The experiment; it stays open as long as the timeline is read.
    dt
        Seconds of a timestep; by default what ``save_units`` was given.
    episodes
        Ids; by default all.

    Attributes
    ----------
    dt
        Seconds of a timestep.
    stretches
        The episodes' places, in order.
    fields
        Every column of every table, ``timesteps`` too.

    Raises
    ------
    ConfigError
        Nobody said what a timestep is in seconds, or there is no episode.
    EpisodeNotFound, FieldsDiffer
        An id is unknown; a field is not of one dtype and shape.
    """

    def __init__(
        self,
        loader: ExperimentLoader,
        dt: float | None = None,
        episodes: Sequence[int] | None = None,
    ) -> None:
        self.dt = seconds_per_timestep(loader.get_units(), dt)
        self._loader = loader
        known = loader.list_episodes()
        ids = known if episodes is None else sorted(set(episodes))
        for episode in ids:
            if episode not in known:
                raise EpisodeNotFound(episode, known, loader.path)
        if not ids:
            raise ConfigError("episodes", "at least one", ids)
        found: dict[tuple[str, str], list[Field]] = {}
        self.stretches: list[Stretch] = []
        first = 0
        steps = dict(zip(known, loader.episode_index["steps"].tolist(), strict=True))
        for episode in ids:
            length = steps[episode]
            for field, behind in self._fields_of(episode):
                found.setdefault((field.table, field.name), []).append(field)
                length = max(length, behind)
            self.stretches.append(Stretch(episode, first, length))
            first += length
        self._firsts = {each.episode: each.first for each in self.stretches}
        self.fields = [_joined(parts) for parts in found.values()]

    @property
    def length(self) -> int:
        """Timesteps of all episodes together."""
        return self.stretches[-1].first + self.stretches[-1].length

    def read(self, field: Field, start: int, stop: int) -> Array:
        """Return some rows of a field, ``(stop - start, *shape)``."""
        return np.concatenate([part for _, part in self._parts(field, field.name, start, stop)])

    def timesteps(self, field: Field, start: int, stop: int) -> Array:
        """Return the timesteps on the axis of some rows of a field, int64."""
        parts = self._parts(field, TIMESTEPS, start, stop)
        return np.concatenate([part + self._firsts[episode] for episode, part in parts])

    def spikes(self) -> Iterator[tuple[Array, Array]]:
        """Yield timesteps on the axis, and neuron ids, of all spikes, some at a time."""
        ids = next((each for each in self.fields if each.place == f"{SPIKES}/neuron_ids"), None)
        if ids is not None:
            for start in range(0, ids.rows, _WINDOW_ROWS):
                stop = min(ids.rows, start + _WINDOW_ROWS)
                yield self.timesteps(ids, start, stop), self.read(ids, start, stop)

    def period(self, field: Field) -> int | None:
        """Return the timesteps from each row of a field to the next, None if they differ."""
        period = last = None
        for start in range(0, field.rows, _WINDOW_ROWS):
            steps = self.timesteps(field, start, min(field.rows, start + _WINDOW_ROWS))
            gaps = np.diff(steps, prepend=steps[:0] if last is None else last)
            if period is None and len(gaps):
                period = int(gaps[0])
            if period is not None and (period < 1 or (gaps != period).any()):
                return None
            last = steps[-1:]
        return period

    @contextmanager
    def _opened(self, episode: int) -> Iterator[h5py.Group]:
        with self._loader.get_episode(episode).opened() as group, readable(file_of(group)):
            yield group

    def _fields_of(self, episode: int) -> Iterator[tuple[Field, int]]:
        """Yield an episode's fields, each with the timestep behind its table's last."""
        with self._opened(episode) as group:
            for table in _tables(group):
                timesteps = _dataset(group, table, TIMESTEPS)
                rows = len(timesteps)
                if not rows:
                    continue
                behind = _last(timesteps) + 1
                for name in group[table]:
                    column = _dataset(group, table, name)
                    dtype = np.dtype(object) if _is_text(column) else column.dtype
                    yield (
                        Field(table, name, dtype, column.shape[1:], (episode,), (rows,)),
                        behind,
                    )

    def _parts(self, field: Field, name: str, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield each episode's share of some rows."""
        before = 0
        for episode, end in zip(field.episodes, field.ends, strict=True):
            low, high = max(start, before) - before, min(stop, end) - before
            if low < high:
                with self._opened(episode) as group:
                    column = _dataset(group, field.table, name)
                    text = _is_text(column)
                    values = (read_texts if text else read_rows)(column, low, high)
                    yield episode, np.asarray(values)
            before = end


def _joined(parts: Sequence[Field]) -> Field:
    """Return the field that consists of those of single episodes."""
    one = parts[0]
    for part in parts:
        if (part.dtype, part.shape) != (one.dtype, one.shape):
            forms = [f"{each.dtype} {each.shape}" for each in (one, part)]
            raise FieldsDiffer(one.place, one.episodes[0], forms[0], part.episodes[0], forms[1])
    ends = np.cumsum([part.rows for part in parts]).tolist()
    episodes = tuple(part.episodes[0] for part in parts)
    return Field(one.table, one.name, one.dtype, one.shape, episodes, tuple(ends))


def _tables(group: h5py.Group) -> list[str]:
    """Return the names of an episode's tables, once no link leads to one."""
    path = file_of(group)
    tables = [name for name in TABLES if group.id.links.exists(name.encode())]
    if group.id.links.exists(EVENTS.encode()):
        check_path(path, group.id, EVENTS)
        tables += [f"{EVENTS}/{name}" for name in group[EVENTS]]
    for table in tables:
        check_path(path, group.id, table)
    return tables


def _dataset(group: h5py.Group, table: str, name: str) -> h5py.Dataset:
    path = file_of(group)
    check_path(path, group.id, f"{table}/{name}")
    dataset = group[f"{table}/{name}"]
    check_column(path, dataset.id)
    return dataset


def _is_text(column: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(column.dtype) is not None


def _last(timesteps: h5py.Dataset) -> int:
    """Return the highest of a table's timesteps."""
    rows = len(timesteps)
    if timesteps.attrs.get("is_sorted", False):
        return int(read_rows(timesteps, rows - 1, rows)[0])
    starts = range(0, rows, _WINDOW_ROWS)
    return max(int(read_rows(timesteps, i, min(rows, i + _WINDOW_ROWS)).max()) for i in starts)
