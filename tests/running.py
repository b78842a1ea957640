"""What the tests of the command `run` share: a module to run, and ways to run it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from shardwriter import ExperimentLoader
from shardwriter.cli import main

DOCS = Path(__file__).parent.parent / "docs"
PATIENCE_S = 60.0

MAZE = """
import os, time
from pathlib import Path

def rollout(episode, steps=20, fails=()):
    for t in range(steps):
        episode.log_timestep(t, behavior={"x": t / 2}, reward=1.0)
    if episode.id in fails:
        raise ValueError("the maze\\nis closed")
    return {"last": t}

def waits_once(episode):
    mark = Path(os.environ["MARKS"]) / f"{episode.id}"
    is_first = not mark.exists()
    for t in range(50):
        episode.log_timestep(t, behavior={"x": t / 2}, reward=1.0)
    mark.touch()
    while is_first and episode.id in (2, 3):
        time.sleep(0.01)

def needs(episode, steps):
    rollout(episode, steps)

def of_two(episode, /, other, another):
    pass

number = 3

class Namespace:
    rollout = staticmethod(rollout)
"""


def run(*arguments: object, rollout: str = "maze:rollout", episodes: str = "0:4") -> int:
    return main(["run", rollout, "--episodes", episodes, *map(str, arguments)])


def written(place: Path, content: object, name: str = "config.json") -> Path:
    (place / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return place / name


def only(folder: Path) -> Path:
    [directory] = folder.iterdir()
    return directory


def steps(directory: Path) -> dict[int, int]:
    with ExperimentLoader(directory) as loader:
        return {episode.id: len(episode.get_behavior()["x"]) for episode in loader}


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": paths, "PATH": binaries, **more}


def without_privilege() -> list[str]:
    """Return what makes a command subject to permissions where the tests run as root."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def started(*arguments: object, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shardwriter", "run", *map(str, arguments)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} did not appear"
        time.sleep(0.01)
