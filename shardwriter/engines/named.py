"""Engines by name, as the command line has them: what runs the episodes, and for how long.

Invariant: what was started here ends here; a cluster that was found by its address goes on.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from shardwriter.engines.addresses import check_answers
from shardwriter.engines.executors import ExecutorSource
from shardwriter.engines.ray_executor import RayExecutor
from shardwriter.errors import ConfigError, MissingDependency

__all__ = ["named_engine"]


@contextmanager
def named_engine(
    name: str, n_workers: int | None, address: str | None
) -> Iterator[ExecutorSource | None]:
    """Return what ``run_episodes`` takes as `executor`, for as long as the block lasts.

    Parameters
    ----------
    name
        ``local``, ``ray``, ``dask``, ``mpi`` or ``loky``.
    n_workers
        Processes of what is started here; None for one on each core. Of a cluster that is there
        already it is for ``run_episodes`` to bound the episodes that are handed over.
    address
        Of a cluster of Ray's or Dask's that is there already.

    Raises
    ------
    MissingDependency
        The engine's package is not installed.
    ConfigError
        No cluster answers at the address, or this process was not started as MPI needs it.
    """
    count = n_workers or len(os.sched_getaffinity(0))
    if name == "local":
        yield None
    elif name == "ray":
        with _ray(count, address) as ray:
            yield ray
    elif name == "dask":
        with _dask(count, address) as dask:
            yield dask
    elif name == "mpi":
        with _mpi_pool()() as pool:
            yield pool
    else:
        pool_class = _package("loky", "loky").ProcessPoolExecutor
        yield lambda: pool_class(max_workers=count)


def _ray(count: int, address: str | None) -> RayExecutor:
    quiet = {"logging_level": "warning"}
    if address is not None:
        with _connecting("Ray", address):
            return RayExecutor(address, init=quiet)
    return RayExecutor("local", init={**quiet, "num_cpus": count, "include_dashboard": False})


@contextmanager
def _dask(count: int, address: str | None) -> Iterator[Executor]:
    distributed = _package("distributed", "dask")
    if address is not None:
        check_answers("Dask", address)
        with _connecting("Dask", address):
            client = distributed.Client(address)
        with client:
            yield client.get_executor()
        return
    with (
        tempfile.TemporaryDirectory(prefix="dask-") as scratch,
        _package("dask", "dask").config.set({"temporary-directory": scratch}),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        try:
            yield client.get_executor()
        except BaseException:
            for nanny in cluster.workers.values():  # Dask cannot stop a task; it would wait for it
                if nanny.pid is not None:
                    os.kill(nanny.pid, signal.SIGKILL)
            raise


@contextmanager
def _connecting(engine: str, address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # another version of Ray, the last
        raise ConfigError(f"address {address}", f"a cluster of {engine}'s", str(error)) from error


def _mpi_pool() -> Callable[[], Executor]:
    pool: Callable[[], Executor] = _package("mpi4py.futures", "mpi").MPIPoolExecutor
    command = "mpiexec -n 9 python -m mpi4py.futures -m shardwriter run …"
    expected = f"a process started by `{command}` (8 workers, and one that hands out episodes)"
    if "mpi4py.futures" not in sys.orig_argv:  # each process of mpiexec would run all of it
        raise ConfigError("engine mpi", expected, "one without `-m mpi4py.futures`")
    if _package("mpi4py.MPI", "mpi").COMM_WORLD.Get_size() < 2:
        raise ConfigError("engine mpi", expected, "one process, and none to work")
    return pool


def _package(name: str, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency(name.partition(".")[0], extra) from error
