"""Rollouts in somebody else's executor: those of the standard library."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_rollouts import (
    check_survives,
    dies,
    exporter_in,
    live,
    local_run,
)

from shardwriter import EpisodeResult, ExperimentLoader
from shardwriter.errors import ConfigError, EpisodesFailed, ExecutorBroken, WorkerFailed
from shardwriter.recording.episode import Episode
from shardwriter.system.process import Identity


def pool(method: str = "spawn", workers: int = 2, **options: Any) -> ProcessPoolExecutor:
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, mp_context=context, **options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_that_breaks_is_made_again_and_records_the_same(
    tmp_path: Path, reference: dict[str, Any], method: str
) -> None:
    check_survives(tmp_path, partial(pool, method), reference)


def test_a_pool_that_is_given_is_left_open(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, pool(workers=1) as executor:
        first = exporter.run_episodes(os_pid, [0, 1], executor=executor)
        second = exporter.run_episodes(os_pid, [2], executor=executor)
        assert executor.submit(os.getpid).result() == first[0].summary["value"]
    pids = {result.summary["value"] for result in [*first, *second]}
    assert len(pids) == 1
    # The second run closed the recorder of the first; episodes of one run share a writer.
    writers = [result.summary["writers"] for result in [*first, *second]]
    assert writers[0] == writers[1]
    assert len(writers[1]) == len(writers[2]) == 1
    assert writers[1] != writers[2]


def os_pid(episode: Episode) -> dict[str, Any]:
    episode.log_timestep(0, reward=1.0)
    children = psutil.Process().children()
    writers = [c.pid for c in children if "writer_server" in " ".join(c.cmdline())]
    return {"value": os.getpid(), "writers": writers}


def test_a_broken_pool_that_was_given_is_one_clear_error(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter:
        seen: list[EpisodeResult] = []
        with pool(workers=1) as executor, pytest.raises(ExecutorBroken) as caught:
            exporter.run_episodes(dies, range(100), executor=executor, on_result=seen.append)
        text = str(caught.value)
        assert text.startswith(
            "run_episodes: expected an executor that outlives its workers, got a "
            "ProcessPoolExecutor that broke while it had episodes 1"
        )
        assert "executor=lambda: ProcessPoolExecutor(...)" in text
        with pool(workers=1) as executor:  # as the error advises
            left = exporter.run_episodes(
                lambda episode: None, range(3), executor=executor, skip_existing=True
            )
    assert [result.status for result in seen][:2] == ["completed", "interrupted"]
    assert str(seen[1].error).startswith("its process died (BrokenProcessPool: ")
    assert [result.status for result in left] == ["completed", "empty", "empty"]


def test_a_pool_that_breaks_at_the_very_end_costs_only_its_episode(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, pool(workers=1) as executor:
        results = exporter.run_episodes(dies, [0, 1], executor=executor, on_error="continue")
    assert [result.status for result in results] == ["completed", "interrupted"]
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(1).get_rewards()["values"].tolist() == [1.0]


def test_retries_end(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, pytest.raises(EpisodesFailed, match="episode 1: its"):
        exporter.run_episodes(dies, [1], executor=partial(pool, workers=1), retries=1)
    attempts = exporter.output_dir / "shards" / "attempts"
    assert [path.name for path in attempts.iterdir()] == ["episode_0001.1.h5"]


def end_at_once() -> None:
    os._exit(3)


def test_workers_that_cannot_start_are_an_error_not_a_hang(tmp_path: Path) -> None:
    broken = partial(pool, workers=1, initializer=end_at_once)
    with exporter_in(tmp_path) as exporter, pytest.raises(WorkerFailed, match="BrokenProcessPool"):
        exporter.run_episodes(live, range(9), executor=broken)


# -- threads, in this very process ------------------------------------------------------------


def test_threads_have_a_recorder_each(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, ThreadPoolExecutor(2) as executor:
        results = exporter.run_episodes(through_barrier, range(6), executor=executor)
        stats = exporter.get_performance_stats()
    assert [result.summary for result in results] == [{"value": i} for i in range(6)]
    assert stats["episodes"] == 6
    assert stats["rows"] == 300


BOTH = threading.Barrier(2, timeout=60)  # of the module: a barrier cannot travel


def through_barrier(episode: Episode) -> int:
    BOTH.wait()  # both are open now
    for i in range(50):
        episode.log_timestep(i, behavior={"x": float(i)})
    return episode.id


def one_row(episode: Episode) -> None:
    episode.log_timestep(0, reward=1.0)


def test_a_million_ids_are_taken_as_workers_become_idle(tmp_path: Path) -> None:
    taken = itertools.count()
    ahead: list[int] = []
    done = 0

    class Enough(Exception):
        pass

    def ids() -> Iterator[int]:
        for episode in range(1_000_000):
            next(taken)
            ahead.append(episode - done)
            yield episode

    def count(_: EpisodeResult) -> None:
        nonlocal done
        done += 1
        if done == 30:
            raise Enough

    with exporter_in(tmp_path) as exporter:
        for n_workers, most in ((None, 4), (3, 3)):
            done = 0
            ahead.clear()
            with ThreadPoolExecutor(2) as executor, pytest.raises(Enough):
                exporter.run_episodes(
                    one_row,
                    (number + (n_workers or 0) * 1_000_000 for number in ids()),
                    n_workers,
                    executor=executor,
                    on_result=count,
                )
            assert max(ahead) <= most


def test_results_come_as_they_are_there(tmp_path: Path) -> None:
    order: list[int] = []
    with exporter_in(tmp_path) as exporter, ThreadPoolExecutor(2) as executor:
        results = exporter.run_episodes(
            late_first, range(4), executor=executor, on_result=lambda r: order.append(r.episode)
        )
    assert [result.episode for result in results] == [0, 1, 2, 3]
    assert sorted(order) == [0, 1, 2, 3]
    assert 0 not in order[:2]


OTHERS: Iterator[int] = itertools.count()
LAST = threading.Event()


def late_first(episode: Episode) -> None:
    if episode.id == 0:
        assert LAST.wait(60)
    elif next(OTHERS) == 2:
        LAST.set()


def test_local_results_come_as_they_are_there_too(tmp_path: Path) -> None:
    order: list[int] = []
    with exporter_in(tmp_path) as exporter:
        exporter.run_episodes(one_row, range(3), 1, on_result=lambda r: order.append(r.episode))
    assert order == [0, 1, 2]


# -- the end before the end -------------------------------------------------------------------


class Recording(ThreadPoolExecutor):
    """Keeps its futures."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(super().submit(fn, *args, **kwargs))
        return self.futures[-1]


def test_an_error_cancels_what_has_not_begun(tmp_path: Path) -> None:
    def fail(_: EpisodeResult) -> None:
        raise KeyError("mine")

    with exporter_in(tmp_path) as exporter, Recording(1) as executor:
        with pytest.raises(KeyError, match="mine"):
            exporter.run_episodes(one_row, range(50), 10, executor=executor, on_result=fail)
        assert any(future.cancelled() for future in executor.futures)
        assert len(executor.futures) <= 11
    assert not list(exporter.output_dir.glob(".*"))


ENDLESS = """
import itertools, multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from shardwriter import DataExporter

place = Path(sys.argv[1])

def rollout(episode):
    for t in itertools.count():
        episode.log_timestep(t, behavior={"x": float(t)})
        if t == 300:
            (place / f"ready {episode.id}").touch()

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with (
        DataExporter("test", place, progress=False) as exporter,
        ProcessPoolExecutor(2, mp_context=spawn) as pool,
    ):
        exporter.run_episodes(rollout, itertools.count(), executor=pool)
"""


def test_ctrl_c_interrupts_what_runs_in_a_pool(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready {i}").exists() for i in (0, 1)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=30)[1].decode()
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    [directory] = tmp_path.glob("test_*")
    with ExperimentLoader(directory) as loader:
        for episode in (0, 1):
            assert loader.get_episode(episode).get_metadata()["status"] == "interrupted"
            assert len(loader.get_episode(episode).get_behavior()["x"]) > 300
    assert not list(directory.glob(".*"))


# -- arguments --------------------------------------------------------------------------------


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_a_rollout_that_cannot_be_loaded_is_an_error_not_a_hang(tmp_path: Path) -> None:
    what = Unloadable()
    with exporter_in(tmp_path) as exporter, pool(workers=1) as executor:
        with pytest.raises(ConfigError, match="rollout: expected what a worker process can un"):
            exporter.run_episodes(lambda episode: what, range(3), executor=executor)
        lock = threading.Lock()
        with pytest.raises(ConfigError, match="rollout: expected what cloudpickle can send"):
            exporter.run_episodes(lambda episode: lock, range(3), executor=executor)


class Elsewhere(Executor):
    """An executor whose workers do not see the experiment's directory."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        path, *rest = args
        future: Future[Any] = Future()
        try:
            future.set_result(fn(path.replace("/test_", "/not_there_"), *rest))
        except ConfigError as error:
            future.set_exception(error)
        return future


def test_workers_that_do_not_share_the_directory_are_told_of(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, pytest.raises(ConfigError) as caught:
        exporter.run_episodes(live, range(3), executor=Elsewhere())
    assert "on every node, as a directory that all of them share, got 'none on host" in str(
        caught.value
    )


def test_what_is_no_executor_is_refused(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, pytest.raises(ConfigError, match="executor: expected"):
        exporter.run_episodes(live, range(3), executor=4)  # type: ignore[arg-type]


def test_an_id_in_use_is_an_error_of_its_episode(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter, ThreadPoolExecutor(1) as executor:
        exporter.start_episode(1).end()
        with exporter.start_episode(2):
            results = exporter.run_episodes(
                one_row, range(4), executor=executor, on_error="continue", retries=2
            )
    assert [result.status for result in results] == ["completed", "failed", "failed", "completed"]
    for result in results[1:3]:
        assert str(result.error).startswith("EpisodeExists: episode")


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    with exporter_in(tmp_path) as exporter:
        name = ".rollout-{}-0123.pickle"
        own = Identity.own()
        dead = Identity(own.host, own.boot_id, own.pid_namespace, own.pid, own.start_ticks + 1)
        for identity in (own, dead):
            (exporter.output_dir / name.format(identity.label)).touch()
        exporter.run_episodes(one_row, [0], 1)
        living = exporter.output_dir / name.format(own.label)
        assert list(exporter.output_dir.glob(".rollout*")) == [living]
        living.unlink()
