"""An episode's calls: what each stores, when it refuses, and how it ends."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import assert_same_tree, record

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import EpisodeEnded, FieldError
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.recording.episode import Episode


def read(directory: Path, log: Any, **options: Any) -> RecordedEpisode:
    """Record one episode, return a handle of it, whose loader stays open."""
    return ExperimentLoader(record(directory, log, **options)).get_episode(0)


@pytest.fixture
def exporter(tmp_path: Path) -> Any:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        yield exporter


# -- weight changes -----------------------------------------------------------------------


def test_weight_changes_of_pairs_one_by_one_and_in_bulk(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        episode.log_weight_change(3, (4, 17), 0.5, 0.75, trace=np.float32(0.25))
        episode.log_weight_changes(
            5, [(1, 2), (3, 4)], [0.1, 0.2], np.array([0.2, 0.1]), trace=np.zeros(2, np.float32)
        )
        episode.log_weight_changes([6, 7], np.array([[5, 6], [7, 8]]), [1.0, 2.0], [3.0, 4.0])
        episode.log_weight_changes(8, np.zeros((0, 2), int), [], [])

    found = read(tmp_path, log).get_weight_changes()
    assert found["timesteps"].tolist() == [3, 5, 5, 6, 7]
    assert found["source_ids"].tolist() == [4, 1, 3, 5, 7]
    assert found["target_ids"].tolist() == [17, 2, 4, 6, 8]
    assert found["source_ids"].dtype == np.int64
    assert found["old_weights"].tolist() == [0.5, 0.1, 0.2, 1.0, 2.0]
    assert found["new_weights"].tolist() == [0.75, 0.2, 0.1, 3.0, 4.0]
    np.testing.assert_array_equal(found["deltas"], found["new_weights"] - found["old_weights"])
    np.testing.assert_array_equal(found["trace"], np.float32([0.25, 0, 0, np.nan, np.nan]))
    assert "synapse_ids" not in found


def test_weight_changes_of_ids(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        episode.log_weight_change(0, 12, 1.0, 0.5)
        episode.log_weight_change(0, np.int32(13), 1.0, 0.5)
        episode.log_weight_changes([1, 1], [14, 2**40], [1.0, 1.0], [0.5, 2.0])

    found = read(tmp_path, log).get_weight_changes()
    assert found["synapse_ids"].tolist() == [12, 13, 14, 2**40]
    assert found["deltas"].tolist() == [-0.5, -0.5, -0.5, 1.0]
    assert "source_ids" not in found


def test_deltas_do_not_wrap_around(tmp_path: Path) -> None:
    for old, new, delta in [
        (np.uint8(200), np.uint8(100), -100),
        (np.uint8(5), np.uint16(2), -3),
        (True, False, -1),
        (np.float32(0.5), np.float32(0.25), -0.25),
    ]:

        def log(episode: Episode, old: Any = old, new: Any = new) -> None:
            episode.log_weight_change(0, 1, old, new)

        assert read(tmp_path, log).get_weight_changes()["deltas"].tolist() == [delta]


def test_a_bad_weight_change_is_refused(exporter: DataExporter) -> None:
    episode = exporter.start_episode()
    episode.log_weight_change(0, (1, 2), 0.5, 0.25)
    for synapse, text in [
        ((1, 2, 3), "synapse_id: expected integers, shape () or (2,), got int64 (3,)"),
        (1.5, "synapse_id: expected integers, shape () or (2,), got float64 ()"),
        ("a", "synapse_id"),
        (7, "weight_changes/source_ids: expected int64 in every call, got none"),
    ]:
        with pytest.raises(FieldError) as caught:
            episode.log_weight_change(1, synapse, 0.5, 0.25)
        assert str(caught.value).startswith(f"episode 0, {text}")


def test_bad_weight_changes_are_refused(exporter: DataExporter) -> None:
    episode = exporter.start_episode()
    two = [0.5, 0.5]
    for arguments, text in [
        ((0, [[1, 2]], two, two), "synapse_id: expected integers, shape (2,) or"),
        (([0, 1, 2], [1, 2], two, two), "timesteps: expected integers, shape () or (2,)"),
        ((0.5, [1, 2], two, two), "timesteps: expected integers"),
        ((0, [1, 2], 0.5, two), "old_weights: expected shape (K,), got float64 ()"),
        ((0, [1, 2], two, [0.5] * 3), "weight_changes/new_weights: expected"),
    ]:
        with pytest.raises(FieldError) as caught:
            episode.log_weight_changes(*arguments)
        assert str(caught.value).startswith(f"episode 0, {text}")


# -- events -------------------------------------------------------------------------------


def test_events_of_every_kind_of_data(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for t in range(3):
            episode.log_event("lap", t, {"name": f"größe {t}", "time": t / 2, "at": [t, t + 1]})
        episode.log_event("tone", 7, 440.0)
        episode.log_event("word", 8, "hello")
        episode.log_event("nothing", 9)
        episode.log_event("ereignis mit ü", 9, {"an odd name!": 1})

    episode = read(tmp_path, log)
    events = episode.get_events()
    assert sorted(events) == ["ereignis mit ü", "lap", "nothing", "tone", "word"]
    assert events["lap"]["name"].tolist() == ["größe 0", "größe 1", "größe 2"]
    assert events["lap"]["time"].tolist() == [0.0, 0.5, 1.0]
    assert events["lap"]["at"].tolist() == [[0, 1], [1, 2], [2, 3]]
    assert events["tone"]["value"].tolist() == [440.0]
    assert events["word"]["value"].tolist() == ["hello"]
    assert list(events["nothing"]) == ["timesteps"]
    assert events["nothing"]["timesteps"].tolist() == [9]
    assert events["ereignis mit ü"]["an odd name!"].tolist() == [1]
    assert episode.get_events("lap", start=1, stop=2)["name"].tolist() == ["größe 1"]
    assert episode.get_events("none")["timesteps"].tolist() == []


def test_a_bad_event_type_is_refused(exporter: DataExporter) -> None:
    episode = exporter.start_episode()
    for name in ("", "a/b", ".", "nul\0", "\ud800", 3):
        with pytest.raises(FieldError, match="expected a name without slashes"):
            episode.log_event(name, 0)


def test_a_failed_first_event_leaves_no_table(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        with pytest.raises(FieldError):
            episode.log_event("lap", 0, {"bad": object()})
        with pytest.raises(FieldError):
            episode.log_event("lap", 1.5, {"good": 1})
        episode.log_event("lap", 1, "text")

    assert read(tmp_path, log).get_events()["lap"]["value"].tolist() == ["text"]


# -- static data --------------------------------------------------------------------------


def test_static_data_is_kept_whenever_it_comes(tmp_path: Path) -> None:
    maze = {"walls": np.ones((3, 4)), "names": ["a", "ü"], "deep": {"er": {"still": None}}}

    def log(episode: Episode) -> None:
        episode.log_static_data("first", 5)
        for t in range(30):
            episode.log_timestep(t, behavior={"x": float(t)})
            if t == 15:
                episode.log_static_data("maze", maze)
                maze["walls"][:] = 2
        episode.log_static_data("last", "text")

    episode = read(tmp_path, log, chunk_size=4)
    expected = {**maze, "walls": np.ones((3, 4))}
    assert_same_tree(episode.get_static_data(), {"first": 5, "maze": expected, "last": "text"})
    assert_same_tree(episode.get_static_data("maze"), expected)
    assert episode.get_static_data("none") == {}


def test_bad_static_data_is_refused(exporter: DataExporter) -> None:
    episode = exporter.start_episode()
    episode.log_static_data("maze", 0)
    for name, data, text in [
        ("maze", 1, "maze: expected a name not yet logged, got a second value; use another name"),
        ("behavior", 1, "static data: expected a name without slashes, other than behavior"),
        ("summary", 1, "static data: expected a name without slashes, other than"),
        ("a/b", 1, "static data: expected a name without slashes"),
        ("", 1, "static data: expected a name without slashes"),
        ("new", {"a": {"b": object()}}, "new/a/b: expected numbers, strings, arrays"),
        ("new", "nul\0", "new: expected Unicode text without NUL"),
    ]:
        with pytest.raises(FieldError) as caught:
            episode.log_static_data(name, data)
        assert str(caught.value).startswith(f"episode 0, {text}")
    episode.log_static_data("new", 2)


# -- the end ------------------------------------------------------------------------------


def test_an_episode_ends_itself(tmp_path: Path) -> None:
    episode = read(tmp_path, lambda episode: episode.log_timestep(0, behavior={"x": 1}))
    metadata = episode.get_metadata()
    assert (metadata["status"], metadata["success"]) == ("completed", True)
    assert metadata["summary"] == {}
    assert episode.get_final_state() == {}
    assert "error" not in metadata


def test_final_state_and_summary_are_kept(tmp_path: Path) -> None:
    state = {"weights": np.arange(10_000.0), "nested": {"list": [1, "a"]}}

    def log(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"x": 1})
        with pytest.raises(FieldError, match="summary/bad"):
            episode.end(final_state=state, summary={"bad": object()})
        episode.end(success=False, final_state=state, summary={"score": 3, "name": "ü"})

    episode = read(tmp_path, log)
    metadata = episode.get_metadata()
    assert (metadata["status"], metadata["success"]) == ("completed", False)
    assert_same_tree(metadata["summary"], {"score": 3, "name": "ü"})
    assert_same_tree(episode.get_final_state(), state)


def fail(exporter: DataExporter, steps: int, error: BaseException) -> None:
    """Raise an error in the middle of an episode."""
    with exporter, exporter.start_episode() as episode:
        for t in range(steps):
            episode.log_timestep(t, behavior={"x": float(t)})
        raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("on purpose — ü"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "interrupted"),
        (FileNotFoundError("odd name \udcff"), "failed"),
        (RuntimeError("nul \0 inside"), "failed"),
    ],
    ids=lambda value: ascii(value)[:30],
)
@pytest.mark.parametrize("steps", [5, 25])
def test_an_exception_ends_an_episode(
    tmp_path: Path, error: BaseException, status: str, steps: int
) -> None:
    exporter = DataExporter("test", tmp_path, progress=False, chunk_size=10)
    with pytest.raises(type(error)) as caught:
        fail(exporter, steps, error)
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    with ExperimentLoader(exporter.output_dir) as loader:
        found = loader.get_episode(0)
        metadata = found.get_metadata()
        assert found.get_behavior()["x"].tolist() == list(range(steps))
    assert (metadata["status"], metadata["success"]) == (status, False)
    expected = f"{type(error).__name__}: {error}".encode(errors="backslashreplace").decode()
    assert metadata["error"] == expected
    assert "Traceback (most recent call last)" in metadata["traceback"]
    assert "raise error" in metadata["traceback"]


def test_statuses_of_episodes_that_logged_nothing(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        with exporter.start_episode(0):
            pass
        with pytest.raises(ValueError, match="early"), exporter.start_episode(1):
            raise ValueError("early")
        exporter.start_episode(2)
        exporter.start_episode(3).log_timestep(0, behavior={"x": 1})
        with exporter.start_episode(4) as episode:
            episode.log_timestep(0)
        with exporter.start_episode(5) as episode:
            episode.log_static_data("maze", 1)
    with ExperimentLoader(exporter.output_dir) as loader:
        statuses = loader.episode_index["status"].tolist()
        steps = loader.episode_index["steps"].tolist()
    assert statuses[:4] == [b"empty", b"failed", b"empty", b"interrupted"]
    assert statuses[5] == b"empty"
    assert steps == [0, 0, 0, 1, 1, 0]


def test_every_call_after_the_end_is_refused(exporter: DataExporter) -> None:
    episode = exporter.start_episode(7)
    episode.log_timestep(0, behavior={"x": 1})
    episode.end()
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("log_timestep", (1,)),
        ("log_timesteps", ([1, 2],)),
        ("log_weight_change", (1, 2, 0.5, 0.5)),
        ("log_weight_changes", (1, [2], [0.5], [0.5])),
        ("log_event", ("lap", 1)),
        ("log_static_data", ("maze", 1)),
        ("end", ()),
    ]
    for name, arguments in calls:
        with pytest.raises(EpisodeEnded) as caught:
            getattr(episode, name)(*arguments)
        assert str(caught.value) == f"episode 7: {name} came after its end; start another episode"
    assert "ended" in repr(episode)


def test_ending_inside_the_block_is_the_end(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"x": 1})
        episode.end(summary={"done": True})

    assert read(tmp_path, log).get_metadata()["summary"] == {"done": True}


def test_totals_survive_rewards_beyond_all_bounds(tmp_path: Path) -> None:
    for rewards, total in [
        ([np.inf, -np.inf, 1.0], "nan"),
        ([1e308] * 3, "inf"),
        ([np.nan, 1.0], "nan"),
        ([0.5, -0.25, 0.0], "0.25"),
    ]:

        def log(episode: Episode, rewards: list[float] = rewards) -> None:
            for t, reward in enumerate(rewards):
                episode.log_timestep(t, reward=reward)

        for size in (1, 10_000):
            episode = read(tmp_path, log, chunk_size=size)
            assert str(episode.get_metadata()["total_reward"]) == total
            found = episode.get_rewards()["values"]
            np.testing.assert_array_equal(found, [value for value in rewards if value])


def test_an_episode_that_is_sent_elsewhere_says_what_to_send(exporter: DataExporter) -> None:
    with exporter.start_episode() as episode, pytest.raises(TypeError, match="send the exporter"):
        pickle.dumps(episode)
