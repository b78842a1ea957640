"""Running again: retries, skipping what is done, resuming, and being told to stop."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ConfigError, ExperimentNotFound
from shardwriter.recording.episode import Episode

ENDS_WITHIN_S = 30.0  # generous: the machine may be busy


def fails_at_first(counts: Path, how: str):
    """Return a rollout that logs 10 steps and fails in the first attempt of odd episodes."""

    def rollout(episode: Episode) -> None:
        attempt = counts / f"{episode.id}"
        is_first = not attempt.exists()
        attempt.touch()
        for i in range(10 if is_first else 20):
            episode.log_timestep(i, behavior={"x": float(i)})
        if is_first and episode.id % 2:
            if how == "raise":
                raise ValueError("first attempt")
            os.kill(os.getpid(), signal.SIGKILL)

    return rollout


def steps(loader: ExperimentLoader) -> dict[int, int]:
    return {e.id: len(e.get_behavior()["timesteps"]) for e in loader}


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_failed_episode_is_run_again_and_its_attempt_kept(tmp_path: Path, how: str) -> None:
    (tmp_path / "counts").mkdir()
    with DataExporter("again", tmp_path) as exporter:
        rollout = fails_at_first(tmp_path / "counts", how)
        results = exporter.run_episodes(rollout, range(3), n_workers=2, retries=1)
    assert [(r.episode, r.status) for r in results] == [(i, "completed") for i in range(3)]
    attempts = exporter.output_dir / "shards" / "attempts"
    assert [path.name for path in attempts.iterdir()] == ["episode_0001.1.h5"]
    with ExperimentLoader(exporter.output_dir) as loader:
        assert steps(loader) == {0: 10, 1: 20, 2: 10}


def test_an_episode_that_keeps_failing_keeps_every_attempt(tmp_path: Path) -> None:
    def rollout(episode: Episode) -> None:
        episode.log_timestep(0, reward=1.0)
        raise ValueError("always")

    with DataExporter("never", tmp_path) as exporter:
        [result] = exporter.run_episodes(rollout, [4], n_workers=1, retries=2, on_error="continue")
    assert result.status == "failed"
    names = {path.name for path in (exporter.output_dir / "shards").rglob("*.h5")}
    assert names == {"episode_0004.h5", "episode_0004.1.h5", "episode_0004.2.h5"}


def test_retries_leave_an_id_alone_that_another_has(tmp_path: Path) -> None:
    with DataExporter("taken", tmp_path) as exporter:
        exporter.start_episode(0).end()
        shard = exporter.output_dir / "shards" / "episode_0000.h5"
        before = shard.read_bytes()
        [result] = exporter.run_episodes(
            lambda episode: None, [0], n_workers=1, retries=3, on_error="continue"
        )
    assert "EpisodeExists" in str(result.error)
    assert shard.read_bytes() == before


@pytest.mark.parametrize("retries", [-1, 1.0, True])
def test_retries_must_be_a_count(tmp_path: Path, retries: object) -> None:
    with DataExporter("bad", tmp_path) as exporter, pytest.raises(ConfigError, match="retries"):
        exporter.run_episodes(lambda episode: None, [0], retries=retries)  # type: ignore[arg-type]


def test_a_killed_experiment_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from shardwriter import DataExporter
        exporter = DataExporter("long", {str(tmp_path)!r}, neural_sampling_rate=7, seed=5)
        exporter.save_metadata({{"who": "me"}})
        for number in range(3):
            episode = exporter.start_episode(number)
            for i in range(20):
                episode.log_timestep(i, behavior={{"x": float(i)}})
            if number < 2:
                episode.end()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    [directory] = tmp_path.iterdir()
    first = (directory / "shards" / "episode_0000.h5").read_bytes()

    def rollout(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"x": 0.0}, neural_state={"v": [0.0]})

    with DataExporter.resume(directory) as exporter:
        assert exporter.experiment_name == "long"
        results = exporter.run_episodes(rollout, range(5), n_workers=1, skip_existing=True)
    assert [r.status for r in results] == ["completed"] * 5
    assert (directory / "shards" / "episode_0000.h5").read_bytes() == first
    with ExperimentLoader(directory) as loader:
        assert steps(loader) == {0: 20, 1: 20, 2: 1, 3: 1, 4: 1}
        assert loader.get_metadata()["who"] == "me"
        assert loader.get_metadata()["neural_sampling_rate"] == 7
    [kept] = (directory / "shards" / "attempts").iterdir()
    assert kept.name == "episode_0002.1.h5"


def test_only_an_experiment_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ExperimentNotFound, match="directory that a DataExporter made"):
        DataExporter.resume(tmp_path)


@pytest.mark.parametrize("way", ["alone", "workers"])
def test_sigterm_ends_seals_and_merges(tmp_path: Path, way: str) -> None:
    script = f"""
        import time
        from shardwriter import DataExporter
        def rollout(episode):
            for i in range(10**6):
                episode.log_timestep(i, behavior={{"x": float(i)}})
                if i == 50:
                    open({str(tmp_path)!r} + f"/ready{{episode.id}}", "w").close()
                if i > 50:
                    time.sleep(0.01)
        with DataExporter("cut", {str(tmp_path / "out")!r}) as exporter:
            if {way!r} == "alone":
                rollout(exporter.start_episode(0))
            else:
                exporter.run_episodes(rollout, range(1), n_workers=1)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not (tmp_path / "ready0").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(ENDS_WITHIN_S) == 128 + signal.SIGTERM
    [directory] = (tmp_path / "out").iterdir()
    with ExperimentLoader(directory) as loader:
        episode = loader.get_episode(0)
        assert episode.get_metadata()["status"] == "interrupted"
        assert len(episode.get_behavior()["x"]) > 50
