"""What was promised of memory, flushing, threads and writers, by the public API.

Each section quotes its line; see ``test_promises.py``. Speed is for ``bench/overhead.py``.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from known_episode import record
from noise import QUIET, log_noise, noise_of, shard

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ConfigError
from shardwriter.recording.episode import Episode

RNG = np.random.default_rng(0)


# -- "Memory bounded to 500 MB, configurable ... a 1,000,000-neuron field still works ... too
#    small a bound is a clear error that names the smallest that would do" ----------------------


def test_memory_is_bounded(tmp_path: Path) -> None:
    wide = RNG.standard_normal(1_000_000).astype(np.float32)
    with DataExporter(
        "m", tmp_path, max_memory_mb=40, neural_sampling_rate=1, compression=None, **QUIET
    ) as exporter:
        with exporter.start_episode() as episode:
            for t in range(12):
                episode.log_timestep(t, {"v": wide + t})
                buffers = (exporter.output_dir / "shards").glob("*.buffer")
                assert sum(path.stat().st_blocks * 512 for path in buffers) <= 40e6
        with (
            pytest.raises(ConfigError, match=r"expected at least (\d+) .* with behavior") as caught,
            exporter.start_episode() as episode,
        ):
            episode.log_timestep(0, behavior={"v": np.zeros(10_000_000, np.float32)})
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert needed > 40

    def log(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"v": np.zeros(10_000_000, np.float32)})

    record(tmp_path, log, max_memory_mb=needed)
    with ExperimentLoader(exporter.output_dir) as loader:
        states = loader.get_episode(0).get_neural_states()["v"]
    assert states.shape == (12, 1_000_000)
    np.testing.assert_array_equal(states[11], wide + 11)


# -- "Automatic flushing: slots at size; plus `flush_interval_s`: a slow simulation's rows reach
#    the shard's part in bounded time" ----------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_rows_of_a_slow_simulation_reach_the_part(tmp_path: Path, asynchronous: bool) -> None:
    options = {"flush_interval_s": 0.1, "async_write": asynchronous, **QUIET}
    with (
        DataExporter("slow", tmp_path, **options) as exporter,
        exporter.start_episode() as episode,
    ):
        for t in range(3):
            episode.log_timestep(t, behavior={"x": float(t)})
        part = shard(exporter.output_dir).with_suffix(".h5.part")
        deadline = time.monotonic() + 20
        while not part.exists() or rows_in(part) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def rows_in(part: Path) -> int:
    with h5py.File(part, "r", libver="latest", swmr=True) as file:
        group = file["episodes/episode_0000"]
        return len(group["behavior/x"]) if "behavior" in group else 0


# -- "Thread safe, full concurrent access: any number of threads log to their own or to one
#    shared episode; rows are never torn or lost; several processes and threads read at once" ---


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_threads_log_to_one_episode_and_to_their_own(
    tmp_path: Path, asynchronous: bool, codec: str
) -> None:
    threads, steps = 6, 1_500

    def shared(who: int) -> None:
        for i in range(steps):
            row = np.full(16, who * steps + i)
            together.log_timestep(0, behavior={"row": row}, spike_ids=np.full(5, who))

    def alone(who: int) -> None:
        with exporter.start_episode(who + 1) as episode:
            log_noise(episode, steps)

    options = {"async_write": asynchronous, "compression": codec, "chunk_size": 100, **QUIET}
    with (
        DataExporter("threads", tmp_path, **options) as exporter,
        exporter.start_episode(0) as together,
        ThreadPoolExecutor(2 * threads) as pool,
    ):
        work = [pool.submit(task, who) for who in range(threads) for task in (shared, alone)]
        for one in work:
            one.result()
    check_threads(exporter.output_dir, threads, steps)
    with ThreadPoolExecutor(4) as pool, ExperimentLoader(exporter.output_dir) as loader:
        for found in pool.map(lambda _: loader.get_episode(1).get_behavior()["x"], range(12)):
            assert len(found) == steps
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(exporter.output_dir)], stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert [int(reader.communicate()[0]) for reader in readers] == [threads * steps] * 3


READER = """
import sys
from shardwriter import ExperimentLoader
with ExperimentLoader(sys.argv[1]) as loader:
    print(len(loader.get_episode(0).get_behavior()["row"]))
"""


def check_threads(experiment: Path, threads: int, steps: int) -> None:
    with ExperimentLoader(experiment) as loader:
        episode = loader.get_episode(0)
        rows = episode.get_behavior()["row"]
        assert (rows == rows[:, :1]).all()  # none is torn
        assert sorted(rows[:, 0].tolist()) == list(range(threads * steps))
        assert episode.get_spikes().counts().tolist() == [5 * steps] * threads
        for who in range(threads):
            noise = noise_of(who + 1, steps)
            own = loader.get_episode(who + 1)
            np.testing.assert_array_equal(own.get_behavior()["x"], np.arange(steps) / 10)
            np.testing.assert_array_equal(own.get_spikes()["neuron_ids"], (noise > 1).nonzero()[1])


# -- "Async write queue, `n_async_workers`: episodes of this process are drained by a pool of
#    writer processes" --------------------------------------------------------------------------


def test_a_pool_of_writers_drains_the_episodes(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with DataExporter("a", tmp_path, async_write=True, n_async_workers=2, **QUIET) as exporter:
        episodes = [exporter.start_episode() for _ in range(5)]
        assert len(set(psutil.Process().children(recursive=True)) - before) == 2
        for episode in episodes:
            log_noise(episode, 300)
            episode.end()
    with ExperimentLoader(exporter.output_dir) as loader:
        assert {str(s, "ascii") for s in loader.episode_index["status"]} == {"completed"}
        assert loader.episode_index["steps"].tolist() == [300] * 5
