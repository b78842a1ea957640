"""Opening episodes: ids, seeds, several at once, in threads and in foreign processes."""

import multiprocessing
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import KnownEpisode, assert_same, tables_by_loader

from shardwriter import DataExporter, ExperimentLoader, Recorder
from shardwriter.errors import ConfigError, EpisodeExists
from shardwriter.recording.episode import Episode
from shardwriter.recording.recorder import episode_seed

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def exporter(tmp_path: Path) -> Any:
    with DataExporter("test", tmp_path, progress=False, seed=3) as exporter:
        yield exporter


def statuses(directory: Path) -> dict[int, str]:
    with ExperimentLoader(directory) as loader:
        index = loader.episode_index
    return {int(row["episode_id"]): row["status"].decode() for row in index}


# -- ids and seeds ------------------------------------------------------------------------


def test_ids_are_given_or_counted(exporter: DataExporter) -> None:
    given = [None, None, 7, None, np.int64(20_000), None]
    ids = [exporter.start_episode(episode_id).id for episode_id in given]
    assert (ids[:3], ids[4]) == ([0, 1, 7], 20_000)
    assert len(set(ids)) == len(ids)
    exporter.close()
    assert list(statuses(exporter.output_dir)) == sorted(ids)
    assert (exporter.output_dir / "shards" / "00" / "episode_20000.h5").exists()


@pytest.mark.parametrize("episode_id", [-1, 1.0, "1", True, 2**63], ids=repr)
def test_a_bad_id_is_refused(exporter: DataExporter, episode_id: Any) -> None:
    with pytest.raises(ConfigError, match="episode_id: expected an int"):
        exporter.start_episode(episode_id)
    assert list((exporter.output_dir / "shards").iterdir()) == []


def test_an_id_is_used_once(exporter: DataExporter) -> None:
    for end in (False, True):
        episode = exporter.start_episode(int(end))
        episode.log_timestep(0, behavior={"x": 1.0})
        if end:
            episode.end()
            episode.wait()
        with pytest.raises(EpisodeExists) as caught:
            exporter.start_episode(int(end))
        assert str(caught.value).startswith(f"episode {int(end)}: expected an id not yet used")
        assert str(exporter.output_dir) in str(caught.value)
    exporter.close()
    assert statuses(exporter.output_dir) == {0: "interrupted", 1: "completed"}


def test_two_processes_do_not_get_one_id(exporter: DataExporter) -> None:
    with exporter.start_episode(5) as episode:
        episode.log_timestep(0, behavior={"x": 1.0})
        with ProcessPoolExecutor(1, SPAWN) as pool:
            with pytest.raises(EpisodeExists, match="episode 5: expected an id not yet used"):
                pool.submit(record_one, exporter, 5).result()
            assert pool.submit(record_one, exporter, None).result() == 6
        episode.log_timestep(1, behavior={"x": 2.0})
        with ProcessPoolExecutor(1, SPAWN) as pool:
            ended = pool.submit(record_one, exporter, 7)
            assert ended.result() == 7
    with pytest.raises(EpisodeExists):
        exporter.start_episode(7)
    exporter.close()
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == [5, 6, 7]
        assert loader.get_episode(5).get_behavior()["x"].tolist() == [1.0, 2.0]


def record_one(recorder: Recorder, episode_id: int | None) -> int:
    """Record a known episode in another process; return its id."""
    with recorder, recorder.start_episode(episode_id) as episode:
        KnownEpisode(episode.id).log(episode)
        return episode.id


def test_seeds_follow_from_the_experiments_seed_and_the_id(tmp_path: Path) -> None:
    draws = []
    for seed in (3, 3, 4):
        with DataExporter("test", tmp_path, progress=False, seed=seed) as exporter:
            episodes = [exporter.start_episode(i) for i in (0, 1)]
            draws.append([float(episode.rng.random()) for episode in episodes])
            assert [episode.seed for episode in episodes] == [episode_seed(seed, i) for i in (0, 1)]
        with ExperimentLoader(exporter.output_dir) as loader:
            assert loader.get_metadata()["seed"] == seed
            assert loader.episode_index["seed"].tolist() == [episode_seed(seed, i) for i in (0, 1)]
            assert loader.get_episode(1).get_metadata()["seed"] == episode_seed(seed, 1)
    assert draws[0] == draws[1]
    assert len({*draws[0], *draws[2]}) == 4


# -- several at once ----------------------------------------------------------------------


@pytest.mark.parametrize("async_write", [False, True])
def test_several_episodes_are_open_at_once(tmp_path: Path, async_write: bool) -> None:
    options: dict[str, Any] = {"async_write": async_write, "n_async_workers": 2}
    known = [KnownEpisode(i, steps=40 + 3 * i) for i in range(8)]
    with DataExporter(
        "test", tmp_path, progress=False, neural_sampling_rate=3, chunk_size=16, **options
    ) as exporter:
        episodes = [exporter.start_episode() for _ in known]
        for each, episode in zip(known, episodes, strict=True):
            episode.log_static_data("maze", each.static())
        for t in range(max(each.steps for each in known)):
            for each, episode in zip(known, episodes, strict=True):
                if t < each.steps:
                    each.log_step(episode, t)
                elif t == each.steps:
                    episode.end()
    with ExperimentLoader(exporter.output_dir) as loader:
        for each in known:
            found = tables_by_loader(loader, each.id)
            del found["weight_changes/deltas"]
            assert_same(found, each.tables)
        assert loader.episode_index["status"].tolist()[0] == b"completed"
        assert loader.episode_index["status"].tolist()[-1] == b"interrupted"


@pytest.mark.parametrize("async_write", [False, True])
def test_threads_open_episodes_of_their_own(tmp_path: Path, async_write: bool) -> None:
    options: dict[str, Any] = {"async_write": async_write, "n_async_workers": 2}
    with DataExporter("test", tmp_path, progress=False, chunk_size=9, **options) as exporter:

        def work() -> None:
            for _ in range(4):
                with exporter.start_episode() as episode:
                    for t in range(25):
                        episode.log_timestep(t, spike_ids=[t, t], behavior={"x": float(t)})

        run_in_threads([work] * 6)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == list(range(24))
        for episode in loader:
            assert episode.get_behavior()["x"].tolist() == list(range(25))
            assert episode.get_spikes()["neuron_ids"].tolist() == np.repeat(range(25), 2).tolist()


@pytest.mark.parametrize("async_write", [False, True])
def test_threads_share_one_episode(tmp_path: Path, async_write: bool) -> None:
    """No row is torn or lost, whoever logs it."""
    with DataExporter(
        "test",
        tmp_path,
        progress=False,
        chunk_size=50,
        validate_data=False,
        async_write=async_write,
        n_async_workers=1,
    ) as exporter:
        episode = exporter.start_episode()
        count, threads = 600, 4

        def work(first: int) -> None:
            for t in range(first, threads * count, threads):
                ids = [t] * (t % 3)
                position = np.full(5, t, np.float32)
                episode.log_timestep(t, behavior={"t": t, "at": position}, spike_ids=ids, reward=t)
                episode.log_event("seen", t, {"t": t})

        run_in_threads([lambda i=i: work(i) for i in range(threads)])
        episode.end()
    total = threads * count
    with ExperimentLoader(exporter.output_dir) as loader:
        found = loader.get_episode(0)
        behavior = found.get_behavior()
        assert sorted(behavior["timesteps"].tolist()) == list(range(total))
        np.testing.assert_array_equal(behavior["t"], behavior["timesteps"])
        np.testing.assert_array_equal(behavior["at"], np.repeat(behavior["t"][:, None], 5, 1))
        spikes = found.get_spikes()
        np.testing.assert_array_equal(spikes["timesteps"], spikes["neuron_ids"])
        assert len(spikes["timesteps"]) == sum(t % 3 for t in range(total))
        events = found.get_events("seen")
        np.testing.assert_array_equal(events["timesteps"], events["t"])
        assert sorted(found.get_rewards()["values"].tolist()) == list(range(1, total))
        assert found.get_metadata()["total_timesteps"] == total


def run_in_threads(targets: list[Any]) -> None:
    """Run functions in threads that take turns as often as they can; raise what they raise."""
    errors: list[BaseException] = []

    def guarded(target: Any) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001  (raised below)
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


# -- other processes ----------------------------------------------------------------------


def test_a_pickled_exporter_is_a_recorder(exporter: DataExporter) -> None:
    recorder = pickle.loads(pickle.dumps(exporter))
    assert type(recorder) is Recorder
    assert recorder.output_dir == exporter.output_dir
    again = pickle.loads(pickle.dumps(recorder))
    with again, again.start_episode(4) as episode:
        assert episode.seed == episode_seed(3, 4)
        episode.log_timestep(0, behavior={"x": 1.0})
    exporter.close()
    assert statuses(exporter.output_dir) == {4: "completed"}


@pytest.mark.parametrize("async_write", [False, True])
def test_foreign_pools_record_through_the_exporter(tmp_path: Path, async_write: bool) -> None:
    with DataExporter(
        "test",
        tmp_path,
        progress=False,
        neural_sampling_rate=3,
        async_write=async_write,
        n_async_workers=1,
    ) as exporter:
        with SPAWN.Pool(2) as pool:
            ids = pool.starmap(record_one, [(exporter, i) for i in range(2)], chunksize=1)
            assert ids == [0, 1]
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2, SPAWN) as executor:
            numbered = executor.map(record_one, [exporter] * 3, [None] * 3)
            assert sorted(numbered) == [2, 3, 4]
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == list(range(5))
        for episode in range(5):
            found = tables_by_loader(loader, episode)
            del found["weight_changes/deltas"]
            assert_same(found, KnownEpisode(episode).tables)


# -- buffers ------------------------------------------------------------------------------


def shared_buffers() -> set[Path]:
    return set(Path("/dev/shm").glob("shardwriter*"))


@pytest.mark.parametrize("async_write", [False, True])
@pytest.mark.parametrize("how", ["end", "error", "close"])
def test_buffers_elsewhere_are_removed(tmp_path: Path, async_write: bool, how: str) -> None:
    before = shared_buffers()
    exporter = DataExporter(
        "test",
        tmp_path,
        progress=False,
        buffer_dir="/dev/shm",
        async_write=async_write,
        n_async_workers=1,
    )
    with exporter:
        episode = exporter.start_episode()
        episode.log_timestep(0, behavior={"x": 1.0})
        (buffer,) = shared_buffers() - before
        link = exporter.output_dir / "shards" / "episode_0000.buffer"
        assert link.is_symlink()
        assert link.resolve() == buffer
        if how == "error":
            with pytest.raises(ValueError, match="on purpose"):
                fail(episode)
        if how == "end":
            episode.end()
    assert shared_buffers() == before
    assert [path.name for path in (exporter.output_dir / "shards").iterdir()] == ["episode_0000.h5"]
    expected = {"end": "completed", "error": "failed", "close": "interrupted"}[how]
    assert statuses(exporter.output_dir) == {0: expected}


def fail(episode: Episode) -> None:
    with episode:
        raise ValueError("on purpose")


NO_ROOM = """
import os, resource, signal, sys
from shardwriter import DataExporter
from shardwriter.errors import NoSpace

exporter = DataExporter("test", sys.argv[1], progress=False)
shards = exporter.output_dir / "shards"
for limit in (2_000, 6_000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with exporter.start_episode() as episode:
            episode.log_timestep(0, behavior={"x": [0.0] * 1000})
    except NoSpace as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print(sorted(path.name for path in shards.iterdir()))
with exporter.start_episode() as episode:
    episode.log_timestep(0, behavior={"x": [0.0] * 1000})
exporter.close()
"""


def test_no_room_for_a_buffer_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", NO_ROOM, tmp_path], capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    for line in lines[::2]:
        assert "expected room for a buffer of" in line
        assert "File too large" in line
        assert "set buffer_dir=" in line
    assert lines[1::2] == ["[]", "[]", "['episode_0000.h5']"]
    (directory,) = tmp_path.iterdir()
    assert statuses(directory) == {0: "failed", 1: "completed"}
