"""Reading an experiment back.

Invariant: nothing read is invented. Data come from the shards themselves, each checked against
the master's index before it is read; a missing or replaced one raises.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from shardwriter.errors import (
    ConfigError,
    EpisodeNotFound,
    EpisodeUnfinished,
    ExperimentNotFound,
    NotPermitted,
    ShardDamaged,
    ShardWriterError,
    TooManyOpenFiles,
    command,
)
from shardwriter.files.experiment_groups import ExperimentGroups, OwnFiles, OwnGroups
from shardwriter.files.layout import (
    MASTER,
    UNITS,
    is_pack_name,
    listed_episodes,
    unfinished_episodes,
    unfinished_text,
)
from shardwriter.files.quick_columns import QuickColumns
from shardwriter.files.structure import Structure, Unfamiliar
from shardwriter.files.units import Units
from shardwriter.files.untrusted import file_of, readable
from shardwriter.interop.pandas import index_to_dataframe
from shardwriter.notebook import facts_html, index_html, status_text, statuses
from shardwriter.reading.across import concatenated
from shardwriter.reading.description import EpisodeDescription, described
from shardwriter.reading.live import LiveExperiment
from shardwriter.reading.live_episode import LiveEpisode
from shardwriter.reading.master_index import master_of, open_index, recording_of
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.reading.shard_episode import ShardEpisode
from shardwriter.reading.shard_files import ShardFiles
from shardwriter.reading.window_reader import WindowReader
from shardwriter.reading.windows import WindowOrder, Windows, window_counts, windows

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ExperimentLoader", "ShardWarning", "quick_load"]


class ExperimentLoader:
    """Reads one experiment through its master, or while it is recorded.

    Any number of threads may use it, though not during ``refresh``. Leaving the ``with`` block
    closes it.

    Parameters
    ----------
    path
        The experiment's directory, its master file, or a packed file.
    missing
        What ``for episode in loader``, and reading across episodes, do with an episode whose
        shard is gone or has changed: ``"raise"``, or ``"skip"`` it with a `ShardWarning`.
        Reading such an episode itself always raises, as does any that may not be opened.
    root
        The directory that no shard may lie outside of; by default the master's own.
    live
        Read the experiment as it is recorded, `path` being its directory: its shards themselves,
        without a master, and every row committed so far of the episodes that go on. ``refresh``
        takes in what is new.

    Warns
    -----
    ShardWarning
        The experiment has unfinished episodes; it names the command that finishes them.

    Raises
    ------
    ExperimentNotFound
        There is no master there; for `live`, no experiment.
    FormatError
        The file is of another format or version, or cannot be read.
    ConfigError
        `missing` is neither of the two.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        missing: str = "raise",
        root: str | os.PathLike[str] | None = None,
        live: bool = False,
    ) -> None:
        if missing not in ("raise", "skip"):
            raise ConfigError("missing", "'raise' or 'skip'", missing)
        place = Path(path).absolute()
        self.path = recording_of(place) if live else master_of(place)
        directory = self.path if live else self.path.parent
        self._root = directory if root is None else Path(root).absolute()
        self._skips = missing == "skip"
        self._live = LiveExperiment(directory) if live else None
        self._file: h5py.File | None = None
        self._open()

    def _open(self) -> None:
        self._own: ExperimentGroups
        if self._live is None:
            self._file, self._index = open_index(self.path)
            self._own = OwnGroups(self.path, self._root, self._file)
            unfinished = unfinished_text(self.path.parent)
            if unfinished:
                warnings.warn(
                    f"{self.path}: it lacks what is {unfinished}", ShardWarning, stacklevel=3
                )
        else:
            self._index = self._live.index
            self._own = OwnFiles(self.path)
        self._rows = {i: row for row, i in enumerate(self._index["episode_id"].tolist())}
        self._shards = ShardFiles(self._master_path, self._root, self._index, self._file)
        self._window_reader = WindowReader(self._readable_group, self._shards.most_open)

    @property
    def _master_path(self) -> Path:
        """Where the master is, or will be."""
        return self.path if self._live is None else self.path / MASTER

    def refresh(self) -> None:
        """Take in what was recorded, or merged, since the loader was made or refreshed.

        With ``live=True`` episodes that began are there then, and those that went on have their
        new rows; between two calls nothing changes. Handles of episodes that go on change with
        it. Without, a master that was merged again is opened in place of the old one.

        Raises
        ------
        FormatError, ShardDamaged
            A file cannot be read.
        """
        if self._live is not None:
            self._live.refresh()
        self.close()
        self._open()

    def __enter__(self) -> "ExperimentLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ExperimentLoader {self.path}: {self._episodes_text()}>"

    def _repr_html_(self) -> str:
        facts = {"file": self.path, "episodes": self._episodes_text()}
        for name in ("steps", "spikes"):
            facts[name] = f"{int(self._index[name].sum()):,}"
        return facts_html("ExperimentLoader", facts, index_html(self._index))

    def _episodes_text(self) -> str:
        return f"{len(self):,} episodes ({status_text(statuses(self._index))})"

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[RecordedEpisode]:
        return (self.get_episode(episode) for episode in self.list_episodes() if self._has(episode))

    def _has(self, episode: int) -> bool:
        """Tell whether an episode's shard is sound, where bad ones are to be skipped."""
        if not self._skips or self._source_of(episode) is not None:
            return True
        try:
            self._shards.check(self._rows[episode])
        except (NotPermitted, TooManyOpenFiles):
            raise
        except ShardWriterError as error:
            warnings.warn(f"skipped: {error}", ShardWarning, stacklevel=3)
            return False
        return True

    def close(self) -> None:
        """Close every file; what belongs to no episode cannot be read after that."""
        self._window_reader.forget()
        self._shards.close()
        if self._file is not None:
            self._file.close()

    @property
    def episode_index(self) -> np.ndarray[Any, Any]:
        """One row per episode: id, status, steps, spikes, reward, seed, times, rows, shard."""
        return np.array(self._index)

    def to_dataframe(self) -> "DataFrame":
        """Return the episode index as a pandas table, one row per episode, by ``episode_id``.

        Times are UTC; ``rows_…`` is NA where an episode has no such table.

        Raises
        ------
        MissingDependency
            pandas is not installed.
        """
        return index_to_dataframe(self._index)

    def list_episodes(self) -> list[int]:
        """Return the ids of all episodes, in order."""
        return list(self._rows)

    def get_episode(self, episode_id: int) -> "RecordedEpisode":
        """Return a handle of one episode, which reads nothing yet.

        Raises
        ------
        EpisodeNotFound
            There is none of that id; the error names those there are.
        """
        if episode_id not in self._rows:
            advice = self._whereabouts(episode_id)
            raise EpisodeNotFound(episode_id, list(self._rows), self.path, advice)
        episode = int(episode_id)
        source = self._source_of(episode) or ShardEpisode(lambda: self._group(episode))
        return RecordedEpisode(episode, source, self.get_units, lambda: self._row_of(episode))

    def _row_of(self, episode: int) -> np.void:
        row: np.void = self._index[self._rows[episode]]
        return row

    def _source_of(self, episode: int) -> LiveEpisode | None:
        """Return where to read an episode that goes on, None for a finished one."""
        return None if self._live is None else self._live.recording.get(episode)

    def _whereabouts(self, episode: int) -> str:
        """Say how an episode that the master does not have gets into it."""
        directory = self._master_path.parent
        if episode in unfinished_episodes(directory):
            mend = command("recover", directory)
            return f"it is unfinished: wait for its end, or run {mend}"
        if episode in listed_episodes(directory):
            return f"its shard is there: run {command('merge', directory)}"
        return ""

    def get_metadata(self) -> dict[str, Any]:
        """Return the experiment's attributes."""
        return self._own.metadata()

    def get_config(self) -> dict[str, Any]:
        """Return what ``save_config`` kept."""
        return self._own.attributes("config")

    def get_units(self) -> Units:
        """Return what ``save_units`` kept: units by field, and ``dt``, None where unknown."""
        return Units.from_attributes(self._own.attributes(UNITS), self.path)

    def get_runtime_info(self) -> dict[str, Any]:
        """Return machine, interpreter and package versions of the recording."""
        return self._own.attributes("runtime")

    def get_performance(self) -> dict[str, Any]:
        """Return what recording cost, ``{}`` for one without ``enable_profiling``."""
        return self._own.attributes("performance")

    def get_git_info(self) -> dict[str, Any]:
        """Return what ``save_git_info`` kept, ``{}`` for nothing."""
        return self._own.attributes("git_info")

    def get_code_snapshot(self) -> dict[str, str]:
        """Return the texts of source files by path."""
        files = self._group_of("code_snapshot").values()
        try:
            return {file["path"]: file["text"] for file in files}
        except (KeyError, IndexError, TypeError) as error:
            problem = "expected groups of a path and a text"
            raise ShardDamaged(self.path, "code_snapshot", problem) from error

    def _group_of(self, name: str, part: str = "") -> dict[str, Any]:
        """Return the nested values of a group of the experiment."""
        found = self._own.tree(name, part)
        if not isinstance(found, dict):
            place = f"{name}/{part}" if part else name
            raise ShardDamaged(self.path, place, "expected a group, got a dataset")
        return found

    def list_checkpoints(self) -> list[str]:
        """Return the names of the checkpoints."""
        return self._own.checkpoints()

    def get_checkpoint(self, name: str) -> dict[str, Any]:
        """Return a checkpoint's nested values.

        Raises
        ------
        ExperimentNotFound
            There is none of that name; the error lists those there are.
        """
        if name not in self.list_checkpoints():
            known = ", ".join(self.list_checkpoints()) or "none"
            raise ExperimentNotFound(
                self.path, f"one of the checkpoints {known}, got {name!r}", "name one that is there"
            )
        return self._group_of(f"checkpoints/{name}")

    def get_episode_summary(self, episode_id: int) -> dict[str, Any]:
        """Return an episode's attributes, and what its rollout returned under ``summary``."""
        return self.get_episode(episode_id).get_metadata()

    def get_all_summaries(self) -> dict[int, dict[str, Any]]:
        """Return the summaries of all episodes by id."""
        return {episode: self.get_episode_summary(episode) for episode in self._rows}

    def describe(
        self, episodes: Sequence[int] | None = None
    ) -> Iterator[tuple[int, EpisodeDescription | ShardWriterError]]:
        """Yield what each episode holds, without its data: attributes, summary and columns.

        That is many times faster than asking the handles of many episodes one by one.

        Parameters
        ----------
        episodes
            Ids, in the order wanted; by default all that are finished.

        Yields
        ------
        id, description
            In place of the description the error that reading such an episode raises.

        Raises
        ------
        EpisodeNotFound, EpisodeUnfinished
            An id is unknown, or of an episode that goes on.
        """
        ids = self._chosen(None) if episodes is None else [int(i) for i in episodes]
        for episode in ids:
            self._check_finished(episode)
        return described([self.get_episode(episode) for episode in ids], self._stored_alone)

    def get_network_structure(self, part: str = "") -> dict[str, Any]:
        """Return neurons, connections and initial weights as nested dicts of arrays.

        With `part`, such as ``"neurons"``, only that one is read and returned.
        """
        return self._group_of("network_structure", part)

    def concat(
        self,
        field: str,
        episodes: Sequence[int] | None = None,
        start: int | None = None,
        stop: int | None = None,
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return a field of many episodes as one array, and where each episode starts in it.

        Parameters
        ----------
        field
            Table and column, such as ``behavior/position``.
        episodes
            Ids, in the order wanted; by default all that are finished.
        start, stop
            Bounds of timesteps in each episode.

        Returns
        -------
        values : ndarray
            ``(rows, *shape)``, those of the first episode first.
        offsets : ndarray
            (episodes + 1,) int64; episode ``i`` has rows ``offsets[i]`` to ``offsets[i + 1]``.

        Raises
        ------
        EpisodeNotFound, EpisodeUnfinished, FieldsDiffer, TooLarge, ConfigError
            An id is unknown, or of an episode that goes on; the field is not of one form; it
            does not fit into memory; no episode has it.
        """
        ids = self._chosen(episodes)
        table = f"rows_{field.rpartition('/')[0]}"
        rows = None
        if table in (self._index.dtype.names or ()):
            chosen = self._index[table][[self._rows[episode] for episode in ids]]
            rows = np.maximum(chosen, 0).tolist()
        return concatenated(self._readable_group, self._quick(), field, ids, rows, start, stop)

    def iter_windows(
        self,
        length: int,
        stride: int,
        fields: Sequence[str],
        *,
        episodes: Sequence[int] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        batch_size: int = 256,
        buffer_mb: float = 256,
        lanes: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Windows]:
        """Yield batches of windows of consecutive rows, for training.

        Parameters
        ----------
        length, stride
            Rows of a window, and from the start of one to that of the next.
        fields
            Tables and columns with a row for the same timesteps.
        episodes
            Ids; by default all that are finished.
        shuffle
            Draw windows of many episodes in random order, else in order.
        seed, epoch
            Of that order.
        batch_size
            Windows in a batch; the last may have fewer.
        buffer_mb
            Bound on what is held to draw from, in MB (10^6 bytes).
        lanes
            Deal the windows out to so many lanes, which share the buffer and give a batch in
            turn. A part reads only the lanes that its batches come from.
        part
            ``(i, n)``: only batch `i` and every `n`-th after it. Together the `n` parts have every
            batch once, and in their turn they are the order of one part.

        Yields
        ------
        dict
            Each field as ``(batch, length, *shape)``, ``episode`` and ``start``, the window's first
            row, as (batch,).

        Raises
        ------
        EpisodeNotFound, EpisodeUnfinished, FieldsDiffer, ConfigError
            An id is unknown, or of an episode that goes on; a field is not of one form; an
            option has a value it cannot have.
        """
        order = WindowOrder(
            fields=tuple(fields),
            length=length,
            stride=stride,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            batch_size=batch_size,
            buffer_mb=buffer_mb,
            lanes=lanes,
            part=part,
        )
        return windows(self._readable_group, self._quick(), self._chosen(episodes), order)

    def count_windows(
        self,
        length: int,
        stride: int,
        fields: Sequence[str],
        *,
        episodes: Sequence[int] | None = None,
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the episodes that ``iter_windows`` would read, and how many windows each has.

        Window ``k`` of an episode begins at row ``k * stride``; ``get_window`` reads it.

        Parameters
        ----------
        length, stride, fields, episodes
            As for ``iter_windows``.

        Returns
        -------
        episodes, counts : ndarray
            (episodes,) int64 each.

        Raises
        ------
        EpisodeNotFound, EpisodeUnfinished, FieldsDiffer, ConfigError
            As ``iter_windows``; or no episode has such fields.
        """
        order = WindowOrder(fields=tuple(fields), length=length, stride=stride)
        ids = self._chosen(episodes)
        counts = window_counts(self._readable_group, self._quick(), ids, order)
        return np.array(ids, np.int64), counts

    def get_window(
        self, episode: int, start: int, length: int, fields: Sequence[str]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return the rows `start` to ``start + length`` of each field, as ``(length, *shape)``.

        Raises
        ------
        EpisodeNotFound, EpisodeUnfinished, ConfigError
            The id is unknown, or of an episode that goes on; the episode has no such field or
            rows.
        """
        self._check_finished(episode)
        return self._window_reader.read(int(episode), start, length, fields)

    def _chosen(self, episodes: Sequence[int] | None) -> list[int]:
        finished = [episode for episode in self._rows if self._source_of(episode) is None]
        ids = finished if episodes is None else [int(i) for i in episodes]
        for episode in ids:
            self._check_finished(episode)
        return [episode for episode in ids if self._has(episode)]

    def _check_finished(self, episode: int) -> None:
        if self._source_of(episode) is not None:
            raise EpisodeUnfinished(episode, "reading across episodes")
        if episode not in self._rows:
            raise EpisodeNotFound(episode, list(self._rows), self.path)

    def _group(self, episode: int) -> AbstractContextManager[h5py.Group]:
        return self._shards.group(self._rows[episode])

    def _stored_alone(self, episode: int) -> tuple[Structure, str]:
        """Open an episode's shard, unless others are in it, among which HDF5 finds it sooner."""
        row = self._rows[episode]
        if is_pack_name(self._shards.path(row)):
            raise Unfamiliar
        return self._shards.stored(row)

    def _quick(self) -> QuickColumns:
        return QuickColumns(lambda episode: self._shards.stored(self._rows[episode]))

    @contextmanager
    def _readable_group(self, episode: int) -> Iterator[h5py.Group]:
        with self._group(episode) as group, readable(file_of(group)):
            yield group


class ShardWarning(UserWarning):
    """Episodes are not read: their shards are gone or have changed, or they are unfinished."""


def quick_load(path: str | os.PathLike[str], episode_id: int = 0) -> dict[str, Any]:
    """Return one episode whole: metadata and every table, by name.

    Raises
    ------
    ExperimentNotFound, EpisodeNotFound, ShardMissing, MasterStale, ShardDamaged
        As ``ExperimentLoader`` and its getters.
    """
    with ExperimentLoader(path) as loader:
        episode = loader.get_episode(episode_id)
        return {
            "metadata": episode.get_metadata(),
            "neural_states": episode.get_neural_states(),
            "spikes": episode.get_spikes(),
            "behavior": episode.get_behavior(),
            "rewards": episode.get_rewards(),
            "weight_changes": episode.get_weight_changes(),
            "events": episode.get_events(),
            "static_data": episode.get_static_data(),
            "final_state": episode.get_final_state(),
        }
