"""Ray: a small cluster of its own on this machine, for each test."""

import itertools
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_rollouts import (
    Enough,
    check_command,
    check_stopped,
    check_stream,
    check_survives,
    exporter_in,
    local_run,
)

from shardwriter import EpisodeResult
from shardwriter.engines import RayExecutor
from shardwriter.recording.episode import Episode


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayExecutor]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token to ~/.ray
    place = tempfile.mkdtemp(prefix="ray-")  # short: names of Unix sockets have 107 characters
    init = {
        "num_cpus": 2,
        "include_dashboard": False,
        "object_store_memory": 80_000_000,
        "_temp_dir": place,
        "log_to_driver": False,
    }
    try:
        with RayExecutor("local", init=init) as executor:
            yield executor
    finally:
        shutil.rmtree(place)


@pytest.mark.timeout(300)  # Ray's workers are nice, and wait for all else on a busy machine
def test_a_killed_worker_costs_nothing(
    tmp_path: Path, executor: RayExecutor, reference: dict[str, Any]
) -> None:
    check_survives(tmp_path, executor, reference)


def test_results_come_one_by_one_and_an_error_cancels(
    tmp_path: Path, executor: RayExecutor
) -> None:
    check_stream(tmp_path, executor)
    results: list[EpisodeResult] = []

    def stop(result: EpisodeResult) -> None:
        results.append(result)
        if result.episode == 0:
            raise Enough

    with exporter_in(tmp_path, "endless") as exporter, pytest.raises(Enough):
        exporter.run_episodes(endless, range(9), executor=executor, on_result=stop)
    assert results[0].status == "completed"
    assert "interrupted" in [result.status for result in results[1:]]


@pytest.fixture
def variables() -> Iterator[dict[str, str]]:
    """Return the environment in which the command starts a Ray that leaves nothing."""
    place = tempfile.mkdtemp(prefix="ray-")
    yield {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": place}
    shutil.rmtree(place)


@pytest.mark.timeout(300)
def test_the_command_records_what_the_local_engine_does(
    tmp_path: Path, reference: dict[str, Any], variables: dict[str, str]
) -> None:
    check_command(tmp_path, reference, "ray", "--workers", "2", **variables)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_can_be_stopped(
    tmp_path: Path, number: signal.Signals, variables: dict[str, str]
) -> None:
    check_stopped(tmp_path, number, "ray", "--workers", "2", **variables)


def endless(episode: Episode) -> None:
    for t in itertools.count():
        episode.log_timestep(t, reward=1.0)
        if episode.id == 0 and t > 1000:
            return
