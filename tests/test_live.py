"""Reading an experiment while it is recorded."""

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge import merge_experiment
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.config import RecorderConfig
from shardwriter.errors import EpisodeNotFound, EpisodeUnfinished, ExperimentNotFound
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.recording.episode import Episode
from shardwriter.recording.recorder import Recorder
from shardwriter.recovery import recover


def config(**options: Any) -> RecorderConfig:
    given = {"neural_sampling_rate": 1, "chunk_size": 16, "compression": "gzip", **options}
    return RecorderConfig(**given)


def log(episode: Episode, start: int, stop: int, *, late: bool = False) -> None:
    for t in range(start, stop):
        fields = {"position": np.array([t, -t], np.float32), "name": f"é{t}"}
        if late:
            fields["late"] = t * 0.5
        episode.log_timestep(
            t,
            neural_state={"v": np.arange(4) + t},
            spike_ids=np.arange(t % 3),
            behavior=fields,
            reward=t + 1.0,
        )


def everything(episode: RecordedEpisode) -> dict[str, Any]:
    metadata = episode.get_metadata()
    for name in ("status", "end_time", "success"):
        metadata.pop(name, None)
    return {
        "metadata": dict(sorted(metadata.items())),
        "states": episode.get_neural_states(),
        "spikes": dict(episode.get_spikes()),
        "behavior": episode.get_behavior(),
        "window": episode.get_behavior(13, 31),
        "rewards": episode.get_rewards(),
        "weights": episode.get_weight_changes(),
        "events": episode.get_events(),
        "static": episode.get_static_data(),
        "final": episode.get_final_state(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        equal = np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        return one.dtype == other.dtype and one.shape == other.shape and bool(equal)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("compression", ["gzip", None])
def test_a_live_episode_reads_as_it_will_when_it_is_finished(
    tmp_path: Path, is_async: bool, compression: str | None
) -> None:
    (tmp_path / "shards").mkdir()
    options = config(async_write=is_async, compression=compression, precision={"v": 0.1})
    with Recorder(tmp_path, options) as recorder:
        episode = recorder.start_episode()
        log(episode, 0, 100)
        episode.log_static_data("maze", {"walls": np.eye(3), "kind": "T", "list": [1, 2]})
        log(episode, 100, 203, late=True)
        episode.log_event("turn", 7, {"angle": 0.5})
        episode.log_weight_change(7, 1, 0.5, 0.75)
        with ExperimentLoader(tmp_path, live=True) as loader:
            assert loader.list_episodes() == [0]
            assert loader.episode_index["status"].tolist() == [b"recording"]
            assert loader.get_episode_summary(0)["status"] == "recording"
            live = everything(loader.get_episode(0))
        episode.end()
    merge_experiment(tmp_path)
    with ExperimentLoader(tmp_path) as loader:
        finished = everything(loader.get_episode(0))
    assert len(live["behavior"]["late"]) == 203
    assert len(live["window"]["timesteps"]) == 18
    for name in live:
        assert same(live[name], finished[name]), name


def test_refresh_takes_in_what_is_new_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with Recorder(tmp_path, config()) as recorder, ExperimentLoader(tmp_path, live=True) as loader:
        assert loader.list_episodes() == []
        first = recorder.start_episode()
        log(first, 0, 10)
        assert loader.list_episodes() == []
        loader.refresh()
        handle = loader.get_episode(0)
        log(first, 10, 90)
        assert len(handle.get_rewards()["values"]) == 10
        loader.refresh()
        assert handle.get_rewards()["values"].tolist() == list(range(1, 91))
        assert handle.get_rewards(80)["values"].tolist() == list(range(81, 91))
        first.end()
        recorder.start_episode()
        assert handle.get_rewards()["values"].tolist() == list(range(1, 91))  # of the shard now
        loader.refresh()
        assert loader.episode_index["status"].tolist() == [b"completed", b"recording"]
        assert len(loader.get_episode(0).get_rewards()["values"]) == 90
        assert len(loader.get_episode(1).get_rewards()["values"]) == 0
        values, _ = loader.concat("rewards/values")  # of the finished ones
        assert len(values) == 90
        with pytest.raises(EpisodeUnfinished, match=r"episode 1: .*reading across"):
            loader.concat("rewards/values", [0, 1])
        with pytest.raises(EpisodeUnfinished, match="getters"), loader.get_episode(1).opened():
            pass
        with pytest.raises(EpisodeNotFound):
            loader.get_episode(2)


def test_what_belongs_to_the_experiment_is_there_before_a_merge(tmp_path: Path) -> None:
    with DataExporter("maze", tmp_path, progress=False, seed=3) as exporter:
        exporter.save_config({"rate": 0.5})
        exporter.save_network_structure({"ids": np.arange(3)}, {"sources": np.zeros(2, int)})
        exporter.save_checkpoint("best", {"w": np.ones(2)})
        exporter.start_episode(4)
        exporter.log(timestep=0, reward=2.0)
        with ExperimentLoader(exporter.output_dir, live=True) as loader:
            assert loader.get_config() == {"rate": 0.5}
            assert loader.get_metadata()["experiment_name"] == "maze"
            assert loader.get_network_structure()["neurons"]["ids"].tolist() == [0, 1, 2]
            assert loader.get_network_structure("neurons")["ids"].tolist() == [0, 1, 2]
            assert loader.get_network_structure("initial_weights") == {}
            assert loader.list_checkpoints() == ["best"]
            assert loader.get_checkpoint("best")["w"].tolist() == [1, 1]
            assert loader.get_git_info() == {}
            assert "python" in str(loader.get_runtime_info()).lower()
            assert loader.get_all_summaries()[4]["total_reward"] == 2.0


def test_a_recording_of_which_only_the_part_can_be_seen(tmp_path: Path) -> None:
    """As from another machine, where the buffer is not."""
    (tmp_path / "shards").mkdir()
    buffers = tmp_path / "buffers"
    buffers.mkdir()
    with Recorder(tmp_path, config(buffer_dir=buffers)) as recorder:
        episode = recorder.start_episode()
        log(episode, 0, 50)
        buffers.rename(tmp_path / "hidden")
        try:
            with ExperimentLoader(tmp_path, live=True) as loader:
                seen = loader.get_episode(0).get_behavior()
                assert seen["timesteps"].tolist() == list(range(48))
                assert seen["name"][47] == "é47"
                recorder.flush()
                loader.refresh()
                seen = loader.get_episode(0).get_behavior()
                assert seen["timesteps"].tolist() == list(range(50))
        finally:
            (tmp_path / "hidden").rename(buffers)


def test_reading_while_slots_turn_over_and_columns_come_late(tmp_path: Path) -> None:
    """A reader that never rests sees, each time, a whole and growing prefix."""
    (tmp_path / "shards").mkdir()
    seen: list[int] = []
    problems: list[str] = []
    done = threading.Event()

    def read() -> None:
        try:
            with ExperimentLoader(tmp_path, live=True) as loader:
                while not done.is_set():
                    loader.refresh()
                    seen.extend(_checked(episode) for episode in loader)
        except Exception as error:  # noqa: BLE001  (for the main thread to raise)
            problems.append(repr(error))

    with Recorder(tmp_path, config(async_write=True, n_async_workers=1, chunk_size=4)) as recorder:
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for i in range(3):
                with recorder.start_episode(i) as episode:
                    log(episode, 0, 300)
                    log(episode, 300, 500, late=True)
                assert not problems
        finally:
            done.set()
            reader.join()
    assert not problems
    assert any(0 < count < 500 for count in seen)


def _checked(episode: RecordedEpisode) -> int:
    behavior = episode.get_behavior()
    n = len(behavior["timesteps"])
    assert behavior["timesteps"].tolist() == list(range(n))
    if n:
        assert np.array_equal(behavior["position"][:, 0], np.arange(n))
        assert behavior["name"][-1] == f"é{n - 1}"
    if "late" in behavior:
        expected = np.where(np.arange(n) < 300, np.nan, np.arange(n) * 0.5)
        assert np.array_equal(behavior["late"], expected, equal_nan=True)
    rewards = episode.get_rewards()["values"]
    assert rewards.tolist() == list(range(1, len(rewards) + 1))
    return n


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_live import config, log
from shardwriter.recording.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), config())
log(recorder.start_episode(), 0, 77)
print("logged", flush=True)
sys.stdin.read()
"""


def test_an_episode_whose_process_was_killed_can_be_read_before_it_is_recovered(
    tmp_path: Path,
) -> None:
    (tmp_path / "shards").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"logged\n"
        process.send_signal(signal.SIGKILL)
    with ExperimentLoader(tmp_path, live=True) as loader:
        episode = loader.get_episode(0)
        assert loader.episode_index["status"].tolist() == [b"interrupted"]
        before = everything(episode)
        assert len(before["rewards"]["values"]) == 77
        recover(tmp_path)
        assert same(everything(episode)["behavior"], before["behavior"])
        loader.refresh()
        assert same(everything(loader.get_episode(0))["behavior"], before["behavior"])


def test_a_live_reader_cannot_change_a_buffer(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with Recorder(tmp_path, config()) as recorder:
        log(recorder.start_episode(), 0, 5)
        (buffer,) = (tmp_path / "shards").glob("*.buffer")
        buffer.chmod(0o444)
        with ExperimentLoader(tmp_path, live=True) as loader:
            values = loader.get_episode(0).get_rewards()["values"]
            values[:] = -1.0
            assert loader.get_episode(0).get_rewards()["values"].tolist() == [1, 2, 3, 4, 5]
        buffer.chmod(0o644)


def test_live_reading_needs_the_directory_of_an_experiment(tmp_path: Path) -> None:
    with pytest.raises(ExperimentNotFound, match="shards"):
        ExperimentLoader(tmp_path, live=True)


def test_a_shard_that_was_moved_to_run_its_episode_again_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with Recorder(tmp_path, config()) as recorder:
        log(recorder.start_episode(), 0, 5)
    with ExperimentLoader(tmp_path, live=True) as loader:
        assert loader.list_episodes() == [0]
        shutil.move(tmp_path / "shards" / "episode_0000.h5", tmp_path / "away.h5")
        loader.refresh()
        assert loader.list_episodes() == []


def test_without_live_refresh_opens_the_new_master(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with Recorder(tmp_path, config()) as recorder:
        log(recorder.start_episode(), 0, 5)
    merge_experiment(tmp_path)
    with ExperimentLoader(tmp_path) as loader:
        with Recorder(tmp_path, config()) as recorder:
            log(recorder.start_episode(), 0, 5)
        merge_experiment(tmp_path)
        loader.refresh()
        assert loader.list_episodes() == [0, 1]
