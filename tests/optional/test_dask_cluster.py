"""A Dask cluster that is there before: a scheduler and workers, in another directory."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import WITHOUT, living, may_hide
from engine_rollouts import check_command, local_run
from running import MAZE, environment, steps

WORKER = ("worker", "--nworkers", 2, "--nthreads", 1, "--no-dashboard")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file in which a scheduler says where it is."""
    place = tmp_path / "cluster"
    place.mkdir()
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(place))
    listing = place / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", listing)
    with living(place, "dask", "scheduler", *options, is_there=listing.exists):
        yield listing


def address(scheduler: Path) -> str:
    return str(json.loads(scheduler.read_text())["address"])


def test_the_command_records_on_it(
    tmp_path: Path, scheduler: Path, reference: dict[str, Any]
) -> None:
    with living(scheduler.parent, "dask", *WORKER, "--scheduler-file", scheduler):
        check_command(tmp_path, reference, "dask", "--address", address(scheduler))


def run(place: Path, scheduler: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardwriter", "run", "maze:rollout", "--episodes", "0:4"]
    command += ["--engine", "dask", "--address", address(scheduler), "--into", "../all"]
    return subprocess.run(
        command, cwd=place, env=environment(), capture_output=True, text=True, check=False
    )


def test_code_that_its_nodes_do_not_see_is_one_error(tmp_path: Path, scheduler: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "maze.py").write_text(MAZE)
    if not may_hide(mine):
        pytest.skip("namespaces need root, and util-linux")
    place, options = scheduler.parent, (*WORKER, "--scheduler-file", scheduler)
    with living(place, "dask", *options, within=[*WITHOUT, mine]):
        failed = run(mine, scheduler)
    assert failed.returncode == 1
    text = (
        "rollout: expected modules that every node can import, installed or in a shared directory"
    )
    assert f"shardwriter: {text}, got \"No module named 'maze' on " in failed.stderr
    with living(place, "dask", *options, within=[*WITHOUT, mine]):
        shutil.copytree(mine, place, dirs_exist_ok=True)  # where workers of `dask` look
        assert run(mine, scheduler).returncode == 0
    assert steps(tmp_path / "all") == dict.fromkeys(range(4), 20)
