"""Somebody else's engine: episodes as the tasks of a ``concurrent.futures.Executor``.

Invariant: every episode that was taken has one result, whatever happens to its worker, and only
a bounded number is handed over at a time.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeAlias

from shardwriter.engines.local import MOST_FALSE_STARTS
from shardwriter.engines.outcome import has_begun, recovered_result, sealed_result
from shardwriter.engines.result import EpisodeResult, Report
from shardwriter.engines.task import let_go, run_task, write_setup
from shardwriter.engines.worker import Rollout
from shardwriter.errors import EpisodeExists, ExecutorBroken, ShardWriterError, WorkerFailed
from shardwriter.files.layout import EpisodePaths
from shardwriter.recording.recorder import Recorder

__all__ = ["ExecutorEngine", "ExecutorSource"]

ExecutorSource: TypeAlias = Executor | Callable[[], Executor]

_AHEAD = 2  # tasks for each worker: the next one lies there when it has finished
_GRACE_S = 3.0
_POLL_S = 0.02
_COUNTED_S = 1.0  # how long a count of an engine's workers holds


class ExecutorEngine:
    """Runs episodes as tasks of an executor.

    Parameters
    ----------
    recorder
        The experiment, in a directory that every worker sees under the same path.
    rollout
        What to run; it travels by cloudpickle, in a file of the experiment.
    executor
        An executor, which stays open; or a function that makes one: it is shut down at the end,
        and where it breaks another is made.
    n_workers
        Most episodes that are handed over at a time; None for two to each of its workers.

    Raises
    ------
    ConfigError
        The rollout cannot travel.
    """

    def __init__(
        self,
        recorder: Recorder,
        rollout: Rollout,
        executor: ExecutorSource,
        n_workers: int | None,
    ) -> None:
        self._recorder = recorder
        self._make = None if isinstance(executor, Executor) else executor
        self._executor = executor if isinstance(executor, Executor) else executor()
        self._n_workers = n_workers
        self._setup = write_setup(recorder, rollout, n_workers or worker_count(self._executor))
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()
        self._pending: dict[Future[Any], int] = {}
        self._serial = 0
        self._held: list[int] = []  # whose workers died before they took them
        self._false_starts = 0  # such deaths in a row
        self._broken: BrokenExecutor | None = None
        self._lost: list[int] = []  # what the broken one had
        self._spent: ExecutorBroken | None = None  # raised where another executor is needed
        self._limit = (0, 0.0)

    def __enter__(self) -> "ExecutorEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._make is not None:
                self._executor.shutdown(wait=error is None)
        finally:
            self._setup.unlink(missing_ok=True)
            let_go()

    def run(self, episodes: Iterator[int], report: Report) -> None:
        """Run the rollout for each episode; ids are taken one by one, as workers become idle.

        Raises
        ------
        ExecutorBroken
            The executor broke, and there is no function that makes another; what ran in it was
            reported first.
        WorkerFailed
            Workers end before they begin an episode.
        KeyboardInterrupt
            Ctrl-C: what had not begun is cancelled.
        """
        try:
            while True:
                while self._may_submit() and (episode := self._next(episodes)) is not None:
                    self._submit(episode, report)
                if self._pending:
                    self._take(self._done.get(), report)
                elif self._broken is not None:
                    self._mend(report)  # and go on, with what it had not begun
                else:
                    return
        except BaseException:
            self._cancel(report)
            raise

    def _next(self, episodes: Iterator[int]) -> int | None:
        return self._held.pop() if self._held else next(episodes, None)

    def _may_submit(self) -> bool:
        return self._broken is None and len(self._pending) < self._most_pending()

    def _most_pending(self) -> int:
        if self._n_workers is not None:
            return self._n_workers
        most, until = self._limit
        now = time.monotonic()
        if now > until:  # clusters grow and shrink
            bound = getattr(self._executor, "max_in_flight", None)
            most = bound or _AHEAD * worker_count(self._executor)
            self._limit = most, now + _COUNTED_S
        return most

    def _submit(self, episode: int, report: Report) -> None:
        taken = has_begun(self._paths(episode))
        if taken is not None:  # checked here, since a task takes what it finds for its own
            error = EpisodeExists(episode, taken)
            text = f"{type(error).__name__}: {error}"
            report(EpisodeResult(episode, "failed", None, text))
            return
        if self._spent is not None:
            self._executor = self._another(self._spent)
        self._serial += 1
        try:
            future = self._executor.submit(run_task, str(self._setup), episode, self._serial)
        except BrokenExecutor as error:
            self._broken = error
            self._lost.append(episode)
            return
        self._pending[future] = episode
        future.add_done_callback(self._done.put)

    def _take(self, future: Future[Any], report: Report) -> None:
        episode = self._pending.pop(future)
        try:
            result, collected = future.result()
        except BrokenExecutor as error:
            self._broken = error
            self._lost.append(episode)
        except CancelledError:
            report(EpisodeResult(episode, "failed", None, "its task was cancelled"))
        except ShardWriterError:  # no worker can run this rollout
            raise
        except Exception as error:  # noqa: BLE001  (each engine has its own for a dead worker)
            self._account([episode], error, report)
        else:
            self._false_starts = 0
            if collected is not None:
                self._recorder.performance.add(collected)
            report(result)

    def _account(self, episodes: list[int], error: BaseException, report: Report) -> None:
        """Report episodes whose workers died, and hold those that had not begun."""
        told = error.__cause__ if isinstance(error, ExecutorBroken) else error
        how = f"{type(told).__name__}: {(str(told).strip().splitlines() or [''])[0]}"
        begun = [episode for episode in episodes if has_begun(self._paths(episode)) is not None]
        self._held += [episode for episode in episodes if episode not in begun]
        for episode in begun:
            report(recovered_result(self._paths(episode), f"its process died ({how})"))
        self._false_starts = 0 if begun else self._false_starts + 1
        if self._false_starts >= MOST_FALSE_STARTS:
            raise WorkerFailed(self._false_starts, how) from error

    def _mend(self, report: Report) -> None:
        """Account for all that a broken executor had."""
        error, lost = self._broken, self._lost
        self._broken, self._lost = None, []
        self._executor.shutdown(wait=True)  # until its other workers, which it ends, have ended
        self._spent = ExecutorBroken(type(self._executor).__name__, str(error), lost)
        self._spent.__cause__ = error
        self._account(lost, self._spent, report)

    def _another(self, spent: ExecutorBroken) -> Executor:
        if self._make is None:
            raise spent
        self._spent = None
        return self._make()

    def _cancel(self, report: Report) -> None:
        """Cancel what has not begun, and give what runs a moment to end."""
        self._setup.unlink(missing_ok=True)  # without which no task begins
        for future in list(self._pending):
            future.cancel()
        deadline = time.monotonic() + _GRACE_S
        cancelled = []
        while self._pending:
            try:
                future = self._done.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                break  # it goes on where it runs, and is sealed there
            episode = self._pending.pop(future)
            if future.cancelled():
                cancelled.append(episode)
            elif future.exception() is None:
                report(future.result()[0])
            elif has_begun(self._paths(episode)) is not None:
                report(recovered_result(self._paths(episode), "it was stopped"))
        for episode in cancelled:  # some that had begun: Dask calls what it lets run so, too
            paths = self._paths(episode)
            while not paths.shard.exists() and has_begun(paths) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if paths.shard.exists():
                report(sealed_result(episode, paths.shard, "it was stopped"))

    def _paths(self, episode: int) -> EpisodePaths:
        return EpisodePaths(self._recorder.output_dir, episode)


def worker_count(executor: Executor) -> int:
    """Return how many tasks an executor runs at a time, as many as there are cores if unknown."""
    # The standard library's and loky's say it privately; MPI's, RayExecutor in public.
    for name in ("n_workers", "num_workers", "_max_workers"):
        count = getattr(executor, name, None)
        if isinstance(count, int) and count > 0:
            return count
    client: Any = getattr(executor, "_client", None)
    if hasattr(client, "nthreads"):  # Dask's
        return max(1, int(sum(client.nthreads().values())))
    return os.cpu_count() or 1
