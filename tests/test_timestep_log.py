"""Timesteps: sampling, spikes in every form, rewards, and many of them in one call."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import KnownEpisode, assert_same, record, tables_by_loader

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import FieldError
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.recording.episode import Episode

pytestmark = pytest.mark.usefixtures("both_ways")

UNCHECKED = {"validate_data": False}


def read(directory: Path, log: Any, **options: Any) -> RecordedEpisode:
    """Record one episode, return a handle of it, whose loader stays open."""
    return ExperimentLoader(record(directory, log, **options)).get_episode(0)


# -- sampling -----------------------------------------------------------------------------

SAMPLINGS: list[tuple[int, list[int], list[int]]] = [
    (1, [0, 1, 2, 3], [0, 1, 2, 3]),
    (3, list(range(10)), [0, 3, 6, 9]),
    (3, [5, 6, 7, 8, 9], [5, 8]),
    (10, [3, 12, 13, 14, 30, 35, 39, 40], [3, 13, 30, 40]),
    (100, [0, 99, 199, 200], [0, 199]),
    (2, [10**9, 10**9 + 1, 10**9 + 5], [10**9, 10**9 + 5]),
    (1, [4, 4, 5, 5, 5, 9], [4, 5, 9]),
]


@pytest.mark.parametrize(("rate", "timesteps", "stored"), SAMPLINGS)
def test_neural_states_are_stored_at_the_sampling_rate(
    tmp_path: Path, rate: int, timesteps: list[int], stored: list[int]
) -> None:
    def log(episode: Episode) -> None:
        for t in timesteps:
            episode.log_timestep(t, {"v": float(t)}, behavior={"t": t})

    def log_block(episode: Episode) -> None:
        values = np.array(timesteps)
        episode.log_timesteps(timesteps, {"v": values.astype(float)}, behavior={"t": values})

    for how in (log, log_block):
        episode = read(tmp_path, how, neural_sampling_rate=rate)
        states = episode.get_neural_states()
        assert states["timesteps"].tolist() == stored
        assert states["v"].tolist() == stored
        assert episode.get_behavior()["t"].tolist() == timesteps


def test_the_first_state_is_stored_whenever_it_comes(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for t in range(50):
            episode.log_timestep(t, {"v": float(t)} if t >= 7 else None)
        episode.log_timestep(50, {})

    states = read(tmp_path, log, neural_sampling_rate=20).get_neural_states()
    assert states["timesteps"].tolist() == [7, 27, 47]


# -- spikes -------------------------------------------------------------------------------

FIRED = [1, 0, 0, 1, 1]


FORMS = [
    np.array(FIRED, bool),
    np.array(FIRED, np.uint8),
    np.array(FIRED, np.float32) * -0.5,
    FIRED,
    [bool(fired) for fired in FIRED],
    np.array(FIRED * 2)[:5],
    np.array([[fired, 9] for fired in FIRED])[:, 0],
]


def test_spikes_are_the_entries_that_are_not_zero(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for i, form in enumerate(FORMS):
            episode.log_timestep(4 * i, spikes=form)
            episode.log_timestep(4 * i + 1, spikes=np.zeros(5))
            episode.log_timesteps([4 * i + 2, 4 * i + 3], spikes=np.array([form, form]))

    spikes = read(tmp_path, log).get_spikes()
    timesteps = [4 * i + k for i in range(len(FORMS)) for k in (0, 2, 3)]
    assert spikes["timesteps"].tolist() == np.repeat(timesteps, 3).tolist()
    assert spikes["neuron_ids"].tolist() == [0, 3, 4] * 3 * len(FORMS)
    assert spikes["neuron_ids"].dtype == np.int32


def test_spike_ids_are_stored_as_they_come(tmp_path: Path) -> None:
    forms = [[7, 2, 7], np.int8([7, 2, 7]), np.uint64([7, 2, 7]), (7, 2, 7)]

    def log(episode: Episode) -> None:
        for i, ids in enumerate(forms):
            episode.log_timestep(5 * i, spike_ids=ids)
            episode.log_timestep(5 * i + 1, spike_ids=[])
            block = [5 * i + 2, 5 * i + 3]
            episode.log_timesteps(block, spike_ids=[ids, []])
            arrays = [np.asarray(ids), np.zeros(0, np.int32)]
            episode.log_timesteps([5 * i + 3, 5 * i + 4], spike_ids=arrays)

    spikes = read(tmp_path, log).get_spikes()
    timesteps = [5 * i + k for i in range(len(forms)) for k in (0, 2, 3)]
    assert spikes["timesteps"].tolist() == np.repeat(timesteps, 3).tolist()
    assert spikes["neuron_ids"].tolist() == [7, 2, 7] * 3 * len(forms)


def test_more_spikes_in_a_timestep_than_fit_a_slot(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for t in range(5):
            episode.log_timestep(t, spikes=np.ones(1000, bool))

    episode = read(tmp_path, log, chunk_size=16)
    spikes = episode.get_spikes()
    assert spikes["timesteps"].tolist() == np.repeat(range(5), 1000).tolist()
    assert spikes["neuron_ids"].tolist() == list(range(1000)) * 5
    assert episode.get_metadata()["total_spikes"] == 5000


def test_no_spike_at_all_is_an_empty_table(tmp_path: Path) -> None:
    episode = read(tmp_path, lambda episode: episode.log_timestep(0, spikes=[0, 0]))
    assert episode.get_spikes()["neuron_ids"].dtype == np.int32
    assert len(episode.get_spikes()["neuron_ids"]) == 0
    assert episode.get_spikes_as_events() == []


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    (
        {"spikes": [[1, 0]]},
        "spikes: expected one entry per neuron, shape (N,), got int64 (1, 2)",
    ),
    ({"spikes": 1}, "spikes: expected one entry per neuron, shape (N,), got int64 ()"),
    ({"spikes": [1], "spike_ids": [1]}, "spikes: expected spikes or spike_ids, got both"),
    ({"spike_ids": [0.5]}, "spike_ids: expected integer ids, shape (K,), got float64 (1,)"),
    ({"spike_ids": [[1]]}, "spike_ids: expected integer ids, shape (K,), got int64 (1, 1)"),
    ({"spike_ids": 3}, "spike_ids: expected integer ids, shape (K,), got int64 ()"),
    ({"spike_ids": [2**31]}, "spike_ids: expected ids from"),
    ({"spike_ids": np.arange(2**31, 2**31 + 100)}, "spike_ids: expected ids from"),
    ({"spike_ids": np.array([2**63], np.uint64)}, "spike_ids: expected ids from"),
    ({"reward": "1.5"}, "reward: expected a number, got"),
    ({"reward": [1.0, 2.0]}, "reward: expected a number, got list"),
    ({"reward": 10**400}, "reward: expected a number, got int"),
    ({"reward": 1j}, "reward: expected a number, got complex"),
    ({"timestep": 1.5}, "timestep: expected an int"),
    ({"timestep": "1"}, "timestep: expected an int"),
    ({"timestep": 2**63}, "timestep: expected an integer"),
    ({"timestep": 2**200}, "timestep: expected an integer"),
]


@pytest.mark.parametrize("options", [{}, UNCHECKED], ids=["checked", "unchecked"])
def test_a_bad_argument_is_refused_and_logs_nothing(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    good: dict[str, Any] = {"timestep": 1, "neural_state": {"v": 2.0}, "behavior": {"x": 2.0}}

    def log(episode: Episode) -> None:
        episode.log_timestep(0, {"v": 1.0}, behavior={"x": 1.0}, reward=0.5)
        for arguments, text in BAD_ARGUMENTS:
            with pytest.raises(FieldError) as caught:
                episode.log_timestep(**{**good, **arguments})
            assert str(caught.value).startswith(f"episode 0, {text}"), arguments

    episode = read(tmp_path, log, neural_sampling_rate=1, **options)
    assert episode.get_behavior()["x"].tolist() == [1.0]
    assert episode.get_neural_states()["v"].tolist() == [1.0]
    assert len(episode.get_spikes()["timesteps"]) == 0
    assert episode.get_metadata()["total_timesteps"] == 1


def test_ids_below_zero_are_kept_where_nothing_is_checked(tmp_path: Path) -> None:
    episode = read(tmp_path, lambda e: e.log_timestep(-3, spike_ids=[-1, 5]), **UNCHECKED)
    assert episode.get_spikes()["neuron_ids"].tolist() == [-1, 5]
    assert episode.get_spikes()["timesteps"].tolist() == [-3, -3]


# -- rewards ------------------------------------------------------------------------------


def test_a_reward_is_any_number(tmp_path: Path) -> None:
    rewards = [1, True, 0.5, np.float32(0.5), np.int8(-3), np.array(2.5)]

    def log(episode: Episode) -> None:
        for i, reward in enumerate(rewards):
            episode.log_timestep(3 * i, reward=reward)
            episode.log_timesteps([3 * i + 1, 3 * i + 2], reward=[reward, reward])

    found = read(tmp_path, log).get_rewards()
    assert found["values"].dtype == np.float64
    assert found["values"].tolist() == np.repeat(np.array(rewards, float), 3).tolist()


def test_rewards_of_zero_are_not_stored(tmp_path: Path) -> None:
    values = [0.0, -0.0, 1e-300, None, 0, False, float("nan"), -2.0]

    def log(episode: Episode) -> None:
        for t, reward in enumerate(values):
            episode.log_timestep(t, reward=reward)

    found = read(tmp_path, log).get_rewards()
    assert found["timesteps"].tolist() == [2, 6, 7]
    np.testing.assert_array_equal(found["values"], [1e-300, np.nan, -2.0])


# -- many timesteps -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 13, 1000])
@pytest.mark.parametrize("chunk_size", [10, 10_000])
def test_a_block_equals_as_many_single_calls(tmp_path: Path, size: int, chunk_size: int) -> None:
    known = KnownEpisode(id=4, steps=90, sampling=4)
    options = {"neural_sampling_rate": 4, "chunk_size": chunk_size}
    singly = record(tmp_path, known.log, **options)
    blocks = record(tmp_path, lambda episode: known.log_in_blocks(episode, size), **options)
    with ExperimentLoader(singly) as one, ExperimentLoader(blocks) as other:
        found = tables_by_loader(other, 0)
        assert_same(found, tables_by_loader(one, 0))
        del found["weight_changes/deltas"]
        assert_same(found, known.tables)
        names = ("total_timesteps", "total_spikes", "total_reward", "status", "seed")
        for name in names:
            pair = [loader.get_episode(0).get_metadata()[name] for loader in (one, other)]
            assert pair[0] == pair[1], name


def test_blocks_and_single_calls_may_alternate(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for t in range(0, 60, 3):
            episode.log_timestep(t, {"v": float(t)}, behavior={"x": t})
            block = np.arange(t + 1, t + 3)
            episode.log_timesteps(block, {"v": block.astype(float)}, behavior={"x": block})

    episode = read(tmp_path, log, neural_sampling_rate=4, chunk_size=7)
    assert episode.get_behavior()["x"].tolist() == list(range(60))
    assert episode.get_neural_states()["v"].tolist() == list(range(0, 60, 4))


@pytest.mark.parametrize("rate", [1, 3])
def test_timesteps_in_any_order_where_nothing_is_checked(tmp_path: Path, rate: int) -> None:
    timesteps = [5, 3, 6, 6, 7, 2, 12, -4, 12, 13]
    fired = [[t % 5] for t in timesteps]

    def log(episode: Episode) -> None:
        for t, ids in zip(timesteps, fired, strict=True):
            episode.log_timestep(t, {"v": float(t)}, behavior={"x": t}, spike_ids=ids, reward=t)

    def log_block(episode: Episode) -> None:
        values = np.array(timesteps)
        state = {"v": values.astype(float)}
        episode.log_timesteps(values, state, None, {"x": values}, values, spike_ids=fired)

    options = {"neural_sampling_rate": rate, **UNCHECKED}
    one, other = read(tmp_path, log, **options), read(tmp_path, log_block, **options)
    expected = {1: [5, 6, 7, 12, 13], 3: [5, 12]}[rate]
    for episode in (one, other):
        assert episode.get_neural_states()["timesteps"].tolist() == expected
        assert episode.get_behavior()["x"].tolist() == timesteps
        assert episode.get_behavior(start=3, stop=7)["x"].tolist() == [5, 3, 6, 6]
        assert episode.get_spikes()["timesteps"].tolist() == timesteps
        events = [(t, ids.tolist()) for t, ids in episode.get_spikes_as_events()]
        assert events == [
            (-4, [1]), (2, [2]), (3, [3]), (5, [0]), (6, [1, 1]), (7, [2]), (12, [2, 2]), (13, [3])
        ]  # fmt: skip


BAD_BLOCKS: list[tuple[dict[str, Any], str]] = [
    ({"timesteps": [0.5, 1.0]}, "timesteps: expected integers, shape (T,), got float64 (2,)"),
    ({"timesteps": [[1, 2]]}, "timesteps: expected integers, shape (T,), got int64 (1, 2)"),
    ({"timesteps": 3}, "timesteps: expected integers, shape (T,), got int64 ()"),
    ({"behavior": {"x": [1.0]}}, "behavior/x: expected float64 (2,), got float64 (1,)"),
    ({"behavior": {"y": [1.0]}}, "behavior/y: expected a leading axis of 2, got float64 (1,)"),
    ({"behavior": {"y": 1.0}}, "behavior/y: expected a leading axis of 2, got float64 ()"),
    ({"neural_state": {"v": np.zeros((3, 2))}}, "neural_states/v: expected float64 (2, 2)"),
    ({"spikes": [1, 0]}, "spikes: expected shape (2, N), got int64 (2,)"),
    ({"spikes": np.ones((3, 4))}, "spikes: expected shape (2, N), got float64 (3, 4)"),
    ({"spike_ids": [[1]]}, "spike_ids: expected 2 arrays, and no spikes, got 1"),
    ({"spike_ids": 5}, "spike_ids: expected 2 arrays"),
    ({"spike_ids": [[1], [0.5]]}, "spike_ids: expected integer ids"),
    ({"spike_ids": [np.array([1]), np.array([0.5])]}, "spike_ids: expected integer ids"),
    ({"spike_ids": [np.array([1]), np.array([True])]}, "spike_ids: expected integer ids"),
    ({"spike_ids": [np.array([1]), np.array([[2]])]}, "spike_ids: expected integer ids"),
    ({"spike_ids": [np.array([1]), np.array([2, -1])]}, "spike_ids: expected ids from 0 to"),
    ({"reward": [1.0]}, "reward: expected numbers, shape (2,), got float64 (1,)"),
    ({"reward": 1.0}, "reward: expected numbers, shape (2,), got float64 ()"),
    ({"reward": ["a", "b"]}, "reward: expected numbers, shape (2,)"),
]


def test_a_bad_block_is_refused_and_logs_nothing(tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "timesteps": [1, 2],
        "neural_state": {"v": np.ones((2, 2))},
        "behavior": {"x": [2.0, 3.0]},
    }

    def log(episode: Episode) -> None:
        episode.log_timestep(0, {"v": [0.0, 0.0]}, behavior={"x": 1.0})
        for arguments, text in BAD_BLOCKS:
            with pytest.raises(FieldError) as caught:
                episode.log_timesteps(**{**good, **arguments})
            assert str(caught.value).startswith(f"episode 0, {text}"), arguments
        episode.log_timesteps(**good)

    episode = read(tmp_path, log, neural_sampling_rate=1)
    assert episode.get_behavior()["x"].tolist() == [1.0, 2.0, 3.0]
    assert episode.get_neural_states()["v"].tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    assert episode.get_metadata()["total_timesteps"] == 3


def test_no_timestep_at_all_is_nothing(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        episode.log_timesteps([], {"v": np.zeros((0, 3))}, behavior={"x": []})

    episode = read(tmp_path, log)
    assert episode.get_metadata()["status"] == "empty"
    assert list(episode.get_behavior()) == ["timesteps"]


def test_a_refused_call_changes_nothing_for_those_that_follow(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        episode = exporter.start_episode()
        with pytest.raises(FieldError):
            episode.log_timestep(10**9, spikes=np.ones(7), behavior={"x": object()})
        episode.log_timestep(1, spikes=np.ones(3), behavior={"x": 1})
        with pytest.raises(FieldError):
            episode.log_timesteps([10**9], spikes=np.ones((1, 3)), reward=["x"])
        episode.log_timestep(2, spikes=np.ones(3), behavior={"x": 2})
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_behavior()["timesteps"].tolist() == [1, 2]
