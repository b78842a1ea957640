"""Fixtures for every test: after each one, nothing that it started or wrote is left over."""

import os
import sys
import time
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import psutil
import pytest
from merging import copied, record
from running import MAZE

from shardwriter.files import codec, global_heap, lookup3, stored_episode
from shardwriter.recording import innermost

SHARED_MEMORY = Path("/dev/shm")
UNFINISHED = ("*.buffer", "*.part", "*.tmp", ".*")
PATIENCE_S = 5.0

# Every process that a test starts inherits this, so that orphans can be told from strangers.
RUN_TAG = ("SHARDWRITER_TEST_RUN", uuid.uuid4().hex)
os.environ.update([RUN_TAG])


def _is_standing(process: psutil.Process) -> bool:
    """Tell whether multiprocessing keeps this process until the interpreter exits."""
    trackers = ("multiprocessing.resource_tracker", "loky.backend.resource_tracker")
    helpers = (*trackers, "multiprocessing.forkserver")
    command = " ".join(process.cmdline())
    return process.ppid() == os.getpid() and any(name in command for name in helpers)


def _carries_tag(process: psutil.Process) -> bool:
    """Tell whether this run started the process, even if its parent is dead by now."""
    environment: dict[str, str] = process.environ()
    return process.pid != os.getpid() and RUN_TAG in environment.items()


def _started_processes() -> set[psutil.Process]:
    """Return the living descendants of this process, those with a dead parent included."""
    descendants = set(psutil.Process().children(recursive=True))
    found = set()
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            is_ours = process in descendants or _carries_tag(process)
            if is_ours and not _is_standing(process):
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _shared_memory_files() -> set[Path]:
    return set(SHARED_MEMORY.glob("shardwriter*"))


def _unfinished_files(folder: Path) -> set[Path]:
    return {
        path
        for path in folder.rglob("*")
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in UNFINISHED)
    }


_COMPILED = (
    (codec, "compiled"),
    (codec, "huffman"),
    (global_heap, "compiled"),
    (innermost, "compiled"),
    (lookup3, "compiled"),
    (stored_episode, "compiled"),
)


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaves a process, a buffer in shared memory or an unfinished file.

    What is about to end or to be removed has five seconds for it. Processes still
    there after that are killed, so that they cannot disturb the tests that follow.
    Tests marked ``leaves_unfinished`` may leave files under their ``tmp_path``, where
    pytest removes them, but none in shared memory.
    """
    processes_before = _started_processes()
    shared_before = _shared_memory_files()
    yield

    def leftovers() -> tuple[set[psutil.Process], set[Path]]:
        files = _shared_memory_files() - shared_before
        if request.node.get_closest_marker("leaves_unfinished") is None:
            files |= _unfinished_files(tmp_path)
        return _started_processes() - processes_before, files

    deadline = time.monotonic() + PATIENCE_S
    processes, files = leftovers()
    while (processes or files) and time.monotonic() < deadline:
        time.sleep(0.02)
        processes, files = leftovers()
    report = [f"process {process}" for process in processes]
    report += [f"file {path}" for path in files]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert not report, "the test left behind: " + "; ".join(sorted(report))


@pytest.fixture(params=["compiled", "python"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with compiled code and without it."""
    if request.param == "python":
        for place in _COMPILED:
            monkeypatch.setattr(*place, None)
    elif any(getattr(*place) is None for place in _COMPILED):
        pytest.skip("the package was built without a compiler")


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record as many episodes as the module says, once for all of its tests."""
    return record(tmp_path_factory.mktemp("recorded"), range(request.module.EPISODES))


@pytest.fixture
def experiment(recorded: Path, tmp_path: Path) -> Path:
    """Return a copy of that experiment."""
    return copied(recorded, tmp_path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working directory with a module `maze`."""
    (tmp_path / "maze.py").write_text(MAZE)
    (tmp_path / "marks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))
    yield tmp_path
    for name in ("maze", "broken"):
        sys.modules.pop(name, None)
