"""Dask: a cluster of processes on this machine, whose nannies replace a killed worker."""

import signal
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from engine_rollouts import check_command, check_stopped, check_stream, check_survives, local_run


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "dask")}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()


def test_a_killed_worker_costs_nothing(
    tmp_path: Path, executor: Executor, reference: dict[str, Any]
) -> None:
    check_survives(tmp_path, executor, reference)


def test_results_come_one_by_one_and_an_error_cancels(tmp_path: Path, executor: Executor) -> None:
    check_stream(tmp_path, executor)


def test_the_command_records_what_the_local_engine_does(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    check_command(tmp_path, reference, "dask", "--workers", "2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_can_be_stopped(tmp_path: Path, number: signal.Signals) -> None:
    check_stopped(tmp_path, number, "dask", "--workers", "2")
