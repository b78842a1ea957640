"""Locks between processes, and what is said where there are none."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from shardwriter import DataExporter
from shardwriter.cli import main
from shardwriter.system.locks import locked


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with (
        DataExporter("locks", tmp_path, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_timestep(0, {"v": np.zeros(3)})
    return exporter.output_dir


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    inside: list[str] = []
    with locked(path):
        thread = threading.Thread(target=_enter, args=(path, inside))
        thread.start()
        thread.join(0.2)
        assert inside == []
    thread.join(10)
    assert inside == ["entered"]


def _enter(path: Path, inside: list[str]) -> None:
    with locked(path):
        inside.append("entered")


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import os, sys; from pathlib import Path; from shardwriter.system.locks import locked\n"
    )
    script += "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    with locked(path):
        pass


@pytest.mark.parametrize(
    ("command", "lock"), [("merge", "merge"), ("recover", "recover"), ("pack", "merge")]
)
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_no_locks(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    lock: str,
    code: int,
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    output = ["-o", str(directory.parent / "packed")] if command == "pack" else []
    assert main([command, str(directory), *output]) == 1
    said = capsys.readouterr().err
    assert f"{lock}.lock: expected a file system with flock" in said
    assert os.strerror(code) in said
    assert "mounted with locks" in said
    assert not (directory.parent / "packed").exists()
