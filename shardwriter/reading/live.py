"""An experiment while it is recorded: its finished shards, and the episodes that go on.

Invariant: each episode that was started is in one of the two, at whatever instant one looks.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.errors import BufferDamaged, ShardDamaged, ShardOutside
from shardwriter.files.episode_index import index_array, index_row
from shardwriter.files.layout import EpisodePaths, episode_shards, unfinished_episodes
from shardwriter.files.quick_description import describe_vetted
from shardwriter.files.shard_description import ShardDescription
from shardwriter.reading.live_episode import LiveEpisode

__all__ = ["LiveExperiment"]

_State = tuple[str, int, int]  # name, size, time of change


class LiveExperiment:
    """What an experiment's directory holds, as of the last ``refresh``.

    Attributes
    ----------
    index
        One row per episode, as in a master; the ones that go on have no shard's name.
    recording
        The episodes that go on, by id.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._finished: dict[_State, list[ShardDescription]] = {}
        self.recording: dict[int, LiveEpisode] = {}
        self.index: np.ndarray[Any, Any] = index_array([], [])
        self.refresh()

    def refresh(self) -> None:
        """Look again.

        Raises
        ------
        FormatError, ShardDamaged
            A finished shard cannot be read.
        """
        # In this order: an episode that ends in between is then in both.
        recording = dict(self._unfinished())
        self._finished = dict(self._described())
        finished = {d.episode: d for each in self._finished.values() for d in each}
        self.recording = {i: live for i, live in recording.items() if i not in finished}
        rows = {i: _finished_row(self._directory, shard) for i, shard in finished.items()}
        for episode, live in self.recording.items():
            rows[episode] = index_row(episode, live.attributes(), live.row_counts())
        names = [os.path.relpath(d.path, self._directory) for d in finished.values()]
        self.index = index_array([rows[episode] for episode in sorted(rows)], names)

    def _unfinished(self) -> Iterator[tuple[int, LiveEpisode]]:
        for episode in unfinished_episodes(self._directory):
            try:
                live = self.recording.get(episode)
                if live is None:
                    live = LiveEpisode(EpisodePaths(self._directory, episode))
                else:
                    live.refresh()
                yield episode, live
            except (FileNotFoundError, BufferDamaged, ShardDamaged, ShardOutside):
                continue  # just begun, or just finished; if damaged, recover tells

    def _described(self) -> Iterator[tuple[_State, list[ShardDescription]]]:
        for path in episode_shards(self._directory):
            try:
                stat = path.stat()
                state = (path.name, stat.st_size, stat.st_mtime_ns)
                yield state, self._finished.get(state) or describe_vetted(path)
            except (FileNotFoundError, ShardDamaged):
                if path.exists():
                    raise  # else it was moved, to run its episode again


def _finished_row(directory: Path, shard: ShardDescription) -> tuple[object, ...]:
    rows = {name: table.rows for name, table in shard.tables.items()}
    name = os.path.relpath(shard.path, directory)
    place = (name, shard.size, shard.mtime_ns, shard.uuid, shard.episode)
    return index_row(shard.episode, shard.attributes, rows, place)
