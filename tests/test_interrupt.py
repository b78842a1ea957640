"""Ctrl-C in a script of its own: episodes end as interrupted, and what there is is merged."""

import _thread
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.recording.episode import Episode
from shardwriter.system.process import Child

LIMIT_S = 8.0  # 5 are promised; the machine that tests may be busy
PATIENCE_S = 60.0

START = """
import itertools, sys, time
from pathlib import Path
from shardwriter import DataExporter

place = Path(sys.argv[1])

def log(episode, t):
    episode.log_timestep(t, behavior={"x": float(t)}, spike_ids=[t, t], reward=1.0)
    if t == 300:
        (place / f"ready {episode.id}").touch()
"""

ENDLESS = """
def rollout(episode):
    for t in itertools.count():
        log(episode, t)
"""

IN_WORKERS = (
    ENDLESS
    + """
with DataExporter("test", place, progress=False, chunk_size=64) as exporter:
    exporter.run_episodes(rollout, itertools.count(), n_workers=2)
"""
)
STUBBORN = """
def rollout(episode):
    for t in range(301):
        log(episode, t)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass

with DataExporter("test", place, progress=False, chunk_size=64) as exporter:
    exporter.run_episodes(rollout, range(2), n_workers=1)
"""
IN_LOOP = (
    ENDLESS
    + """
with DataExporter("test", place, progress=False, chunk_size=64, {options}) as exporter:
    exporter.start_episode(9).log_timestep(0, behavior={{"x": 0.0}})
    with exporter.start_episode(0) as episode:
        rollout(episode)
"""
)
SHORT_ONES = """
with DataExporter("test", place, progress=False) as exporter:
    for i in itertools.count():
        with exporter.start_episode() as episode:
            for t in range(20):
                log(episode, t)
        if i == 10:
            (place / "ready 0").touch()
"""


@contextmanager
def script(place: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process group of its own, as a shell does."""
    path = place / "script.py"
    path.write_text(START + textwrap.dedent(text))
    process = subprocess.Popen(
        [sys.executable, path, place], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process: subprocess.Popen[str], *files: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not all(file.exists() for file in files):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{files} did not appear"
        time.sleep(0.01)


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C, wait for the end, return what the script wrote on stderr."""
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    return errors


def check(place: Path) -> dict[int, tuple[str, int]]:
    """Make sure that a whole experiment is there and nothing else; return statuses and steps."""
    (directory,) = place.glob("test_*")
    assert {path.suffix for path in (directory / "shards").iterdir()} == {".h5"}
    assert not [path for path in directory.rglob("*") if path.name.startswith(".")]
    found = {}
    with ExperimentLoader(directory) as loader:
        assert len(list((directory / "shards").iterdir())) == len(loader)
        for episode in loader:
            metadata = episode.get_metadata()
            positions = episode.get_behavior().get("x", np.empty(0))  # none where it is empty
            steps = len(positions)
            assert positions.tolist() == list(range(steps))
            if steps > 1:
                assert len(episode.get_rewards()["values"]) in (steps - 1, steps)
                spikes = episode.get_spikes()["neuron_ids"]
                np.testing.assert_array_equal(spikes[: 2 * steps], np.repeat(range(steps), 2))
            found[episode.id] = (metadata["status"], steps)
    return found


def test_in_worker_processes(tmp_path: Path) -> None:
    with script(tmp_path, IN_WORKERS) as process:
        wait_for(process, tmp_path / "ready 0", tmp_path / "ready 1")
        errors = interrupt(process)
    assert errors.count("Traceback") == 1
    found = check(tmp_path)
    assert list(found) == [0, 1]
    assert {status for status, _ in found.values()} == {"interrupted"}
    assert min(steps for _, steps in found.values()) > 300


def test_in_a_rollout_that_does_not_listen(tmp_path: Path) -> None:
    with script(tmp_path, STUBBORN) as process:
        wait_for(process, tmp_path / "ready 0")
        interrupt(process)
    assert check(tmp_path) == {0: ("interrupted", 301)}


@pytest.mark.parametrize(
    "options",
    [
        "",
        "async_write=True, n_async_workers=2",
        "buffer_dir='/dev/shm'",
        "buffer_dir='/dev/shm', async_write=True, n_async_workers=1",
    ],
)
def test_in_a_plain_loop(tmp_path: Path, options: str) -> None:
    with script(tmp_path, IN_LOOP.format(options=options)) as process:
        wait_for(process, tmp_path / "ready 0")
        interrupt(process)
    found = check(tmp_path)
    assert found[9] == ("interrupted", 1)
    assert found[0][0] == "interrupted"
    assert found[0][1] > 300


def test_in_a_loop_of_short_episodes(tmp_path: Path) -> None:
    with script(tmp_path, SHORT_ONES) as process:
        wait_for(process, tmp_path / "ready 0")
        interrupt(process)
    found = check(tmp_path)
    assert len(found) > 10
    assert set(list(found.values())[:-1]) == {("completed", 20)}
    assert list(found.values())[-1][0] in ("completed", "interrupted", "empty")


def test_from_another_thread_which_ends_no_system_call(tmp_path: Path) -> None:
    """So does Ray cancel: a message from a writer is then there, and half read."""
    options = {"chunk_size": 64, "async_write": True, "n_async_workers": 1, "progress": False}
    with DataExporter("test", tmp_path, **options) as exporter:  # type: ignore[arg-type]
        for _ in range(10):
            with pytest.raises(KeyboardInterrupt), exporter.start_episode() as episode:
                log_until_interrupted(episode)
    assert {status for status, _ in check(tmp_path).values()} == {"interrupted"}


def log_until_interrupted(episode: Episode) -> None:
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    try:
        for t in itertools.count():
            behavior = {"y": np.full(2000, t), "x": float(t)}
            episode.log_timestep(t, behavior=behavior, spike_ids=[t, t], reward=1.0)
    finally:
        timer.join()


def test_a_child_never_sees_the_ctrl_c_of_a_terminal() -> None:
    """Not even while it starts; its parent ends it."""
    child = Child("merge.describing:serve")
    try:
        os.kill(child.pid, signal.SIGINT)
        child.link.send("shardwriter.errors:ranges")
        child.link.send([[1, 2, 5]])
        assert child.link.recv() == ["1-2, 5"]
    finally:
        child.kill()
        child.wait()
