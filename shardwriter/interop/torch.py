"""Windows of an experiment as PyTorch datasets, for any number of ``DataLoader`` workers.

Invariant: a process reads through files that it has opened itself. A dataset that is pickled or
forked takes along a path and options, and the child opens the experiment when it first reads.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np

from shardwriter.errors import ConfigError, MissingDependency
from shardwriter.loader import ExperimentLoader

try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ImportError as error:
    raise MissingDependency("torch", "torch") from error

__all__ = ["WindowDataset", "WindowStream"]


class WindowDataset(Dataset):  # type: ignore[misc]  # PyTorch is optional: Any
    """Windows of consecutive rows, each to be had by its number (a map-style dataset).

    An item is a dict: each field as a tensor ``(length, *shape)``, and ``episode`` and ``start``,
    the window's first row, as int. Windows are numbered by episode, then by row. Reading one
    decompresses the chunks that it lies in; where the order need not be free, `WindowStream`
    decompresses a chunk for many windows at a time.

    Parameters
    ----------
    path
        The experiment's directory, its master file, or a packed file.
    length, stride
        Rows of a window, and from the start of one to that of the next.
    fields
        Tables and columns of numbers with a row for the same timesteps, such as
        ``behavior/position``.
    episodes
        Ids; by default all.
    missing, root
        As for `ExperimentLoader`. An episode that is skipped when the dataset is made has no
        windows; one that goes missing later raises.

    Raises
    ------
    ExperimentNotFound, FormatError, ShardMissing, MasterStale, ShardDamaged
        The experiment, or one of its shards, is not there or not what it should be.
    EpisodeNotFound, FieldsDiffer, ConfigError
        An id is unknown; a field is not of one form; an option has a value it cannot have.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        length: int,
        stride: int,
        fields: Sequence[str],
        *,
        episodes: Sequence[int] | None = None,
        missing: str = "raise",
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "path": os.path.abspath(path),
            "missing": missing,
            "root": root,
        }
        self._length, self._stride, self._fields = length, stride, list(fields)
        self._held: tuple[int, ExperimentLoader] | None = None  # and the process it belongs to
        with ExperimentLoader(**self._options) as loader:
            found = loader.count_windows(length, stride, self._fields, episodes=episodes)
        self._episodes, counts = found
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return a window.

        Raises
        ------
        IndexError
            There are fewer.
        ShardMissing, MasterStale, ShardDamaged
            The episode's shard is gone, or has changed.
        """
        at = range(len(self))[index(number)]
        row = int(np.searchsorted(self._ends, at, side="right"))
        before = int(self._ends[row - 1]) if row else 0
        episode, start = int(self._episodes[row]), (at - before) * self._stride
        values = self._loader().get_window(episode, start, self._length, self._fields)
        return {**_tensors(values), "episode": episode, "start": start}

    def _loader(self) -> ExperimentLoader:
        held = self._held
        if held is None or held[0] != os.getpid():
            # Let go first of what was forked: HDF5 would open the same file as the same handle.
            self._held = held = None
            self._held = held = (os.getpid(), ExperimentLoader(**self._options))
        return held[1]

    def close(self) -> None:
        """Close the files that this process has open; the next item opens them again."""
        if self._held is not None and self._held[0] == os.getpid():
            self._held[1].close()
        self._held = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}


class WindowStream(IterableDataset):  # type: ignore[misc]  # PyTorch is optional: Any
    """Batches of windows in shuffled order (an iterable dataset).

    Give it to ``DataLoader(stream, batch_size=None, num_workers=…)``: it makes the batches itself.
    A batch is a dict: each field as a tensor ``(batch, length, *shape)``, ``episode`` and
    ``start``, the window's first row, as (batch,) int64. The last may have fewer windows.

    An epoch has every window once, in an order that follows from `seed` and the epoch; it is that
    of ``ExperimentLoader.iter_windows`` of the same options, for any number of workers. Where
    their number divides `lanes`, each chunk is decompressed by one of them only.

    Parameters
    ----------
    path, length, stride, fields, episodes, missing, root
        As for `WindowDataset`.
    shuffle
        Draw windows of many episodes in random order; else in order, for which each worker reads
        everything.
    seed
        Of that order, 0 or more.
    batch_size
        Windows in a batch.
    buffer_mb
        Bound on what all workers together hold to draw from, in MB (10^6 bytes).
    lanes
        Streams of batches to take turns, each with its share of the buffer.
    part
        ``(i, n)``: only batch `i` and every `n`-th after it, for the `i`-th of `n` machines.

    Raises
    ------
    ExperimentNotFound, FormatError, ShardMissing, MasterStale, ShardDamaged
        The experiment, or one of its shards, is not there or not what it should be.
    EpisodeNotFound, FieldsDiffer, ConfigError
        An id is unknown; a field is not of one form; an option has a value it cannot have.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        length: int,
        stride: int,
        fields: Sequence[str],
        *,
        episodes: Sequence[int] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        batch_size: int = 256,
        buffer_mb: float = 256,
        lanes: int = 12,
        part: tuple[int, int] = (0, 1),
        missing: str = "raise",
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "path": os.path.abspath(path),
            "missing": missing,
            "root": root,
        }
        chosen: dict[str, Any] = {"length": length, "stride": stride, "fields": list(fields)}
        self._windows: dict[str, Any] = {
            **chosen,
            "shuffle": shuffle,
            "seed": seed,
            "batch_size": batch_size,
            "buffer_mb": buffer_mb,
            "lanes": lanes,
        }
        self._part = part
        with ExperimentLoader(**self._options) as loader:
            # Both say at once, and here, what is wrong.
            loader.iter_windows(**self._windows, part=part, episodes=episodes)
            found, counts = loader.count_windows(**chosen, episodes=episodes)
        self._episodes = found.tolist()
        self._batches = len(range(part[0], -(-int(counts.sum()) // batch_size), part[1]))
        # Shared, so that workers that outlive an epoch (persistent_workers) see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return self._batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epoch that begins next, 0 or more; workers learn of it."""
        if epoch < 0:
            raise ConfigError("epoch", "an int of 0 or more", epoch)
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this epoch, in a worker those of its share.

        Raises
        ------
        ShardMissing, MasterStale, ShardDamaged
            A shard is gone, or has changed.
        """
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        first, step = self._part
        with ExperimentLoader(**self._options) as loader:
            for batch in loader.iter_windows(
                **self._windows,
                episodes=self._episodes,
                epoch=int(self._epoch),
                part=(first + step * worker, step * workers),
            ):
                yield _tensors(batch)


def _tensors(values: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Return arrays as tensors of the same memory."""
    tensors = {}
    for name, array in values.items():
        try:
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
        except TypeError as error:
            raise ConfigError("fields", "numbers", f"{name}: {array.dtype}") from error
    return tensors
