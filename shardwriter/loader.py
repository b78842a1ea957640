"""Reading an experiment back.

Invariant: nothing read is invented. Data come from the shards themselves, each checked against
the master's index before it is read; a missing or replaced one raises.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import (
    EpisodeNotFound,
    ExperimentNotFound,
    FormatError,
    MasterStale,
    ShardDamaged,
    ShardMissing,
)
from shardwriter.groups import read_attributes, read_tree
from shardwriter.layout import INDEX, MASTER, SHARDS, episode_group
from shardwriter.recorded_episode import RecordedEpisode
from shardwriter.shard_description import check_format

__all__ = ["ExperimentLoader", "quick_load"]

_MOST_OPEN = 64


class ExperimentLoader:
    """Reads one experiment through its master.

    Any number of threads may use it. Leaving the ``with`` block closes it.

    Parameters
    ----------
    path
        The experiment's directory, or its master file.

    Raises
    ------
    ExperimentNotFound
        There is no master there.
    FormatError
        The file is of another format or version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _master(Path(path).absolute())
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise FormatError(self.path, "an HDF5 file", str(error)) from error
        check_format(self.path, dict(self._file.attrs))
        if INDEX not in self._file:
            raise FormatError(self.path, f"a master with {INDEX}", "none; is it a shard?")
        self._index = self._file[INDEX][()]
        self._rows = {int(i): row for row, i in enumerate(self._index["episode_id"])}
        self._shards: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

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
        return f"<ExperimentLoader {self.path}: {len(self._index)} episodes>"

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[RecordedEpisode]:
        return (self.get_episode(episode) for episode in self.list_episodes())

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for shard in self._shards.values():
                shard.file.close()
            self._shards.clear()
            self._file.close()

    @property
    def episode_index(self) -> np.ndarray[Any, Any]:
        """One row per episode: id, status, steps, spikes, reward, seed, times, rows, shard."""
        return np.array(self._index)

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
            raise EpisodeNotFound(episode_id, list(self._rows), self.path)
        return RecordedEpisode(int(episode_id), self._opened)

    def get_metadata(self) -> dict[str, Any]:
        """Return the experiment's attributes."""
        return read_attributes(self._file)

    def get_config(self) -> dict[str, Any]:
        """Return what ``save_config`` kept."""
        return read_attributes(self._file["config"]) if "config" in self._file else {}

    def get_runtime_info(self) -> dict[str, Any]:
        """Return machine, interpreter and package versions of the recording."""
        return read_attributes(self._file["runtime"]) if "runtime" in self._file else {}

    def get_git_info(self) -> dict[str, Any]:
        """Return what ``save_git_info`` kept, ``{}`` for nothing."""
        return read_attributes(self._file["git_info"]) if "git_info" in self._file else {}

    def get_code_snapshot(self) -> dict[str, str]:
        """Return the texts of source files by path."""
        return {file["path"]: file["text"] for file in self._tree("code_snapshot").values()}

    def list_checkpoints(self) -> list[str]:
        """Return the names of the checkpoints."""
        return list(self._file["checkpoints"]) if "checkpoints" in self._file else []

    def get_checkpoint(self, name: str) -> dict[str, Any]:
        """Return a checkpoint's nested values.

        Raises
        ------
        ExperimentNotFound
            There is none of that name; the error lists those there are.
        """
        if name not in self.list_checkpoints():
            known = ", ".join(self.list_checkpoints()) or "none"
            raise ExperimentNotFound(self.path, f"a checkpoint of {known}", f"not {name!r}")
        return self._tree(f"checkpoints/{name}")

    def get_episode_summary(self, episode_id: int) -> dict[str, Any]:
        """Return an episode's attributes, and what its rollout returned under ``summary``."""
        return self.get_episode(episode_id).get_metadata()

    def get_all_summaries(self) -> dict[int, dict[str, Any]]:
        """Return the summaries of all episodes by id."""
        return {episode: self.get_episode_summary(episode) for episode in self._rows}

    def get_network_structure(self) -> dict[str, Any]:
        """Return neurons, connections and initial weights as nested dicts of arrays."""
        return self._tree("network_structure")

    def _tree(self, name: str) -> dict[str, Any]:
        if name not in self._file:
            return {}
        group = self._file[name]
        self._check_sources(group)
        return dict(read_tree(group))

    def _check_sources(self, group: h5py.Group) -> None:
        """Make sure that every virtual dataset below a group has its source."""

        def check(name: str, node: object) -> None:
            if isinstance(node, h5py.Dataset) and node.is_virtual:
                for source in node.virtual_sources():
                    path = self.path.parent / source.file_name
                    if not path.is_file():
                        advice = f"put it back, or run `shardwriter merge {self.path.parent}`"
                        raise ExperimentNotFound(path, f"the data of {node.name}", advice)

        group.visititems(check)

    # -- shards ---------------------------------------------------------------------------

    @contextmanager
    def _opened(self, episode: int) -> Iterator[h5py.Group]:
        """Lend out the episode's group in its shard, which stays open meanwhile."""
        with self._lock:
            shard = self._shards.pop(episode, None)
            if shard is None:
                shard = _OpenShard(self._checked(self._index[self._rows[episode]]))
            self._shards[episode] = shard
            shard.users += 1
            self._close_idle()
        try:
            yield shard.file[episode_group(episode)]
        except (OSError, KeyError, RuntimeError) as error:
            path = Path(shard.file.filename)
            raise ShardDamaged(path, "data", f"cannot be read: {error}") from error
        finally:
            with self._lock:
                shard.users -= 1

    def _close_idle(self) -> None:
        idle = [episode for episode, shard in self._shards.items() if shard.users == 0]
        for episode in idle[: max(0, len(self._shards) - _MOST_OPEN)]:
            self._shards.pop(episode).file.close()

    def _checked(self, row: np.void) -> h5py.File:
        """Open a shard, once it is known to be the one that the master was built from."""
        path = self.path.parent / os.fsdecode(row["shard"])
        advice = f"put it back, or run `shardwriter merge {path.parent.parent}`"
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ShardMissing(path, int(row["episode_id"]), advice) from error
        if size != row["size"]:
            raise MasterStale(self.path, path, f"{row['size']} bytes", f"{size}", advice)
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise ShardDamaged(path, "structure", f"cannot be opened: {error}") from error
        try:
            found = str(file.attrs["uuid"])
            expected = os.fsdecode(row["uuid"])
            if found != expected:
                raise MasterStale(self.path, path, f"shard {expected}", f"shard {found}", advice)
        except BaseException:
            file.close()
            raise
        return file


class _OpenShard:
    __slots__ = ("file", "users")

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.users = 0


def _master(path: Path) -> Path:
    if path.is_dir():
        if (path / MASTER).is_file():
            return path / MASTER
        if (path / SHARDS).is_dir():
            advice = f"run `shardwriter merge {path}`"
        else:
            advice = "give the directory of an experiment"
        raise ExperimentNotFound(path, f"a master {MASTER} in it", advice)
    if not path.is_file():
        raise ExperimentNotFound(path, "an experiment's directory or master", "check the path")
    return path


def quick_load(
    path: str | os.PathLike[str], episode_id: int = 0
) -> dict[str, Any]:
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
