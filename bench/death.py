"""How soon is a process that was killed missed, and how soon is its episode whole again?

Time runs from SIGKILL, on the clock that all processes of a machine share. A death is noticed when
the process that waits for it takes its exit code, or is told that its parent has ended; from then
on it replaces or seals. The limit is a bare wait for the pidfd of a process that records: it ends
when the kernel has torn the process down, which takes the longer the more memory it has and the
busier the machine is. Each round gives the median of its deaths.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from statistics import median

from bench.findings import Figure, Findings, Setting, figure, interleaved
from bench.machine import descendants
from bench.readback import ReadBackError
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.recording.episode import Episode
from shardwriter.system.process import Child, Parent

__all__ = ["measure", "watch"]

N_STEPS = 1_000
PATIENCE_S = 60.0
# A process that it forked outlives it, and holds the link to the writer open.
PRODUCER = """
import os, signal, sys, time
from pathlib import Path
from shardwriter.system.process import Child

writer = Child("bench.death:watch", {"NOTICED": sys.argv[2]})
writer.link.recv()
if os.fork() == 0:
    time.sleep(1)
    os._exit(0)
Path(sys.argv[1]).write_text(repr(time.monotonic()))
os.kill(os.getpid(), signal.SIGKILL)
"""

RECORDER = """
import sys
from shardwriter import DataExporter

exporter = DataExporter("death", sys.argv[1], progress=False)
episode = exporter.start_episode(0)
for t in range(1_000):
    episode.log_timestep(t, behavior={"x": float(t)})
print("ready", flush=True)
input()
"""


def measure(setting: Setting) -> Findings:
    """Kill rollout processes, writers, and processes whose writer goes on."""
    count = 2 if setting.is_quick else 10
    deaths: dict[str, Callable[[Path], dict[str, float]]] = {
        "rollout": _of_a_rollout,
        "writer": _of_a_writer,
        "producer": _of_a_producer,
        "pidfd": _of_a_bare_wait,
    }
    rounds = interleaved(
        {name: partial(_typical, kill, count, setting.folder) for name, kill in deaths.items()},
        setting,
    )

    def noticed(name: str, what: str) -> Figure:
        # The others are smaller than a process that records, and sooner torn down.
        limit = ("pidfd noticed", "a bare wait for a pidfd") if name == "rollout" else None
        values = f"{name} noticed"
        return figure(f"death/{name}", what, rounds, values, "ms", is_rate=False, ceiling=limit)

    def whole(name: str, what: str) -> Figure:
        key = f"death/{name}/published"
        return figure(key, what, rounds, f"{name} published", "ms", is_rate=False)

    return Findings(
        figures=[
            noticed("rollout", "a killed rollout process is noticed by run_episodes"),
            noticed("writer", "a killed writer is noticed by the process that waits for it"),
            noticed("producer", "a killed process is noticed by its writer"),
            whole("rollout", "a killed rollout process: until its shard is published"),
            whole("writer", "a killed writer: until another has published the shard"),
        ]
    )


def watch(parent: Parent) -> None:
    """Wait as a writer does, and note when its parent has ended."""
    parent.link.send("ready")
    try:
        parent.receive()
    except EOFError:
        Path(os.environ["NOTICED"]).write_text(repr(time.monotonic()))


def _typical(
    kill: Callable[[Path], dict[str, float]], count: int, folder: Path
) -> dict[str, float]:
    """Return the median of each duration, in ms, over several deaths."""
    found = []
    for _ in range(count):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            found.append(kill(Path(place)))
    return {name: 1e3 * median(each[name] for each in found) for name in found[0]}


@contextmanager
def _ends_noted() -> Iterator[list[float]]:
    """Note when this process takes a child's exit code."""
    noted: list[float] = []
    original = Child.wait

    def timed(child: Child) -> int:
        noted.append(time.monotonic())
        return original(child)

    Child.wait = timed
    try:
        yield noted
    finally:
        Child.wait = original


def _of_a_rollout(place: Path) -> dict[str, float]:
    killed = place / "killed"

    def rollout(episode: Episode) -> None:
        _log(episode)
        killed.write_text(repr(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)

    exporter = DataExporter("death", place, progress=False)
    with _ends_noted() as ends:
        exporter.run_episodes(rollout, range(1), n_workers=1, on_error="continue")
    exporter.close()
    at = float(killed.read_text())
    return {"noticed": ends[0] - at, "published": _published(exporter) - at}


def _of_a_writer(place: Path) -> dict[str, float]:
    exporter = DataExporter("death", place, progress=False, async_write=True, n_async_workers=1)
    episode = exporter.start_episode(0)
    _log(episode)
    (writer,) = descendants()
    os.kill(writer, signal.SIGSTOP)  # so that it cannot be done before it is killed
    episode.end()
    killed = []

    def kill() -> None:
        killed.append(time.monotonic())
        os.kill(writer, signal.SIGKILL)

    killer = threading.Timer(0.05, kill)
    with _ends_noted() as ends:
        killer.start()
        episode.wait()
    killer.join()
    exporter.close()
    return {"noticed": ends[0] - killed[0], "published": _published(exporter) - killed[0]}


def _of_a_producer(place: Path) -> dict[str, float]:
    killed, noticed = place / "killed", place / "noticed"
    subprocess.run([sys.executable, "-c", PRODUCER, killed, noticed], check=False)
    deadline = time.monotonic() + PATIENCE_S
    while not (noticed.exists() and noticed.read_text()):
        if time.monotonic() > deadline:
            raise RuntimeError("the producer's death was not noticed")
        time.sleep(0.01)
    return {"noticed": float(noticed.read_text()) - float(killed.read_text())}


def _of_a_bare_wait(place: Path) -> dict[str, float]:
    command = [sys.executable, "-c", RECORDER, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        process.stdout.readline()
        killed = time.monotonic()
        process.kill()
        wait([pidfd])
        noticed = time.monotonic()
    os.close(pidfd)
    return {"noticed": noticed - killed}


def _log(episode: Episode) -> None:
    for t in range(N_STEPS):
        episode.log_timestep(t, behavior={"x": float(t)})


def _published(exporter: DataExporter) -> float:
    """Return when the one shard got its name, and check that it holds every row."""
    (shard,) = (exporter.output_dir / "shards").glob("*.h5")
    with ExperimentLoader(exporter.output_dir) as loader:
        if loader.get_episode(0).get_behavior()["x"].tolist() != list(range(N_STEPS)):
            raise ReadBackError("behavior/x", f"{shard}: expected every row that was logged")
    return shard.stat().st_ctime - (time.time() - time.monotonic())
