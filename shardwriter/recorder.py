"""The handle that opens episodes of one experiment, in any process.

Invariant: an episode id belongs to whoever creates its buffer file, which is exclusive; nothing
else is agreed between processes.
"""

import os
import secrets
import weakref
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
import psutil

from shardwriter.buffer import Buffer, remove_buffer
from shardwriter.config import RecorderConfig
from shardwriter.episode import Episode
from shardwriter.errors import ConfigError, EpisodeExists
from shardwriter.layout import EpisodePaths, listed_episodes, unfinished_episodes
from shardwriter.process import Identity
from shardwriter.shard import Codecs
from shardwriter.table_log import Store
from shardwriter.writer_process import Drain, LocalDrain, WriterProcess

__all__ = ["Recorder", "episode_seed"]

_SLOTS = 4
_MOST_UNSEALED = 2  # ended episodes per writer process whose buffers still take up memory
_SHARED_MEMORY = Path("/dev/shm")
_CLUSTER_FILE_SYSTEMS = ["afs", "beegfs", "ceph", "glusterfs", "gpfs", "lustre", "panfs", "pvfs2"]
_NETWORK_FILE_SYSTEMS = frozenset(
    [*_CLUSTER_FILE_SYSTEMS, "9p", "cifs", "fuse.glusterfs", "fuse.sshfs", "nfs", "nfs4", "smb3"]
)


def episode_seed(experiment_seed: int, episode: int) -> int:
    """Return the seed of an episode: 63 bits of NumPy's SeedSequence, spawned by its id."""
    sequence = np.random.SeedSequence(experiment_seed, spawn_key=(episode,))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class Recorder:
    """Opens episodes of one experiment; what a ``DataExporter`` pickles into.

    Parameters
    ----------
    output_dir
        The experiment's directory, which exists.
    config
        How to record.
    """

    def __init__(self, output_dir: Path, config: RecorderConfig) -> None:
        self.output_dir = output_dir
        self.config = config
        self._codecs: Codecs = {}
        self._writers: list[WriterProcess] = []
        self._open: dict[int, Episode] = {}
        self._ended: deque[Episode] = deque()
        self._next_id = 0
        self._finalizer = weakref.finalize(self, _close_writers, self._writers)

    def __reduce__(self) -> tuple[type["Recorder"], tuple[Path, RecorderConfig]]:
        return Recorder, (self.output_dir, self.config)

    def __repr__(self) -> str:
        return f"<Recorder of {self.output_dir}>"

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start_episode(self, episode_id: int | None = None) -> Episode:
        """Open an episode.

        Parameters
        ----------
        episode_id
            A non-negative int not yet used in the experiment; None takes the next free one.

        Raises
        ------
        EpisodeExists
            The id is in use, in this process or another.
        NoSpace
            There is no room for the episode's buffer.
        WriterFailed
            An earlier episode could not be written.
        """
        self._settle_ended()
        if episode_id is None:
            return self._start_next()
        return self._start(_checked_id(episode_id))

    def close(self) -> None:
        """End open episodes as ``interrupted`` and wait until every shard is published.

        Raises
        ------
        WriterFailed
            A shard could not be written; the others were.
        """
        failures = []
        for episode in [*self._open.values(), *self._ended]:
            try:
                episode.interrupt()
                episode.wait()
            except Exception as error:  # noqa: BLE001  (raised once all are waited for)
                failures.append(error)
        self._open.clear()
        self._ended.clear()
        _close_writers(self._writers)
        if failures:
            raise failures[0]

    def _start_next(self) -> Episode:
        if self._next_id == 0:
            taken = [*listed_episodes(self.output_dir), *unfinished_episodes(self.output_dir)]
            self._next_id = max(taken, default=-1) + 1
        while True:
            try:
                return self._start(self._next_id)
            except EpisodeExists:
                self._next_id += 1

    def _start(self, episode: int) -> Episode:
        paths = EpisodePaths(self.output_dir, episode)
        seed = episode_seed(self.config.seed, episode)
        buffer = self._claim(paths, seed)
        try:
            drain = self._drain(paths)
        except BaseException:
            buffer.unlink()
            raise
        store = Store(buffer, drain, self.config.chunk_size, _SLOTS)
        opened = Episode(episode, seed, store, paths.shard, self.config.neural_sampling_rate)
        self._open[episode] = opened
        return opened

    def _claim(self, paths: EpisodePaths, seed: int) -> Buffer:
        start = {
            "episode": paths.episode,
            "seed": seed,
            "start_time": datetime.now(UTC).isoformat(),
            "compression": {
                "name": self.config.compression,
                "level": self.config.compression_level,
                "adaptive": self.config.adaptive_compression,
                "precision": dict(self.config.precision),
            },
            "owner": Identity.own().to_json(),
        }
        where = self.config.buffer_dir or default_buffer_directory(paths.shard.parent)
        try:
            if where is None:
                buffer = Buffer.create(paths.buffer, start)
            else:
                buffer = _create_elsewhere(paths.buffer, where, start)
        except FileExistsError:
            raise EpisodeExists(paths.episode, paths.buffer) from None
        for path in (paths.shard, paths.part):
            if path.exists():
                buffer.unlink()
                raise EpisodeExists(paths.episode, path)
        return buffer

    def _drain(self, paths: EpisodePaths) -> Drain:
        if not self.config.async_write:
            return LocalDrain(paths, self._codecs)
        if len(self._writers) < self.config.n_async_workers and all(
            writer.load for writer in self._writers
        ):
            self._writers.append(WriterProcess())
        return min(self._writers, key=lambda writer: writer.load).open(paths)

    def _settle_ended(self) -> None:
        """Let go of ended episodes; wait for the oldest when too many take up memory."""
        for episode in [e for e in self._open.values() if e.has_ended]:
            self._ended.append(self._open.pop(episode.id))
        most = _MOST_UNSEALED * max(1, len(self._writers))
        while self._ended and (len(self._ended) > most or self._ended[0].is_sealed):
            self._ended.popleft().wait()


def _checked_id(episode_id: object) -> int:
    is_int = isinstance(episode_id, (int, np.integer)) and not isinstance(episode_id, bool)
    if not is_int or int(cast(int, episode_id)) < 0:
        raise ConfigError("episode_id", "an int, at least 0, or None", episode_id)
    return int(cast(int, episode_id))


def default_buffer_directory(shards: Path) -> Path | None:
    """Return where buffers go when nobody said: None for beside the shards.

    A mapping of a file on a network file system is not shared as it must be, and its writes
    would travel; buffers then go to the node's shared memory.
    """
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for folder in [shards.resolve(), *shards.resolve().parents]:
        kind = mounts.get(str(folder))
        if kind is not None:
            return _SHARED_MEMORY if kind in _NETWORK_FILE_SYSTEMS else None
    return None


def _create_elsewhere(link: Path, where: Path, start: dict[str, object]) -> Buffer:
    """Claim the id by a link beside the shards, then create the buffer that it names."""
    own = Identity.own()
    name = f"shardwriter-{own.host}-{own.pid}-{own.start_ticks}-{secrets.token_hex(4)}.buffer"
    os.symlink(where.resolve() / name, link)
    try:
        return Buffer.create(link.resolve(), start, link)
    except BaseException:
        remove_buffer(link)
        raise


def _close_writers(writers: list[WriterProcess]) -> None:
    while writers:
        writers.pop().close()
