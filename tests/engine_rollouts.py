"""Rollouts that the tests of engines run in workers, and what their experiments hold."""

import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import h5py
import pytest
from merging import content, shards_content
from running import wait_for

from shardwriter import DataExporter, EpisodeResult, ExperimentLoader
from shardwriter.demo.forager import rollout as forage
from shardwriter.recording.episode import Episode
from shardwriter.system.locks import locked

EPISODES = 200
OPTIONS = {"seed": 3, "neural_sampling_rate": 5, "progress": False}
_STEPS = 12
_KILLED = 57
_ENOUGH = 30
_VOLATILE = ("@start_time", "@end_time", "@uuid", "@_crc32")


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
    with locked(place / "local_run.lock"):
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


def exporter_in(place: Path, name: str = "test") -> DataExporter:
    """Return an exporter that records as the local run does."""
    return DataExporter(name, place, **OPTIONS)  # type: ignore[arg-type]


def check_survives(
    place: Path,
    executor: Executor | Callable[[], Executor],
    reference: dict[str, Any],
) -> None:
    """Record all episodes, one worker being killed; make sure that nothing is missing."""
    with exporter_in(place) as exporter:
        results = exporter.run_episodes(
            DiesOnce({_KILLED}, place), range(EPISODES), executor=executor, retries=1
        )
    assert [result.status for result in results] == ["completed"] * EPISODES
    assert (place / f"died {_KILLED}").exists()
    assert logical(exporter.output_dir) == reference
    check_kept_attempt(exporter.output_dir, _KILLED, reference)


def check_command(
    place: Path,
    reference: dict[str, Any],
    engine: str,
    *options: str,
    launcher: Sequence[str | Path] = (sys.executable,),
    **variables: str,
) -> None:
    """Record all episodes by `shardwriter run`; make sure that they are as the local run's."""
    config = {name: value for name, value in OPTIONS.items() if name != "progress"}
    (place / "config.json").write_text(json.dumps(config))
    command = [*launcher, "-m", "shardwriter", "run", "engine_rollouts:live", "--json"]
    command += ["--episodes", f"0:{EPISODES}", "--config", "config.json", "--engine", engine]
    done = subprocess.run(
        [*command, *options],
        cwd=place,
        env=_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [directory] = (place / "experiments").iterdir()
    assert f'"directory": "{directory}"' in done.stdout
    assert logical(directory) == reference


class WaitsForOthers:
    """Logs a row; episode 0 ends only when a result of another one has come."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, episode: Episode) -> None:
        episode.log_timestep(0, reward=1.0)
        deadline = time.monotonic() + 60
        while episode.id == 0 and not self.mark.exists():
            assert time.monotonic() < deadline, "no result came while this episode ran"
            time.sleep(0.02)


class Enough(Exception):
    """What the caller's own function raises."""


def check_stream(
    place: Path, executor: Executor | Callable[[], Executor], n_workers: int = 2
) -> None:
    """Make sure that results come as they are there, ids are taken late, and an error cancels."""
    taken, done, mark = 0, 0, place / "a result has come"

    def ids() -> Iterator[int]:
        nonlocal taken
        for episode in range(1_000_000):
            assert taken - done <= 2 * n_workers
            taken += 1
            yield episode

    def count(result: EpisodeResult) -> None:
        nonlocal done
        assert result.is_good or done >= _ENOUGH  # what had not begun is told of, too
        done += 1
        mark.touch()
        if done == _ENOUGH:
            raise Enough

    with exporter_in(place) as exporter:
        with pytest.raises(Enough):
            exporter.run_episodes(WaitsForOthers(mark), ids(), executor=executor, on_result=count)
        assert not list(exporter.output_dir.glob(".*"))
    assert taken <= _ENOUGH + 2 * n_workers
    shards = list((exporter.output_dir / "shards").iterdir())
    assert _ENOUGH <= len(shards) <= taken
    with ExperimentLoader(exporter.output_dir) as loader:
        assert len(loader.episode_index) == len(shards)


# -- told to stop -------------------------------------------------------------------------------


def endless(episode: Episode, marks: str) -> None:
    """Log without end, and leave a mark that it has begun to."""
    for t in itertools.count():
        episode.log_timestep(t, behavior={"x": float(t)})
        if t == 300:
            Path(marks, f"ready {episode.id}").touch()


def check_stopped(
    place: Path,
    number: signal.Signals,
    engine: str,
    *options: str,
    launcher: Sequence[str | Path] = (sys.executable,),
    **variables: str,
) -> float:
    """Signal a `shardwriter run`, as a terminal does; return how long it took to end.

    Make sure that what ran is sealed as interrupted, and nothing else is left.
    """
    (place / "config.json").write_text(json.dumps({"marks": str(place), "chunk_size": 64}))
    command = [*launcher, "-m", "shardwriter", "run", "engine_rollouts:endless", "--engine", engine]
    job = subprocess.Popen(
        [*command, "--episodes", "0:9", "--config", "config.json", "--into", "all", *options],
        cwd=place,
        env=_environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(place / "ready 0", place / "ready 1")
    start = time.monotonic()
    os.killpg(job.pid, number)
    _, errors = job.communicate(timeout=60)
    took_s = time.monotonic() - start
    assert "go on with: " in errors
    assert job.returncode in (128 + number, -number), errors
    statuses = {}
    with ExperimentLoader(place / "all") as loader:
        for episode in loader:
            x = episode.get_behavior()["x"]
            assert x.tolist() == list(range(len(x)))
            statuses[episode.id] = episode.get_metadata()["status"], len(x) > 300
    assert [statuses[i] for i in (0, 1)] == [("interrupted", True)] * 2
    shards = [path.name for path in (place / "all" / "shards").iterdir()]
    assert sorted(shards) == [f"episode_{i:04d}.h5" for i in sorted(statuses)]
    assert not list((place / "all").glob(".rollout*"))
    return took_s


def _environment(**variables: str) -> dict[str, str]:
    folders = [str(Path(__file__).parent), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **variables}
