"""Rollouts in worker processes: what each costs when it fails, and what comes back."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from known_episode import KnownEpisode, assert_same, tables_by_loader

from shardwriter import DataExporter, EpisodeResult, ExperimentLoader
from shardwriter.errors import ConfigError, EpisodesFailed, WorkerFailed
from shardwriter.recording.episode import Episode


def good(episode: Episode) -> dict[str, Any]:
    KnownEpisode(episode.id).log(episode)
    return {"id": episode.id, "mean": np.float32(0.5)}


def raises(episode: Episode) -> None:
    KnownEpisode(episode.id).log(episode)
    raise ValueError(f"on purpose in {episode.id} — ü \udcff")


def dies(how: Callable[[], Any]) -> Callable[[Episode], None]:
    def rollout(episode: Episode) -> None:
        KnownEpisode(episode.id).log(episode)
        how()

    return rollout


def kill_writer(episode: Episode) -> dict[str, Any]:
    """Kill the writer process half-way."""
    known = KnownEpisode(episode.id)
    episode.log_static_data("maze", known.static())
    for t in range(known.steps):
        if t == known.steps // 2:
            for child in psutil.Process().children():
                child.kill()
        known.log_step(episode, t)
    return {"id": episode.id}


def ends_itself(episode: Episode) -> None:
    KnownEpisode(episode.id).log(episode)
    episode.end(success=False, summary={"own": True})


def unstorable(episode: Episode) -> Any:
    KnownEpisode(episode.id).log(episode)
    return object()


SIGKILL, SIGSEGV, SIGTERM = int(signal.SIGKILL), int(signal.SIGSEGV), int(signal.SIGTERM)
# What each episode does, how it ends, and what its error begins with.
CASES: list[tuple[Callable[[Episode], Any], str, str | None]] = [
    (good, "completed", None),
    (raises, "failed", "ValueError: on purpose in 1 — ü \\udcff"),
    (good, "completed", None),
    (dies(lambda: os._exit(3)), "interrupted", "its process died (exit code 3)"),
    (dies(lambda: os._exit(0)), "interrupted", "its process died (exit code 0)"),
    (raises, "failed", "ValueError: on purpose in 5"),
    (
        dies(lambda: os.kill(os.getpid(), SIGKILL)),
        "interrupted",
        f"its process died (signal {SIGKILL}, SIGKILL)",
    ),
    (
        dies(lambda: ctypes.string_at(0)),
        "interrupted",
        f"its process died (signal {SIGSEGV}, SIGSEGV)",
    ),
    (dies(lambda: sys.exit(0)), "interrupted", "SystemExit: 0"),
    (unstorable, "failed", "FieldError: episode 9, summary"),
    (kill_writer, "completed", None),
    (ends_itself, "completed", None),
    (lambda episode: None, "empty", None),
    (good, "completed", None),
]


@dataclass(frozen=True)
class Run:
    directory: Path
    results: list[EpisodeResult]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run one rollout that does something else in each episode."""
    with DataExporter(
        "unlucky",
        tmp_path_factory.mktemp("engines"),
        progress=False,
        neural_sampling_rate=3,
        chunk_size=16,
    ) as exporter:
        # A closure over lambdas: it travels by value.
        results = exporter.run_episodes(
            lambda episode: CASES[episode.id][0](episode),
            range(len(CASES)),
            n_workers=2,
            on_error="continue",
        )
    return Run(exporter.output_dir, results)


def test_every_episode_has_a_result_in_the_order_given(run: Run) -> None:
    assert [result.episode for result in run.results] == list(range(len(CASES)))
    found = [(result.status, (result.error or "")[:20]) for result in run.results]
    assert found == [(status, (error or "")[:20]) for _, status, error in CASES]


def test_a_result_says_what_happened(run: Run) -> None:
    for result, (_, _, error) in zip(run.results, CASES, strict=True):
        assert result.is_good == (error is None)
        assert result.shard == run.directory / f"shards/episode_{result.episode:04d}.h5"
        text = (result.error or "").encode(errors="backslashreplace").decode()
        assert text.startswith(error or "")
        assert error is not None or result.error is None
    assert run.results[1].traceback is not None
    assert "in raises" in run.results[1].traceback


def test_summaries_come_back_and_are_kept(run: Run) -> None:
    """Also those of episodes whose worker died before it could report them."""
    with ExperimentLoader(run.directory) as loader:
        for episode in (0, 2, 13):
            assert run.results[episode].summary == {"id": episode, "mean": np.float32(0.5)}
            kept = loader.get_episode(episode).get_metadata()["summary"]
            assert kept == {"id": episode, "mean": np.float32(0.5)}
        assert loader.get_episode(11).get_metadata()["summary"] == {"own": True}
        assert loader.get_episode(11).get_metadata()["success"] is False


def test_what_was_logged_is_kept_whatever_happened(run: Run) -> None:
    with ExperimentLoader(run.directory) as loader:
        assert loader.list_episodes() == list(range(len(CASES)))
        for episode, (rollout, _, _) in enumerate(CASES[:12]):
            found = tables_by_loader(loader, episode)
            del found["weight_changes/deltas"]
            assert_same(found, KnownEpisode(episode).tables)
            static = loader.get_episode(episode).get_static_data("maze")
            assert static["name"] == f"maze {episode} — größer", rollout


def test_the_shards_say_what_the_results_say(run: Run) -> None:
    with ExperimentLoader(run.directory) as loader:
        statuses = [status.decode() for status in loader.episode_index["status"].tolist()]
        assert statuses == [status for _, status, _ in CASES]
        failed = loader.get_episode(1).get_metadata()
    assert failed["error"] == "ValueError: on purpose in 1 — ü \\udcff"
    assert "in raises" in failed["traceback"]


def test_nothing_is_left_beside_the_shards(run: Run) -> None:
    names = sorted(path.name for path in (run.directory / "shards").iterdir())
    assert names == [f"episode_{episode:04d}.h5" for episode in range(len(CASES))]


# -- errors -------------------------------------------------------------------------------


def test_failures_are_raised_at_the_end(tmp_path: Path) -> None:
    def rollout(episode: Episode) -> int:
        episode.log_timestep(0, behavior={"x": 1})
        if episode.id % 2:
            raise ValueError(f"{episode.id} is odd\nand there is more")
        return episode.id

    with DataExporter("test", tmp_path, progress=False) as exporter:
        with pytest.raises(EpisodesFailed) as caught:
            exporter.run_episodes(rollout, [4, 1, 2, 3], n_workers=1)
        again = exporter.run_episodes(rollout, [1, 6], n_workers=1, on_error="continue")
    assert str(caught.value) == (
        "2 of 4 episodes failed (1, 3); what they logged is kept\n"
        "  episode 1: ValueError: 1 is odd\n"
        "  episode 3: ValueError: 3 is odd"
    )
    results = caught.value.results
    assert [result.episode for result in results] == [4, 1, 2, 3]
    assert [result.summary for result in results] == [{"value": 4}, None, {"value": 2}, None]
    assert again[0].status == "failed"
    assert again[0].error.startswith("EpisodeExists: episode 1: expected an id not yet used")
    assert again[1].is_good
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == [1, 2, 3, 4, 6]


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


class Unpicklable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("I stay here")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (Unloadable(), "rollout: expected what a worker process can unpickle, got"),
        (Unpicklable(), "rollout: expected what cloudpickle can send to a worker process, got"),
    ],
    ids=["unloadable", "unpicklable"],
)
def test_a_rollout_that_cannot_travel_is_an_error_not_a_hang(
    tmp_path: Path, what: object, text: str
) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        with pytest.raises(ConfigError) as caught:
            exporter.run_episodes(lambda episode: what, range(3), n_workers=2)
        assert str(caught.value).startswith(text)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == []


def test_workers_that_cannot_start_are_an_error_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardwriter.engines.local._WORKER", "shardwriter.no_such_module:serve")
    text = "3 in a row ended before they took an episode"
    with (
        DataExporter("test", tmp_path, progress=False) as exporter,
        pytest.raises(WorkerFailed, match=text),
    ):
        exporter.run_episodes(good, range(3), n_workers=1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((good, [0], 0), "n_workers: expected an int, at least 1, got 0"),
        ((good, [0], 1.5), "n_workers: expected an int, at least 1, got 1.5"),
        ((good, [0], "2"), "n_workers: expected an int, at least 1, got '2'"),
        ((good, [0, 1, 0], 1), "episodes: expected each id once, got 0"),
        ((good, 3, 1), "episodes: expected ids, such as range(100), got 3"),
        ((good, [-1], 1), "episode_id: expected an int from 0 to"),
        ((good, [0.5], 1), "episode_id: expected an int from 0 to"),
        ((None, [0], 1), "rollout: expected a function"),
        ((divmod, [0], 1), "rollout: expected a function that is called with an episode and"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    tmp_path: Path, arguments: Any, text: str
) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        with pytest.raises(ConfigError) as caught:
            exporter.run_episodes(*arguments)
        assert str(caught.value).startswith(text)
        with pytest.raises(ConfigError, match="on_error: expected 'raise' or 'continue'"):
            exporter.run_episodes(good, [0], on_error="ignore")
        assert list((exporter.output_dir / "shards").iterdir()) == []


# -- the rest -----------------------------------------------------------------------------


def test_no_episode_at_all_is_no_result(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        assert exporter.run_episodes(good, []) == []
        assert exporter.run_episodes(good, iter(())) == []
