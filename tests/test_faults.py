"""Faults other than death: no room, files too large, and two that claim the same."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from merge import merge_experiment
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.config import RecorderConfig
from shardwriter.errors import EpisodeExists, NoSpace
from shardwriter.recording.recorder import Recorder
from shardwriter.recovery import exit_code, recover

FILE_LIMIT = 400_000  # bytes: below the part's, above the buffer's size


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    return tmp_path


def record(directory: Path, way: str, *, fault: str) -> list[str]:
    """Record noise until the shard cannot be written, and die; return what was printed.

    A limit on the size of files stands for a full disk: it fails the same calls.
    """
    script = f"""
        import resource, os, signal, sys
        from pathlib import Path
        import numpy as np
        from shardwriter.config import RecorderConfig
        from shardwriter.errors import ShardWriterError
        from shardwriter.recording.recorder import Recorder
        config = RecorderConfig(chunk_size=100, async_write={way == "async"}, n_async_workers=1)
        recorder = Recorder(Path({str(directory)!r}), config)
        noise = np.random.default_rng(0).random((20_000, 8))
        episode = recorder.start_episode(0)
        logged = 0
        {fault}
        try:
            while logged < len(noise):
                episode.log_timestep(logged, behavior={{"x": noise[logged]}})
                logged += 1
        except ShardWriterError as error:
            print(type(error).__name__, error)
        print(logged, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    return done.stdout.decode().splitlines()


LIMITS = {
    "sync": f"resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT}, {FILE_LIMIT}))",
    "async": "pid = recorder._writers[0]._child.pid; "
    f"resource.prlimit(pid, resource.RLIMIT_FSIZE, ({FILE_LIMIT}, {FILE_LIMIT}))",
}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_full_disk_costs_no_acknowledged_row(directory: Path, way: str) -> None:
    *error, logged = record(directory, way, fault=LIMITS[way])
    text = " ".join(error)
    assert text.startswith("WriterFailed episode 0: its shard")
    assert "File too large" in text
    assert "shardwriter recover" in text
    rows = int(logged)
    assert 1000 < rows < 20_000
    [result] = recover(directory)
    assert exit_code([result]) == 0
    assert rows <= result.rows["behavior"] <= rows + 1  # the call that raised may have logged
    with ExperimentLoader(merge_experiment(directory)) as loader:
        x = loader.get_episode(0).get_behavior()["x"]
    np.testing.assert_array_equal(x, np.random.default_rng(0).random((20_000, 8))[: len(x)])


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_buffer_that_finds_no_room_is_refused(directory: Path, way: str) -> None:
    config = RecorderConfig(async_write=way == "async", n_async_workers=1)
    with Recorder(directory, config) as recorder:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        try:
            with pytest.raises(NoSpace, match="set buffer_dir="):
                recorder.start_episode(0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        episode = recorder.start_episode(0)
        episode.log_timestep(0, behavior={"x": 1.0})
        episode.end()
    assert not list((directory / "shards").glob("*.buffer"))


def test_an_end_that_finds_no_room_does_not_keep_others_from_theirs(directory: Path) -> None:
    recorder = Recorder(directory, RecorderConfig())
    large, _ = recorder.start_episode(0), recorder.start_episode(1)  # one grows past the limit
    large.log_timestep(0, behavior={"x": np.zeros(50_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, hard))
    try:
        with pytest.raises(NoSpace, match="episode_0000"):
            recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (directory / "shards").glob("*.h5")] == ["episode_0001.h5"]
    large.end()


def test_an_id_belongs_to_one_of_two_processes(directory: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from shardwriter.config import RecorderConfig
        from shardwriter.errors import EpisodeExists
        from shardwriter.recording.recorder import Recorder
        with Recorder(Path(sys.argv[1]), RecorderConfig()) as recorder:
            for number in range(20):
                try:
                    episode = recorder.start_episode(number)
                except EpisodeExists:
                    continue
                episode.log_timestep(0, behavior={"who": float(sys.argv[2])})
                episode.end()
                print(number)
    """
    both = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(directory), str(who)],
            stdout=subprocess.PIPE,
        )
        for who in range(2)
    ]
    claimed = [{int(line) for line in process.communicate()[0].split()} for process in both]
    assert claimed[0] | claimed[1] == set(range(20))
    assert not claimed[0] & claimed[1]
    with ExperimentLoader(merge_experiment(directory)) as loader:
        for episode in loader:
            who = int(episode.get_behavior()["who"][0])
            assert episode.id in claimed[who]


def test_an_id_that_a_living_process_has_is_refused_and_left_alone(directory: Path) -> None:
    config = RecorderConfig()
    with Recorder(directory, config) as first, Recorder(directory, config) as second:
        episode = first.start_episode(0)
        episode.log_timestep(0, behavior={"x": 1.0})
        with pytest.raises(EpisodeExists, match="take another id"):
            second.start_episode(0)
        episode.log_timestep(1, behavior={"x": 2.0})
        episode.end()
    with ExperimentLoader(merge_experiment(directory)) as loader:
        assert loader.get_episode(0).get_behavior()["x"].tolist() == [1.0, 2.0]


def test_exporters_of_one_name_get_a_directory_each(tmp_path: Path) -> None:
    """Eight at once: some of them in the same second."""
    script = """
        import sys
        from shardwriter import DataExporter

        with DataExporter("maze", sys.argv[1], progress=False) as exporter:
            with exporter.start_episode(0) as episode:
                episode.log_timestep(0, behavior={"who": float(sys.argv[2])})
        print(exporter.output_dir, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    several = [
        subprocess.Popen([*command, str(who)], stdout=subprocess.PIPE, text=True)
        for who in range(2)
    ]
    directories = [process.communicate()[0].strip() for process in several]
    for who, found in enumerate(directories):
        with ExperimentLoader(found) as loader:
            assert loader.get_episode(0).get_behavior()["who"].tolist() == [float(who)]
    with ThreadPoolExecutor() as pool:
        made = [*pool.map(lambda _: DataExporter("maze", tmp_path, progress=False), range(8))]
    names = {exporter.output_dir.name for exporter in made}
    assert len(names) == 8
    assert len({name[: len("maze_20260101_000000")] for name in names}) < 8
    for exporter in made:
        exporter.close(merge=False)


def test_recovery_does_not_ask_the_clock(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    with Recorder(directory, RecorderConfig()) as recorder:
        episode = recorder.start_episode(0)
        episode.log_timestep(0, behavior={"x": 1.0})
        assert [result.outcome for result in recover(directory)] == ["recording"]
        os.utime(directory / "shards" / "episode_0000.buffer", (0, 0))
        assert [result.outcome for result in recover(directory)] == ["recording"]
        episode.end()
