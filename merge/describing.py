"""Reading many shards at once, in processes of their own.

Invariant: results come back in the order of the files, whoever read them; a file that crashes
the HDF5 library costs a child process, and is named. Nothing is read by HDF5 in this one.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

from shardwriter.errors import ShardDamaged, ShardWriterError
from shardwriter.files.quick_description import describe_quickly
from shardwriter.files.shard_description import ShardDescription
from shardwriter.system.process import Child, Link, Parent

__all__ = ["MEND", "Work", "describe_all", "in_children"]

MEND = "put an intact copy in its place, or move it away and record the episode again"

_BATCH = 32
_DESCRIBED_TOGETHER = 64
_LIMIT_S = 120.0
_TRIED_S = 0.2  # here, before that is judged, and
_WORTH_S = 2.5  # of work left: processes take half a second to start, and results have to travel

Work = Callable[[Any], Any]


def describe_all(
    paths: Sequence[Path], workers: int, progress: Callable[[int], object] = lambda n: None
) -> list[ShardDescription]:
    """Return the descriptions of all episodes in some files, in the order of the files.

    Parameters
    ----------
    paths
        The files.
    workers
        Processes at a time; what would soon be done without them is done in this one.
    progress
        Called with the number of files described since it was last called.

    Raises
    ------
    ShardDamaged, FormatError
        A file is no shard; the first such is named.
    """
    found: list[ShardDescription] = []
    for result in _results(paths, workers, progress):
        if isinstance(result, ShardDamaged):
            raise result.with_advice(MEND)
        if isinstance(result, ShardWriterError):
            raise result
        found += result
    return found


def _results(
    paths: Sequence[Path], workers: int, progress: Callable[[int], object]
) -> Iterator[Any]:
    """Yield what each file has, or the error; processes help where much is left."""
    start = time.monotonic()
    for i in range(0, len(paths), _DESCRIBED_TOGETHER):
        elapsed_s = time.monotonic() - start
        if i and elapsed_s > _TRIED_S and elapsed_s / i * (len(paths) - i) > _WORTH_S:
            work = "shardwriter.files.quick_description:describe_several*"
            yield from in_children(work, paths[i:], workers, progress, _DESCRIBED_TOGETHER)
            return
        several = paths[i : i + _DESCRIBED_TOGETHER]
        found = describe_quickly(several)
        unknown = [path for path, one in zip(several, found, strict=True) if one is None]
        others = iter(_described_by_hdf5(unknown, workers) if unknown else [])
        yield from (next(others) if one is None else one for one in found)
        progress(len(several))


def _described_by_hdf5(paths: Sequence[Path], workers: int) -> list[Any]:
    work = "shardwriter.files.quick_description:described"
    return list(in_children(work, paths, workers, lambda _: None))


def in_children(
    work: str,
    items: Sequence[Any],
    workers: int,
    progress: Callable[[int], object],
    batch: int = _BATCH,
    limit_s: float = _LIMIT_S,
) -> Iterator[Any]:
    """Yield what a function returns for each item, or the error it raised, in order.

    Parameters
    ----------
    work
        ``"package.module:function"`` of one item; with ``*`` behind it, of a list of items,
        for which it returns a list.
    items
        What it is called with, one by one: paths, or what has a ``path``.
    workers
        Processes at a time.
    progress
        Called with the number of items done since it was last called.
    batch
        Items that a process takes at a time.
    limit_s
        After this long without any result, a process counts as hung, and is killed.
    """
    batches = [list(items[i : i + batch]) for i in range(0, len(items), batch)]
    with _crew(work, min(workers, len(batches)), limit_s) as crew:
        done: dict[int, list[Any]] = {}
        waiting = deque(enumerate(batches))
        for i in range(len(batches)):
            while i not in done:
                crew.assign(waiting)
                number, results = crew.next_done()
                done[number] = results
                progress(len(results))
            yield from done.pop(i)


class _Crew:
    """Child processes, each with at most one batch."""

    def __init__(self, work: str, size: int, limit_s: float) -> None:
        self._work = work
        self._limit_s = limit_s
        self._idle = [self._hired() for _ in range(size)]
        self._busy: dict[Child, tuple[int, list[Any]]] = {}

    def _hired(self) -> Child:
        child = Child("merge.describing:serve")
        child.link.send(self._work)
        return child

    def assign(self, waiting: deque[tuple[int, list[Any]]]) -> None:
        while self._idle and waiting:
            child = self._idle.pop()
            self._busy[child] = waiting.popleft()
            child.link.send(self._busy[child][1])

    def next_done(self) -> tuple[int, list[Any]]:
        links = {child.link: child for child in self._busy}
        ready = wait(list(links), self._limit_s)
        # `wait` is typed as if it could return other things than the links it was given.
        child = links[cast(Link, ready[0])] if ready else next(iter(self._busy))
        number, batch = self._busy.pop(child)
        try:
            if not ready:
                child.kill()
            results = child.link.recv()
        except (EOFError, ConnectionError):
            child.wait()
            self._idle.append(self._hired())
            return number, [self._alone(item) for item in batch]
        self._idle.append(child)
        return number, results

    def _alone(self, item: Any) -> Any:
        """Do one item of a batch that killed its process in a process of its own."""
        child = self._hired()
        problem = "crashed the HDF5 library"
        try:
            child.link.send([item])
            if child.link.poll(self._limit_s):
                return child.link.recv()[0]
            problem = f"took more than {self._limit_s:.0f} s"
        except (EOFError, ConnectionError):
            pass
        finally:
            child.kill()
            child.wait()
        return ShardDamaged(getattr(item, "path", item), "structure", f"reading it {problem}")

    def dismiss(self) -> None:
        for child in [*self._idle, *self._busy]:
            child.kill()
            child.wait()


@contextmanager
def _crew(work: str, size: int, limit_s: float) -> Iterator[_Crew]:
    crew = _Crew(work, size, limit_s)
    try:
        yield crew
    finally:
        crew.dismiss()


def serve(parent: Parent) -> None:
    """Run a child process: batches of items in, lists of results or errors out."""
    try:
        module, _, name = parent.receive().partition(":")
        function: Work = getattr(__import__(module, fromlist=[name]), name.rstrip("*"))
        while True:
            items = parent.receive()
            if name.endswith("*"):
                parent.link.send(function(items))
            else:
                parent.link.send([_tried(function, item) for item in items])
    except (EOFError, ConnectionError):
        os._exit(0)  # the parent is done; HDF5 may hold files that crash at its own exit


def _tried(function: Work, item: Any) -> Any:
    try:
        return function(item)
    except ShardWriterError as error:
        return error
