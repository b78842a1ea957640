"""Ray as a ``concurrent.futures.Executor``: every call is a Ray task.

Invariant: a future ends when Ray says so, cancelled ones included.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

from shardwriter.engines.addresses import check_answers
from shardwriter.errors import ConfigError, MissingDependency

__all__ = ["RayExecutor"]

T = TypeVar("T")

_AHEAD = 2


class RayExecutor(Executor):
    """Runs calls as Ray tasks, for ``run_episodes`` and whatever else takes an Executor.

    Connects to Ray where this process has not (``ray.init``), and then disconnects in
    ``shutdown``. A task whose worker dies raises Ray's error, such as ``WorkerCrashedError``.

    Parameters
    ----------
    address
        Cluster to connect to, such as ``"auto"``; None for the one that ``RAY_ADDRESS`` names,
        else a new one on this machine.
    num_cpus, num_gpus
        What each task takes of the cluster, in cores and GPUs.
    memory_bytes
        Memory that each task takes, for Ray's scheduler.
    resources
        Custom resources that each task takes, as ``{"big_node": 1}``.
    retries
        How often Ray runs a task again whose worker died.
    max_in_flight
        ``submit`` waits while so many tasks are unfinished. None for no such bound; of
        ``run_episodes``, two for each that fits into the cluster.
    init
        Further arguments of ``ray.init``, such as ``{"num_cpus": 8}`` for a new cluster.

    Raises
    ------
    MissingDependency
        Ray is not installed.
    ConfigError
        A count has a value it cannot have, or nothing answers at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory_bytes: int | None = None,
        resources: Mapping[str, float] | None = None,
        retries: int = 0,
        max_in_flight: int | None = None,
        init: Mapping[str, object] | None = None,
    ) -> None:
        if retries < 0:
            raise ConfigError("retries", "an int, at least 0", retries)
        if max_in_flight is not None and max_in_flight < 1:
            raise ConfigError("max_in_flight", "an int, at least 1, or None", max_in_flight)
        self._ray = _ray()
        self._needs = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
        self._bound = max_in_flight
        self._room = None if max_in_flight is None else threading.Semaphore(max_in_flight)
        self._futures: set[Future[Any]] = set()
        self._is_shut_down = False
        self._owns_ray = not self._ray.is_initialized()
        if self._owns_ray:
            if address is not None:
                check_answers("Ray", address)
            with _unchanged_termination():
                self._ray.init(address=address, **(init or {}))
        options: dict[str, Any] = {"num_cpus": num_cpus, "max_retries": retries}
        options |= {"num_gpus": num_gpus} if num_gpus else {}
        options |= {"memory": memory_bytes} if memory_bytes is not None else {}
        options |= {"resources": dict(resources)} if resources else {}
        self._call = self._ray.remote(**options)(_call)

    @property
    def n_workers(self) -> int:
        """How many tasks fit into the cluster as it is now."""
        has = self._ray.cluster_resources()
        fits = [has.get(name, 0) / need for name, need in self._needs.items() if need]
        return max(1, int(min(fits, default=has.get("CPU", 1))))

    @property
    def max_in_flight(self) -> int:
        """Most tasks that are worth handing over at a time."""
        return _AHEAD * self.n_workers if self._bound is None else self._bound

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Start a task; its function and arguments travel by cloudpickle."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._room is not None:
            self._room.acquire()
        reference = self._call.remote(fn, args, kwargs)
        future = _RayFuture(self._ray, reference)
        self._futures.add(future)
        future.add_done_callback(self._forget)
        reference.future().add_done_callback(future.settle)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; wait for those that run, and disconnect from Ray if it is ours.

        Without `wait`, a Ray that is ours ends them.
        """
        self._is_shut_down = True
        futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            wait_for(futures)
        if self._owns_ray:
            self._owns_ray = False
            self._ray.shutdown()

    def _forget(self, future: "Future[Any]") -> None:
        self._futures.discard(future)
        if self._room is not None:
            self._room.release()


class _RayFuture(Future[Any]):
    """A future whose ``cancel`` also reaches a task that runs, as KeyboardInterrupt."""

    def __init__(self, ray: ModuleType, reference: Any) -> None:
        super().__init__()
        self._ray = ray
        self._reference = reference

    def cancel(self) -> bool:
        """Ask Ray to cancel the task; the future ends when it has."""
        if self.done():
            return self.cancelled()
        self._ray.cancel(self._reference)
        return True

    def settle(self, source: "Future[Any]") -> None:
        """Take the outcome that Ray reports."""
        error = source.exception()
        if error is None:
            self.set_result(source.result())
        elif isinstance(error, self._ray.exceptions.TaskCancelledError):
            super().cancel()
            self.set_running_or_notify_cancel()  # wakes those who wait
        else:
            # What the task raised comes wrapped, in a class made for it.
            self.set_exception(getattr(error, "cause", None) or error)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return function(*arguments, **options)


@contextmanager
def _unchanged_termination() -> Iterator[None]:
    """Leave SIGTERM to whoever handles it; ``ray.init`` takes it, for another exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _ray() -> ModuleType:
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingDependency("ray", "ray") from error
