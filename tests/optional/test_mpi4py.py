"""MPI: MPICH under mpiexec, which ends the whole job when one of its processes is killed."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_rollouts
import pytest
from engine_rollouts import (
    EPISODES,
    check_command,
    check_kept_attempt,
    check_stopped,
    local_run,
    logical,
)

from shardwriter.recovery import missing
from shardwriter.system.locks import locked

pytestmark = pytest.mark.usefixtures("alone")

SHARED_MEMORY = Path("/dev/shm")

RECORD = """
import sys
from pathlib import Path
from engine_rollouts import EPISODES, DiesOnce, exporter_in
from mpi4py.futures import MPIPoolExecutor
from shardwriter import DataExporter

if __name__ == "__main__":
    place = Path(sys.argv[1])
    before = list(place.glob("test_*"))
    with (
        DataExporter.resume(before[0], progress=False) if before else exporter_in(place)
    ) as exporter, MPIPoolExecutor() as pool:
        exporter.run_episodes(
            DiesOnce({57}, place), range(EPISODES), executor=pool, skip_existing=True
        )
"""

STREAM = """
import sys
from pathlib import Path
from engine_rollouts import check_stream
from mpi4py.futures import MPIPoolExecutor

if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        check_stream(Path(sys.argv[1]), pool)
"""


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run one MPI job at a time, and remove what MPICH leaves where it kills."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    with locked((base.parent if shared else base) / "mpi.lock"):
        before = set(SHARED_MEMORY.glob("mpich_shm_*"))
        yield
        for path in set(SHARED_MEMORY.glob("mpich_shm_*")) - before:
            path.unlink()


def launcher() -> list[str]:
    """Return how Python is started on three processes, two of them workers."""
    mpiexec = shutil.which("mpiexec", path=Path(sys.executable).parent)
    assert mpiexec is not None
    return [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures"]


def mpi_run(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script."""
    path = place / "script.py"
    path.write_text(script)
    folders = [str(Path(engine_rollouts.__file__).parent), *filter(None, sys.path)]
    return subprocess.run(
        [*launcher(), path, place],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


def test_a_killed_process_ends_the_job_and_the_next_job_goes_on(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    killed = mpi_run(tmp_path, RECORD)
    assert killed.returncode != 0
    assert (tmp_path / "died 57").exists()
    [directory] = tmp_path.glob("test_*")
    left = missing(directory, range(EPISODES))
    assert 57 in left
    assert 0 not in left
    resumed = mpi_run(tmp_path, RECORD)
    assert resumed.returncode == 0, resumed.stderr
    assert logical(directory) == reference
    check_kept_attempt(directory, 57, reference)


def test_results_come_one_by_one_and_an_error_cancels(tmp_path: Path) -> None:
    done = mpi_run(tmp_path, STREAM)
    assert done.returncode == 0, done.stderr


def test_the_command_records_what_the_local_engine_does(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    check_command(tmp_path, reference, "mpi", launcher=launcher())


def test_the_command_can_be_stopped(tmp_path: Path) -> None:
    check_stopped(tmp_path, signal.SIGINT, "mpi", launcher=launcher())
