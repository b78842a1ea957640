"""Minari: what was recorded is loaded by it, value by value, and comes back."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset._storages import hdf5_storage

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.errors import ConfigError, ExperimentNotFound, FieldsDiffer
from shardwriter.interop.minari import export_minari, import_minari
from shardwriter.interop.minari_episodes import Episodes
from shardwriter.interop.spaces import space_from_json, space_to_json
from shardwriter.reading.recorded_episode import RecordedEpisode


class Everything(gymnasium.Env):
    """Has a space of every kind; terminates after its seed's steps, or is truncated after six."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (32, 32, 3), np.uint8),
            "pair": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(3))),
            "room": spaces.Dict({"number": spaces.Discrete(5, start=-1), "name": spaces.Text(8)}),
        }
    )
    action_space = spaces.Tuple(
        (spaces.MultiDiscrete([3, 4]), spaces.Box(np.zeros(2), np.array([1.0, 3.0]), dtype=float))
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count, self.observation_space._np_random = 0, self.np_random
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {"count": 0, "start": 1.5}

    def step(self, action: Any) -> Any:
        self.count += 1
        info = {"count": self.count, "pose": {"x": 0.25 * self.count}}
        ends = self.count == 4 + self.np_random.integers(0, 2), self.count == 6
        return self.observation_space.sample(), float(self.count % 2), *ends, info


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's datasets are in the test's directory."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def stacked(space: Any, values: list[Any]) -> Any:
    """Return values of a space as Minari has them: nested, with rows at the leaves."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [v[key] for v in values]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [v[i] for v in values]) for i, part in enumerate(space))
    return values if isinstance(space, spaces.Text) else np.array(values)


def check_equal(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            check_equal(got[key], expected[key])
    elif isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            check_equal(one, other)
    elif isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    else:
        assert got == expected


def record(directory: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Record three whole episodes and one that is left; return what was seen too."""
    from shardwriter.interop.gymnasium import RecordEpisodes

    seen: list[dict[str, Any]] = []
    with DataExporter("all", directory, seed=3, progress=False) as exporter:
        env = RecordEpisodes(Everything(), exporter, spikes=lambda: np.array([0, 1]))
        env.action_space.seed(1)
        for i in range(4):
            options = {"level": 2} if i == 1 else None
            observation, info = env.reset(seed=10 + i, options=options)
            one: dict[str, Any] = {"observations": [observation], "infos": [info]}
            one |= {"actions": [], "rewards": [], "ends": [], "seed": 10 + i, "options": options}
            while not (one["ends"] and any(one["ends"][-1])) and not (i == 3 and one["ends"]):
                one["actions"].append(env.action_space.sample())
                observation, reward, *end, info = env.step(one["actions"][-1])
                one["observations"].append(observation)
                for name, value in (("rewards", reward), ("ends", end), ("infos", info)):
                    one[name].append(value)
            seen.append(one)
        env.close()
    return exporter.output_dir, seen


def contents(directory: str | Path) -> list[dict[str, Any]]:
    with ExperimentLoader(directory) as loader:
        return [
            {
                "behavior": dict(episode.get_behavior()),
                "rewards": dict(episode.get_rewards()),
                "final": episode.get_static_data("last_observation") or episode.get_final_state(),
                "reset": episode.get_static_data("reset"),
            }
            for episode in loader
        ]


def test_there_and_back(tmp_path: Path) -> None:
    directory, seen = record(tmp_path)
    report = export_minari(directory, "test/all-v0", metadata={"author": {"me"}})
    assert (report.episodes, report.left_out, report.env) == (4, ("spikes",), None)
    assert report.notes == ("episode 3 neither terminated nor truncated: marked as truncated",)
    dataset = minari.load_dataset("test/all-v0")
    assert dataset.observation_space == Everything.observation_space
    assert dataset.action_space == Everything.action_space
    assert dataset.storage.metadata["author"] == {"me"}
    assert dataset.total_steps == report.steps == sum(len(one["ends"]) for one in seen)
    metadata = list(dataset.storage.get_episode_metadata(range(4)))
    for data, facts, one in zip(dataset, metadata, seen, strict=True):
        count = len(one["ends"])
        check_equal(data.observations, stacked(dataset.observation_space, one["observations"]))
        check_equal(data.actions, stacked(dataset.action_space, one["actions"]))
        check_equal(data.rewards, np.array(one["rewards"]))
        terminated, truncated = np.array(one["ends"], bool).T
        check_equal(data.terminations, terminated)
        if data.id != 3:
            check_equal(data.truncations, truncated)
        assert data.infos["count"].tolist() == list(range(count + 1))
        np.testing.assert_array_equal(data.infos["start"], [1.5] + [np.nan] * count)
        poses = [np.nan, *(info["pose"]["x"] for info in one["infos"][1:])]
        np.testing.assert_array_equal(data.infos["pose.x"], poses)
        assert (facts["seed"], facts.get("options")) == (one["seed"], one["options"])
        assert facts["shardwriter"] == {
            "episode_id": data.id,
            "status": "completed",
            "success": data.id != 3,
        }

    back = import_minari("test/all-v0", tmp_path)
    assert (back.episodes, back.steps) == (4, report.steps)
    for original, again in zip(contents(directory), contents(back.directory), strict=True):
        rows = original["behavior"]["timesteps"]
        start = again["behavior"].pop("info.start")
        assert len(start) == len(rows)
        assert np.isnan(start).all()
        assert np.isnan(again["reset"]["info"].pop("pose.x"))
        if not original["behavior"]["terminated"].any():
            again["behavior"]["truncated"] = original["behavior"]["truncated"]
        check_equal(again, original | {"reset": again["reset"]})
        assert again["reset"]["info"] == original["reset"]["info"]
        for name in ("seed", "options"):
            assert again["reset"][name] == original["reset"][name]
    second = export_minari(back.directory, "test/again-v0")
    assert (second.notes, second.spaces) == ((), "recorded with the environment")
    again = minari.load_dataset("test/again-v0")
    for one, other in zip(dataset, again, strict=True):
        check_equal(vars(other), vars(one))


def test_an_environment_is_made_again(tmp_path: Path) -> None:
    from shardwriter.interop.gymnasium import RecordEpisodes

    with DataExporter("cartpole", tmp_path, progress=False) as exporter:
        env = RecordEpisodes(gymnasium.make("CartPole-v1", max_episode_steps=9), exporter)
        for _ in range(2):
            env.reset()
            done = False
            while not done:
                _, _, terminated, truncated, _ = env.step(0)
                done = terminated or truncated
        env.close()
    assert export_minari(exporter.output_dir, "cart-v3", episodes=[1]).env == "CartPole-v1"
    dataset = minari.load_dataset("cart-v3")
    (facts,) = dataset.storage.get_episode_metadata([0])
    env = dataset.recover_environment()
    assert env.spec.max_episode_steps == 9
    np.testing.assert_array_equal(env.reset(seed=facts["seed"])[0], dataset[0].observations[0])
    for action, expected in zip(dataset[0].actions, dataset[0].observations[1:], strict=True):
        np.testing.assert_array_equal(env.step(action)[0], expected)
    back = import_minari("cart-v3", tmp_path)
    with ExperimentLoader(back.directory) as loader:
        assert loader.get_metadata()["env_id"] == back.env == "CartPole-v1"
        assert json.loads(loader.get_metadata()["minari"])["dataset_id"] == "cart-v3"


def logged_by_hand(directory: Path, **last: Any) -> Path:
    with DataExporter("hand", directory, progress=False) as exporter:
        for i in range(3):
            with exporter.start_episode() as episode:
                for t in range(5 * i):
                    behavior = {"x": np.full(2, t, np.float32), "y": t % 3, "turn": t % 4 - 1}
                    episode.log_timestep(2 * t, behavior=behavior, reward=float(t == 3))
                episode.end(final_state=last, summary={"score": {"mean": 0.5 * i}})
    return exporter.output_dir


def test_what_was_logged_by_hand(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"observations": ["x", "y"], "actions": ["turn"]}
    directory = logged_by_hand(tmp_path)
    report = export_minari(directory, "hand-v0", **fields)
    assert report.spaces == "inferred from the values, as no space was recorded"
    assert report.notes == (
        "episode 0 without steps: left out",
        "episodes 1-2 without a last observation: their last step is left out",
        "episodes 1-2 neither terminated nor truncated: marked as truncated",
    )
    dataset = minari.load_dataset("hand-v0")
    assert dataset.action_space == spaces.Discrete(4, start=-1)
    assert dataset.observation_space == spaces.Dict(
        {"x": spaces.Box(-np.inf, np.inf, (2,)), "y": spaces.Discrete(3)}
    )
    assert [len(data) for data in dataset] == [4, 9]
    assert dataset[0].observations["y"].tolist() == [0, 1, 2, 0, 1]
    assert dataset[0].rewards.tolist() == [0, 0, 0, 1]
    (facts,) = dataset.storage.get_episode_metadata([1])
    facts = facts["shardwriter"]
    assert (facts["episode_id"], facts["summary"]) == (2, {"score": {"mean": 1.0}})
    whole = logged_by_hand(tmp_path / "whole", x=np.full(2, 9, np.float32), y=2)
    report = export_minari(whole, "whole-v0", **fields)
    assert len(report.notes) == 2
    assert minari.load_dataset("whole-v0")[0].observations["x"][:, 0].tolist() == [0, 1, 2, 3, 4, 9]
    report = export_minari(whole, "one-v0", observations=["x"], actions=["turn"])
    assert (report.observation_space, report.left_out) == (
        "Box(-inf, inf, (2,), float32)",
        ("behavior/y",),
    )


def test_what_is_missing_is_named(tmp_path: Path, datasets: Path) -> None:
    directory = logged_by_hand(tmp_path)
    with pytest.raises(ConfigError, match=r"no observations .*; no actions .*has turn, x, y"):
        export_minari(directory, "a-v0")
    with pytest.raises(ConfigError, match=r"fields of behavior \(turn, x, y\), got 'z'"):
        export_minari(directory, "a-v0", observations=["z"], actions=["turn"])
    with DataExporter("bare", tmp_path, progress=False) as exporter:
        for i in range(2):
            with exporter.start_episode(i) as episode:
                episode.log_timestep(0, behavior={"observation": 1.0, "action": np.zeros(i + 1)})
                episode.end(final_state={"observation": 1.0})
    with pytest.raises(ConfigError, match="got 'no rewards; behavior has action, observation'"):
        export_minari(exporter.output_dir, "a-v0")
    with DataExporter("differ", tmp_path, progress=False) as exporter:
        for i in range(2):
            with exporter.start_episode(i) as episode:
                behavior = {"observation": 1.0, "action": np.zeros(i + 1)}
                episode.log_timestep(0, behavior=behavior, reward=1.0)
                episode.end(final_state={"observation": 1.0})
    with pytest.raises(FieldsDiffer, match="behavior/action"):
        export_minari(exporter.output_dir, "a-v0")
    for name in ("a", "a-v", "../a-v0"):
        with pytest.raises(ConfigError, match="an id with a version"):
            export_minari(directory, name)
    with pytest.raises(ExperimentNotFound, match="expected the Minari dataset a-v0"):
        import_minari("a-v0", tmp_path)
    assert not list(datasets.iterdir())
    export_minari(exporter.output_dir, "a-v0", episodes=[1])
    with pytest.raises(ConfigError, match="a dataset that does not exist"):
        export_minari(exporter.output_dir, "a-v0", episodes=[1])


def test_static_data_of_other_forms(tmp_path: Path) -> None:
    with DataExporter("forms", tmp_path, progress=False) as exporter:
        for final in (np.zeros(2), {"observation": np.zeros(2)}, {"observation": 9.0}):
            with exporter.start_episode() as episode:
                options = {"a": None, "b": {"c": 2, "d": None}}
                episode.log_static_data("reset", {"options": options})
                for t in range(3):
                    behavior = {"observation": float(t), "action": t, "info.n": t}
                    episode.log_timestep(t, behavior=behavior, reward=1.0)
                episode.end(final_state=final)
    with pytest.raises(ConfigError, match=r"last observation: expected \(\), as in behavior"):
        export_minari(exporter.output_dir, "forms-v0")
    report = export_minari(exporter.output_dir, "forms-v0", episodes=[0, 2])
    assert report.notes[0] == "episode 0 without a last observation: their last step is left out"
    dataset = minari.load_dataset("forms-v0")
    assert [data.observations.tolist() for data in dataset] == [[0, 1, 2], [0, 1, 2, 9]]
    assert [data.infos["n"].tolist() for data in dataset] == [[0, 1], [0, 1, 2]]
    (facts,) = dataset.storage.get_episode_metadata([1])
    assert facts["options"] == {"b": {"c": 2}}


def test_one_episode_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is written before the next is read."""
    order = []
    buffer, add = Episodes._buffer, hdf5_storage._add_episode_to_group

    def read(self: Episodes, episode: RecordedEpisode) -> Any:
        order.append("read")
        return buffer(self, episode)

    def write(data: Any, group: Any, spaces: Any = None) -> None:
        if "rewards" in data:
            order.append("write")
        add(data, group, spaces)

    monkeypatch.setattr(Episodes, "_buffer", read)
    monkeypatch.setattr(hdf5_storage, "_add_episode_to_group", write)
    export_minari(record(tmp_path)[0], "test/order-v0")
    assert order == ["read", "write"] * 4


def test_what_others_made(tmp_path: Path) -> None:
    """Nested infos, texts, vectors, and what has no row for each step."""
    infos = {
        "pose": {"q": np.arange(8.0).reshape(4, 2)},
        "word": ["a", "b", "c", "d"],
        "late": np.arange(3),
        "once": np.arange(7),
    }
    observations = np.arange(4.0)
    with warnings.catch_warnings(action="ignore"):  # of what it was not told
        minari.create_dataset_from_buffers(
            "other-v0",
            [
                EpisodeBuffer(
                    seed=4,
                    observations=observations,
                    actions=np.arange(3),
                    rewards=np.array([0.0, 1.0, -1.0]),
                    terminations=np.array([False, False, True]),
                    truncations=np.zeros(3, bool),
                    infos=infos,
                )
            ],
            observation_space=spaces.Box(0, 4, (), float),
            action_space=spaces.Discrete(3),
            description="others'",
        )
    minari.load_dataset("other-v0").storage.update_episode_metadata([{"quality/mean": 0.5}])
    report = import_minari("other-v0", tmp_path)
    with ExperimentLoader(report.directory) as loader:
        episode = loader.get_episode(0)
        behavior = episode.get_behavior()
        assert behavior["observation"].tolist() == [0, 1, 2]
        assert episode.get_final_state()["observation"] == 3
        assert behavior["info.pose.q"].tolist() == [[2, 3], [4, 5], [6, 7]]
        assert [str(word) for word in behavior["info.word"]] == ["b", "c", "d"]
        assert behavior["info.late"].tolist() == [0, 1, 2]
        reset = episode.get_static_data("reset")
        assert reset["seed"] == 4
        assert reset["info"]["pose.q"].tolist() == [0, 1]
        assert reset["info"]["word"] == "a"
        assert episode.get_static_data("infos")["once"].tolist() == list(range(7))
        assert episode.get_static_data("minari") == {"quality": {"mean": 0.5}}
        assert json.loads(loader.get_metadata()["minari"])["description"] == "others'"
    export_minari(report.directory, "back-v0")
    dataset = minari.load_dataset("back-v0")
    np.testing.assert_array_equal(dataset[0].observations, observations)
    np.testing.assert_array_equal(dataset[0].infos["pose.q"], infos["pose"]["q"])
    (facts,) = dataset.storage.get_episode_metadata([0])
    assert facts["quality"] == {"mean": 0.5}


@pytest.mark.parametrize(
    "space",
    [
        Everything.observation_space,
        Everything.action_space,
        spaces.Box(np.float32([[0, 1]]), np.float32([[2, np.inf]])),
        spaces.Box(0, 1, (0, 3), np.int16),
        spaces.MultiBinary([2, 3]),
        spaces.MultiDiscrete([[2, 3]], np.int32, start=[[1, 0]]),
        spaces.Dict({}),
    ],
)
def test_a_space_comes_back(space: Any) -> None:
    again = space_from_json(space_to_json(space))
    assert again == space
    assert again.dtype == space.dtype


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(logged_by_hand(tmp_path))
    fields = ["--observations", "x,y", "--actions", "turn", "--author", "me"]
    assert main(["export", "minari", directory, "hand/a-v0", *fields]) == 0
    text = capsys.readouterr().out
    assert "2 episodes with 13 steps" in text
    assert "actions: Discrete(4, start=-1)" in text
    assert main(["export", "minari", directory, "hand/b-v0", *fields, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 13
    assert main(["import", "minari", "hand/a-v0", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["episodes"], report["steps"], report["env"]) == (2, 13, None)
    assert main(["import", "minari", "hand/b-v0", str(tmp_path)]) == 0
    assert "2 episodes with 13 steps of hand/b-v0" in capsys.readouterr().out
    assert main(["export", "minari", directory, "hand/c-v0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("shardwriter: experiment: expected observations, actions and rewards")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["export", "import"])
def test_without_the_package(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    for name in ("minari", "minari_import", "minari_episodes"):
        monkeypatch.delitem(sys.modules, f"shardwriter.interop.{name}")
    assert main([command, "minari", str(tmp_path), "a-v0"]) == 1
    assert "minari is not installed; pip install 'shardwriter[minari]'" in capsys.readouterr().err
