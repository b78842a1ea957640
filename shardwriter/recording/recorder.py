"""The handle that opens episodes of one experiment, in any process.

Invariant: an episode id belongs to whoever creates its buffer file, which is exclusive; nothing
else is agreed between processes.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np

from shardwriter.config import RecorderConfig
from shardwriter.errors import ConfigError, EpisodeExists, WriterFailed
from shardwriter.files.buffer import Buffer, remove_buffer
from shardwriter.files.layout import (
    SHARDS,
    EpisodePaths,
    buffer_name,
    listed_episodes,
    scratch_name,
    unfinished_buffers,
    unfinished_episodes,
)
from shardwriter.files.packed import packed_episodes
from shardwriter.files.shard import Codecs
from shardwriter.recording.batch import EpisodeBatch
from shardwriter.recording.content_checks import ContentChecks
from shardwriter.recording.drain import Drain, LocalDrain
from shardwriter.recording.episode import Episode
from shardwriter.recording.memory import MemoryBudget, MemoryShare
from shardwriter.recording.open_episodes import OpenEpisodes
from shardwriter.recording.performance import Performance
from shardwriter.recording.table_log import Store
from shardwriter.recording.writer_process import WriterProcess
from shardwriter.system.file_systems import default_buffer_directory, warn_of_mapping
from shardwriter.system.process import Identity, make_room_for_files, uninterrupted

__all__ = ["Recorder", "checked_id", "episode_seed"]

_MOST_UNSEALED = 2  # ended episodes per writer process whose buffers still take up memory
_FILES_PER_EPISODE = 10  # a mapping counts as one; with async_write=False there is the part, too
_OTHER_FILES = 256


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
    n_neurons
        Size of the network where it is known, for checks.
    is_copy
        Another process has the same recorder: buffers of others count as well.
    """

    def __init__(
        self,
        output_dir: Path,
        config: RecorderConfig,
        n_neurons: int | None = None,
        *,
        is_copy: bool = False,
    ) -> None:
        self.output_dir = output_dir
        self.config = config
        self.n_neurons = n_neurons
        self._is_copy = is_copy
        self.performance = Performance()
        self._episodes = OpenEpisodes(self.performance)
        self._starting = threading.Lock()
        self._budget = MemoryBudget(
            int(config.max_memory_mb * 1e6), self._used_bytes, self._episodes.wait_for_oldest
        )
        self._codecs: Codecs = {}
        self._writers: list[WriterProcess] = []
        self._flusher: _Flusher | None = None
        self._next_id = 0
        self._packed = packed_episodes(output_dir)  # no recorder makes one
        if not is_copy:
            self._warn_of_mapping()
        self._finalizer = weakref.finalize(self, _close_writers, self._writers)

    def _warn_of_mapping(self) -> None:
        if self.config.scratch_dir is not None:
            warn_of_mapping("scratch_dir", self.config.scratch_dir)
        elif self.config.buffer_dir is not None:
            warn_of_mapping("buffer_dir", self.config.buffer_dir)
        elif self.config.durability == "power":
            warn_of_mapping("durability='power'", self.output_dir)

    def __reduce__(self) -> tuple[Callable[..., "Recorder"], tuple[object, ...]]:
        return _copy_of, (self.output_dir, self.config, self.n_neurons)

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
        NoSpace, BufferFailed
            There is no room for the episode's buffer, or it could not be written.
        """
        (opened,) = self._open_together([episode_id], 1)
        return opened

    def start_episodes(
        self, ids: Iterable[int] | None = None, *, count: int | None = None
    ) -> EpisodeBatch:
        """Open several episodes that are logged to by one call, as in a vectorised environment.

        Parameters
        ----------
        ids
            Their ids, as for ``start_episode``.
        count
            How many, with the next free ids, in place of `ids`.

        Raises
        ------
        ConfigError
            Neither or both of the arguments were given, or no episode.
        EpisodeExists, NoSpace, BufferFailed
            As ``start_episode``; none of them was opened.
        """
        if (ids is None) == (count is None):
            raise ConfigError("start_episodes", "either ids or count=", (ids, count))
        wanted: list[int | None] = [None] * (count or 0) if ids is None else list(ids)
        if not wanted:
            raise ConfigError("start_episodes", "at least one episode", 0)
        make_room_for_files(_FILES_PER_EPISODE * len(wanted) + _OTHER_FILES)
        batch = EpisodeBatch(self._open_together(wanted, len(wanted)), self._open_together)
        if self.config.enable_profiling:
            self.performance.attach_batch(batch)
        return batch

    def close(self) -> None:
        """End open episodes as ``interrupted`` and wait until every shard is published.

        Raises
        ------
        WriterFailed, BufferFailed, NoSpace
            A shard, or an episode's end, could not be written; the others were.
        """
        if self._flusher is not None:
            self._flusher.stop()
            self._flusher = None
        failures = self._episodes.close()
        _close_writers(self._writers)
        if failures:
            raise failures[0]

    def _open_together(self, ids: Sequence[int | None], of: int) -> list[Episode]:
        """Open all of these episodes or none; None takes the next free id.

        `of` is the number of episodes that share the memory.
        """
        self._episodes.settle(_MOST_UNSEALED * max(1, len(self._writers)))
        opened: list[Episode] = []
        claimed: list[_Claimed] = []
        with uninterrupted():
            try:
                for wanted in ids:
                    claim = self._claimed_next() if wanted is None else self._claimed(wanted)
                    claimed.append(claim)
                for claim in claimed:
                    opened.append(self._opened(claim, of))  # noqa: PERF401  (an error leaves some)
            except BaseException:
                for claim in claimed[len(opened) :]:
                    claim.buffer.unlink()
                for episode in opened:
                    episode.interrupt()
                raise
        return opened

    def _claimed(self, episode_id: int) -> "_Claimed":
        paths = EpisodePaths(self.output_dir, checked_id(episode_id), self._new_scratch())
        if paths.episode in self._packed:
            raise EpisodeExists(paths.episode, self._packed[paths.episode])
        seed = episode_seed(self.config.seed, paths.episode)
        return _Claimed(paths, seed, self._claim(paths, seed))

    def _new_scratch(self) -> Path | None:
        where = self.config.scratch_dir
        if where is None:
            return None
        return where.absolute() / scratch_name(Identity.own().label, os.urandom(4).hex())

    def _claimed_next(self) -> "_Claimed":
        if self._next_id == 0:
            finished = [*listed_episodes(self.output_dir), *self._packed]
            taken = [*finished, *unfinished_episodes(self.output_dir)]
            self._next_id = max(taken, default=-1) + 1
        candidate = self._next_id  # of this thread's own, so that none is skipped
        while True:
            try:
                claimed = self._claimed(candidate)
            except EpisodeExists:
                candidate += 1
            else:
                self._next_id = max(self._next_id, candidate)
                return claimed

    def _opened(self, claimed: "_Claimed", of: int) -> Episode:
        paths, buffer = claimed.paths, claimed.buffer
        drain = self._drain(paths)
        self._budget.look()
        share = MemoryShare(self._budget, of, lambda: buffer.allocated_bytes)
        store = Store(buffer, drain, self.config.chunk_size, share if of > 1 else self._budget)
        checks = ContentChecks(paths.episode, self.n_neurons) if self.config.validate_data else None
        sampling = self.config.neural_sampling_rate
        opened = Episode(paths.episode, claimed.seed, store, paths.shard, sampling, checks)
        if self.config.enable_profiling:
            self.performance.attach(opened)
        self._episodes.add(opened)
        if self._flusher is None and not self.config.async_write:
            self._flusher = _Flusher(self, self.config.flush_interval_s)
        return opened

    def settle(self) -> None:
        """Wait until the shards of all episodes that have ended are published."""
        self._episodes.settle(0)

    def flush(self) -> None:
        """Bring the rows logged so far to the parts, where no writer process does."""
        self._episodes.flush()

    def _claim(self, paths: EpisodePaths, seed: int) -> Buffer:
        start = {
            "episode": paths.episode,
            "seed": seed,
            "start_time": datetime.now(UTC).isoformat(),
            "flush_interval_s": self.config.flush_interval_s,
            "durability": self.config.durability,
            "compression": {
                "name": self.config.compression,
                "level": self.config.compression_level,
                "adaptive": self.config.adaptive_compression,
                "precision": dict(self.config.precision),
            },
            "owner": Identity.own().to_json(),
        }
        where = self.config.buffer_dir
        if where is None and self.config.durability == "process":
            where = self._default_buffer_directory
        paths.make_folder()
        try:
            if paths.scratch is not None:
                buffer = _create_on_scratch(paths, start)
            elif where is None:
                buffer = Buffer.create(paths.buffer, start)
            else:
                buffer = _create_elsewhere(paths.buffer, where, start)
        except FileExistsError:
            raise EpisodeExists(paths.episode, paths.buffer) from None
        for path in (paths.shard, paths.shard.with_name(paths.part.name)):
            if path.exists():
                buffer.unlink()
                raise EpisodeExists(paths.episode, path)
        return buffer

    @cached_property
    def _default_buffer_directory(self) -> Path | None:
        return default_buffer_directory(self.output_dir / SHARDS)  # which parses all mounts

    def _drain(self, paths: EpisodePaths) -> Drain:
        with self._starting:
            return self._new_drain(paths)

    def _new_drain(self, paths: EpisodePaths) -> Drain:
        if not self.config.async_write:
            return LocalDrain(paths, self._codecs)
        if len(self._writers) < self.config.n_async_workers and all(
            writer.load for writer in self._writers
        ):
            self._writers.append(WriterProcess())
        return min(self._writers, key=lambda writer: writer.load).open(paths)

    def performance_stats(self) -> dict[str, Any]:
        """Return what recording has cost so far; see ``DataExporter.get_performance_stats``."""
        self._episodes.count_calls()
        return self.performance.stats(*self._episodes.progress())

    def _used_bytes(self) -> int:
        if self._is_copy:
            return sum(_allocated(path) for path in unfinished_buffers(self.output_dir))
        return self._episodes.memory_bytes()


@dataclass(frozen=True, slots=True)
class _Claimed:
    """An episode whose id is this process's own."""

    paths: EpisodePaths
    seed: int
    buffer: Buffer


class _Flusher:
    """A thread that flushes the recorder's episodes at an interval, as long as that lives."""

    def __init__(self, recorder: Recorder, interval_s: float) -> None:
        self._recorder = weakref.ref(recorder)
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardwriter-flush", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once it has finished what it does."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            recorder = self._recorder()
            if recorder is None:
                return
            with suppress(WriterFailed):  # the next call of the episode raises it again
                recorder.flush()
            del recorder


def _copy_of(output_dir: Path, config: RecorderConfig, n_neurons: int | None) -> Recorder:
    return Recorder(output_dir, config, n_neurons, is_copy=True)


def checked_id(episode_id: object) -> int:
    """Return an episode's id as an int, or raise ConfigError."""
    is_int = isinstance(episode_id, (int, np.integer)) and not isinstance(episode_id, bool)
    if not is_int or not 0 <= int(cast(int, episode_id)) < 2**63:
        raise ConfigError("episode_id", "an int from 0 to 2**63 - 1", episode_id)
    return int(cast(int, episode_id))


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _create_on_scratch(paths: EpisodePaths, start: dict[str, object]) -> Buffer:
    """Create a buffer in the episode's scratch folder, then claim the id by a link to it.

    In this order, so that a link to nothing always means a folder that was lost.
    """
    folder = cast(Path, paths.scratch)
    folder.mkdir(parents=True)
    target = folder / paths.buffer.name
    try:
        buffer = Buffer.create(target, start, paths.buffer)
        os.symlink(target, paths.buffer)
    except BaseException:
        target.unlink(missing_ok=True)
        folder.rmdir()
        raise
    return buffer


def _create_elsewhere(link: Path, where: Path, start: dict[str, object]) -> Buffer:
    """Claim the id by a link beside the shards, then create the buffer that it names."""
    name = buffer_name(Identity.own().label, os.urandom(4).hex())
    os.symlink(where.resolve() / name, link)
    try:
        return Buffer.create(link.resolve(), start, link)
    except BaseException:
        remove_buffer(link)
        raise


def _close_writers(writers: list[WriterProcess]) -> None:
    while writers:
        writers.pop().close()
