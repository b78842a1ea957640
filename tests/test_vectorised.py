"""Batches: N episodes by one call, the same as N calls, all of it or nothing."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardwriter import DataExporter, ExperimentLoader, Recorder
from shardwriter.errors import ConfigError, EpisodeEnded, EpisodeExists, FieldError
from shardwriter.recording.batch import EpisodeBatch

N, NEURONS, STEPS = 5, 12, 60

Array = np.ndarray[Any, Any]


def values(t: int) -> dict[str, Any]:
    """Return what N environments give at a timestep."""
    rng = np.random.default_rng([7, t])
    fired = rng.random((N, NEURONS)) < 0.2
    return {
        "neural_state": {
            "v": rng.standard_normal((N, NEURONS), np.float32),
            "g": {"e": rng.random(N)},
        },
        "spikes": fired,
        "behavior": {
            "position": rng.random((N, 3)),
            "lap": rng.integers(0, 9, N),
            "tag": list("abcde"),
        },
        "reward": rng.choice([0.0, 1.0], N),
    }


def one(tree: Any, i: int) -> Any:
    """Return what one environment gives."""
    return {k: one(v, i) for k, v in tree.items()} if isinstance(tree, dict) else tree[i]


def contents(directory: Path) -> dict[int, dict[str, Any]]:
    """Return everything that the episodes of an experiment logged."""
    with ExperimentLoader(directory) as loader:
        return {
            episode.id: {
                f"{table}/{name}": array.tolist()
                for table in ("neural_states", "behavior", "spikes", "rewards")
                for name, array in getattr(episode, f"get_{table}")().items()
                if len(array)
            }
            for episode in loader
        }


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("async_write", [False, True])
def test_one_call_logs_what_a_call_for_each_episode_would(
    tmp_path: Path, async_write: bool
) -> None:
    options: Any = {"neural_sampling_rate": 3, "chunk_size": 16, "async_write": async_write}
    batched = DataExporter("batch", tmp_path, **options)
    with batched, batched.start_episodes(range(N)) as batch:
        for t in range(STEPS):
            batch.log_timesteps(t, **values(t))
    with DataExporter("each", tmp_path, **options) as single:
        for i in range(N):
            with single.start_episode(i) as episode:
                for t in range(STEPS):
                    episode.log_timestep(t, **one(values(t), i))
    expected = contents(single.output_dir)
    assert contents(batched.output_dir) == expected
    assert len(expected[0]["neural_states/v"]) == STEPS / 3
    assert {"neural_states/g.e", "behavior/tag", "spikes/neuron_ids"} <= set(expected[0])


def test_spike_ids_and_timesteps_of_each(tmp_path: Path) -> None:
    with DataExporter("batch", tmp_path) as exporter, exporter.start_episodes([4, 9]) as batch:
        batch.log_timesteps(np.array([10, 20]), spike_ids=[[3], [1, 2]])
        batch.log_timesteps([11, 21], spike_ids=[np.array([], int), np.uint8([5])])
        batch.log_timesteps(np.int64(30), behavior={})
        assert batch.ids.tolist() == [4, 9]
        assert batch.steps.tolist() == [3, 3]
        assert batch.seeds == [batch[0].seed, batch[1].seed]
    assert contents(exporter.output_dir) == {
        4: {"spikes/timesteps": [10], "spikes/neuron_ids": [3]},
        9: {"spikes/timesteps": [20, 20, 21], "spikes/neuron_ids": [1, 2, 5]},
    }


@pytest.mark.usefixtures("both_ways")
def test_a_call_that_does_not_fit_logs_nothing_in_any_episode(tmp_path: Path) -> None:
    good = {"neural_state": {"v": np.zeros((3, 4))}, "behavior": {"x": np.zeros(3)}}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"neural_state": {"v": np.zeros((3, 5))}}, "episode 0, neural_states/v"),
        ({"neural_state": {"v": np.zeros((2, 4))}}, "leading axis of 3"),
        ({"behavior": {"x": 1.0}}, "episodes 0-2, behavior/x"),
        ({"behavior": [1.0]}, "a dict of fields"),
        ({"behavior": {"x": [0.0, 1.0, "no"]}}, "episode 2, behavior/x"),
        ({"spikes": np.zeros(3)}, "one entry per neuron"),
        ({"spike_ids": [[1], [2], [-3]]}, "episode 2, spike_ids"),
        ({"reward": [0, 1, "much"]}, "episode 2, reward"),
        ({"reward": 1.0}, "leading axis of 3"),
        ({"timesteps": [1, 2]}, "shape () or (3,)"),
        ({"timesteps": [5, 5, -1]}, "episode 2, timestep"),
        ({"timesteps": 1.5}, "integers"),
        ({"active": [1, 0, 1]}, "bool (3,)"),
    ]
    exporter = DataExporter("batch", tmp_path, neural_sampling_rate=1)
    with exporter, exporter.start_episodes(range(3)) as batch:
        batch.log_timesteps(0, **good)
        for arguments, text in wrong:
            with pytest.raises(FieldError) as caught:
                batch.log_timesteps(**{"timesteps": 1, **good, **arguments})
            assert text in str(caught.value)
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
            assert batch.steps.tolist() == [1, 1, 1]
        batch.log_timesteps(1, **good)
    for found in contents(exporter.output_dir).values():
        assert found["behavior/timesteps"] == found["neural_states/timesteps"] == [0, 1]
        assert not any(name.startswith(("spikes", "rewards")) for name in found)


def test_episodes_that_end_are_left_out_and_replaced(tmp_path: Path) -> None:
    """As an autoreset does: each episode logs as long as it lasts."""
    lengths = [3, 5, 2, 4, 6, 1, 7, 3]  # by id
    with DataExporter("batch", tmp_path) as exporter, exporter.start_episodes(count=3) as batch:
        for _ in range(9):
            batch.log_timesteps(batch.steps, behavior={"id": batch.ids}, reward=batch.ids)
            done = np.array([e.steps == lengths[e.id] for e in batch])
            batch.end(done, success=done, summary={"length": batch.steps, "kind": "test"})
            opened = batch.restart(done)
            assert len(opened) == done.sum()
            assert batch.active.all()
    with ExperimentLoader(exporter.output_dir) as loader:
        index = loader.episode_index
        done_ids = [e.id for e in loader if e.get_metadata()["summary"]]
        assert len(done_ids) >= 5
        for episode in loader:
            steps = episode.get_behavior().get("timesteps", np.zeros(0)).tolist()
            assert set(episode.get_behavior().get("id", [])) <= {episode.id}
            assert steps == list(range(len(steps)))
            if episode.id in done_ids:
                assert len(steps) == lengths[episode.id]
                assert episode.get_metadata()["summary"] == {"length": len(steps), "kind": "test"}
                assert episode.get_metadata()["success"]
    assert index["episode_id"].tolist() == list(range(len(index)))


def test_without_replacement_the_rest_goes_on(tmp_path: Path) -> None:
    with DataExporter("batch", tmp_path) as exporter:
        batch = exporter.start_episodes([1, 2, 3])
        batch.log_timesteps(0, behavior={"x": np.arange(3)})
        batch.end(np.array([False, True, False]))
        batch.log_timesteps(1, behavior={"x": np.arange(3)})  # not in the one that has ended
        batch.log_timesteps(2, behavior={"x": np.arange(3)}, active=np.array([True, False, False]))
        batch.log_timesteps(3, active=np.zeros(3, bool))
        with pytest.raises(EpisodeEnded):
            batch.log_timesteps(3, behavior={"x": np.arange(3)}, active=np.ones(3, bool))
        with pytest.raises(EpisodeEnded):
            batch.end(np.ones(3, bool))
        assert batch.active.tolist() == [True, False, True]
        with pytest.raises(ConfigError, match="episode 1, which has not"):
            batch.restart(np.array([True, False, False]))
        with pytest.raises(ConfigError, match="one for each"):
            batch.restart(ids=[7, 8])
        with pytest.raises(EpisodeExists):
            batch.restart(ids=[3])
        assert [episode.id for episode in batch.restart(ids=[7])] == [7]
        batch.end()
        with pytest.raises(EpisodeEnded):
            batch.log_timesteps(4, behavior={"x": np.arange(3)})
    found = contents(exporter.output_dir)
    assert [len(found[i].get("behavior/x", [])) for i in (1, 2, 3, 7)] == [3, 1, 2, 0]


def test_all_of_the_episodes_open_or_none(tmp_path: Path) -> None:
    with DataExporter("batch", tmp_path) as exporter:
        exporter.start_episode(2).end()
        wrong: dict[Any, type[Exception]] = {
            (0, 1, 2): EpisodeExists,
            (5, 5): EpisodeExists,
            (3, -1): ConfigError,
            (): ConfigError,
            None: ConfigError,
        }
        for ids, error in wrong.items():
            with pytest.raises(error):
                exporter.start_episodes(ids)
        with pytest.raises(ConfigError):
            exporter.start_episodes([1], count=1)
        names = [path.name for path in (exporter.output_dir / "shards").iterdir()]
        assert names == ["episode_0002.h5"]


def test_an_end_that_does_not_fit_ends_none(tmp_path: Path) -> None:
    with DataExporter("batch", tmp_path) as exporter:
        batch = exporter.start_episodes(count=2)
        for summary in ({"r": [1.0]}, {"r": [1.0, object()]}):
            with pytest.raises(FieldError):
                batch.end(summary=summary)
        assert batch.active.all()
        batch.end(success=[True, False], final_state={"v": np.eye(2)}, summary={"r": [1, 2]})
    with ExperimentLoader(exporter.output_dir) as loader:
        assert [e.get_metadata()["success"] for e in loader] == [True, False]
        assert [e.get_final_state()["v"].tolist() for e in loader] == [[1, 0], [0, 1]]
        assert [e.get_metadata()["summary"]["r"] for e in loader] == [1, 2]


def test_an_exception_fails_what_is_open(tmp_path: Path) -> None:
    def run(batch: EpisodeBatch) -> None:
        with batch:
            batch.log_timesteps(0, reward=[1, 1])
            batch.end(np.array([True, False]))
            raise RuntimeError("the network exploded")

    with DataExporter("batch", tmp_path) as exporter, pytest.raises(RuntimeError):
        run(exporter.start_episodes(count=2))
    with ExperimentLoader(exporter.output_dir) as loader:
        assert [e.get_metadata()["status"] for e in loader] == ["completed", "failed"]
        assert "exploded" in loader.get_episode(1).get_metadata()["error"]


def test_memory_is_shared_evenly(tmp_path: Path) -> None:
    """Also the last of many episodes gets slots that are worth writing."""
    exporter = DataExporter("batch", tmp_path, max_memory_mb=40, neural_sampling_rate=1)
    with exporter, exporter.start_episodes(count=32) as batch:
        for t in range(3):
            batch.log_timesteps(t, {"v": np.zeros((32, 500))}, np.ones((32, 500), bool))
        sizes = [episode.memory_bytes() for episode in batch]
        assert max(sizes) <= 40e6 / 32
        assert max(sizes) == min(sizes) > 0.3e6


def test_a_batch_is_timed(tmp_path: Path) -> None:
    with DataExporter("batch", tmp_path, enable_profiling=True) as exporter:
        with exporter.start_episodes(count=2) as batch:
            for t in range(10):
                batch.log_timesteps(t, reward=[1.0, 0.0])
        operations = exporter.get_performance_stats()["operations"]
        assert operations["log_timesteps"]["count"] == 10
        assert operations["log_timestep"]["count"] == 0


def test_a_recorder_in_another_process_has_batches_too(tmp_path: Path) -> None:
    with DataExporter("batch", tmp_path) as exporter:
        recorder: Recorder = pickle.loads(pickle.dumps(exporter))
        with recorder, recorder.start_episodes([3, 1]) as batch:
            batch.log_timesteps(0, reward=[1, 2])
    assert sorted(contents(exporter.output_dir)) == [1, 3]


def test_gymnasiums_vector_environments(tmp_path: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's own
        envs = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    with DataExporter("batch", tmp_path) as exporter, exporter.start_episodes(count=4) as batch:
        seen, _ = envs.reset(seed=batch.seeds)
        done = np.zeros(4, bool)
        for _ in range(60):
            actions = np.asarray(seen)[:, 2] > 0
            before = seen
            seen, reward, terminated, truncated, _ = envs.step(actions.astype(int))
            # A step after an episode's end only resets (AutoresetMode.NEXT_STEP).
            took_part = ~done
            batch.restart(done)
            fields = {"observation": before, "action": actions}
            batch.log_timesteps(batch.steps, None, None, fields, reward, active=took_part)
            done = terminated | truncated
            batch.end(done, success=truncated)
    envs.close()
    with ExperimentLoader(exporter.output_dir) as loader:
        rows = [len(e.get_behavior().get("action", [])) for e in loader]
        assert len(rows) >= 4
        assert sum(rows) > 150
        assert all(
            e.get_metadata()["total_reward"] == count for e, count in zip(loader, rows, strict=True)
        )
