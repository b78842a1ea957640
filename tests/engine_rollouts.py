"""Rollouts that the tests of engines run in workers, and what their experiments hold."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import h5py
import pytest
from filelock import FileLock
from merging import content, shards_content

from shardwriter import DataExporter
from shardwriter.demo.forager import rollout as forage
from shardwriter.episode import Episode

EPISODES = 200
OPTIONS = {"seed": 3, "neural_sampling_rate": 5, "progress": False}
_STEPS = 12
_VOLATILE = ("@start_time", "@end_time", "@uuid")


def live(episode: Episode) -> dict[str, float]:
    """Let the demo's agent live for a moment."""
    return forage(episode, steps=_STEPS, circuit_seed=11)


class DiesOnce:
    """Runs `live`; the first time that it has an episode of `which`, its process is killed."""

    def __init__(self, which: set[int], marks: Path) -> None:
        self.which = which
        self.marks = marks

    def __call__(self, episode: Episode) -> dict[str, float]:
        summary = live(episode)
        mark = self.marks / f"died {episode.id}"
        if episode.id in self.which and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return summary


def dies(episode: Episode) -> None:
    """Log a row, and die in every odd episode."""
    episode.log_timestep(0, reward=1.0)
    if episode.id % 2:
        os.kill(os.getpid(), signal.SIGKILL)


def logical(directory: Path) -> dict[str, Any]:
    """Return all that the shards of an experiment hold, but when they were recorded."""
    found = shards_content(directory)
    return {name: value for name, value in found.items() if not name.endswith(_VOLATILE)}


def local_run(factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the local engine records; once for all the processes that run tests."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else None
    place = shared or factory.getbasetemp()
    kept = place / "local_run.pickle"
    with FileLock(place / "local_run.lock"):
        if not kept.exists():
            with DataExporter("local", place, **OPTIONS) as exporter:  # type: ignore[arg-type]
                exporter.run_episodes(live, range(EPISODES), n_workers=2)
            kept.write_bytes(pickle.dumps(logical(exporter.output_dir)))
        found: dict[str, Any] = pickle.loads(kept.read_bytes())
    return found


def check_kept_attempt(directory: Path, episode: int, reference: dict[str, Any]) -> None:
    """Make sure that the attempt whose worker was killed is kept with every row."""
    attempts = directory / "shards" / "attempts"
    [kept] = attempts.glob(f"episode_{episode:04d}.*")
    place = f"episodes/episode_{episode:04d}"
    with h5py.File(kept) as file:
        assert file[place].attrs["status"] == "interrupted"
        found = content(file[place])
    tables = tuple(f"{place}/{table}/" for table in ("behavior", "neural_states", "weight_changes"))
    expected = {k: v for k, v in reference.items() if k.startswith(tables) and "@" not in k}
    assert len(expected) > 5
    assert {name: found[name.removeprefix(f"{place}/")] for name in expected} == expected
