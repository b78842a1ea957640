"""Gymnasium: what an environment said and was told, step by step, in every autoreset mode."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ConfigError
from shardwriter.interop.gymnasium import RecordEpisodes, RecordVectorEpisodes


class Counter(gymnasium.Env):
    """Counts steps since its reset; ends after its seed's remainder of steps."""

    observation_space = spaces.Dict(
        {
            "count": spaces.Discrete(100),
            "pair": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(3))),
        }
    )
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int = 4) -> None:
        self.length = length

    def _observation(self) -> Any:
        self.noise = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"count": self.count, "pair": (self.noise, np.ones(3, np.int8))}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self._observation(), {"start": 1}

    def step(self, action: Any) -> Any:
        self.count += 1
        done = self.count == self.length
        info = {"half": 0.5 * self.count, "text": "no number"}
        return self._observation(), float(self.count == 2), done, False, info


def options(directory: Path) -> Any:
    return DataExporter("gym", directory, neural_sampling_rate=1, progress=False)


def test_an_environment_records_itself(tmp_path: Path) -> None:
    seen: list[list[Any]] = []
    with options(tmp_path) as exporter:
        env = RecordEpisodes(
            Counter(),
            exporter,
            neural_state=lambda: {"v": np.full(3, 7.0)},
            spikes=lambda: np.array([0, 1, 1]),
        )
        for _ in range(2):
            observation, _ = env.reset()
            seen.append([observation])
            done = False
            while not done:
                observation, _, done, _, _ = env.step(np.float32([0.25]))
                seen[-1].append(observation)
        env.reset(seed=5, options={"level": 2})
        env.step(np.float32([0.5]))
        env.close()
    with ExperimentLoader(exporter.output_dir) as loader:
        for episode, observations in zip(list(loader)[:2], seen, strict=True):
            behavior = episode.get_behavior()
            assert behavior["observation.count"].tolist() == [0, 1, 2, 3]
            noises = [one["pair"][0] for one in observations]
            np.testing.assert_array_equal(behavior["observation.pair.0"], noises[:-1])
            last = episode.get_final_state()
            assert last["observation.count"] == 4
            np.testing.assert_array_equal(last["observation.pair.0"], noises[-1])
            assert behavior["observation.pair.1"].dtype == np.int8
            assert behavior["action"].tolist() == [[0.25]] * 4
            assert behavior["terminated"].tolist() == [False] * 3 + [True]
            assert not behavior["truncated"].any()
            assert behavior["info.half"].tolist() == [0.5, 1, 1.5, 2]
            assert episode.get_rewards()["timesteps"].tolist() == [1]
            assert episode.get_neural_states()["v"].shape == (4, 3)
            assert episode.get_spikes()["neuron_ids"].tolist() == [1, 2] * 4
            facts = episode.get_metadata()
            assert episode.get_static_data("reset")["seed"] == facts["seed"]
            assert (facts["status"], facts["success"]) == ("completed", True)
        left = loader.get_episode(2)
        assert left.get_static_data("reset") == {
            "seed": 5,
            "options": {"level": 2},
            "info": {"start": 1.0},
        }
        assert left.get_static_data("last_observation")["observation.count"] == 1
        assert not left.get_metadata()["success"]


def test_environments_close_after_their_exporter(tmp_path: Path) -> None:
    with options(tmp_path) as exporter:
        env = RecordEpisodes(Counter(), exporter)
        envs = RecordVectorEpisodes(SyncVectorEnv([Counter]), exporter)
        for each, action in ((env, np.float32([0.25])), (envs, np.float32([[0.25]]))):
            each.reset()
            each.step(action)
    env.close()
    envs.close()
    with ExperimentLoader(exporter.output_dir) as loader:
        assert [len(episode.get_behavior()["action"]) for episode in loader] == [1, 1]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_in_every_autoreset_mode(tmp_path: Path, mode: AutoresetMode) -> None:
    lengths = (2, 3)
    with options(tmp_path) as exporter:
        makers = [lambda n=n: Counter(n) for n in lengths]
        envs = RecordVectorEpisodes(
            SyncVectorEnv(makers, autoreset_mode=mode),
            exporter,
            neural_state=lambda: {"env": np.arange(2.0)[:, None]},
        )
        envs.reset()
        for _ in range(12):
            _, _, terminated, _, _ = envs.step(np.float32([[0.1], [0.2]]))
            if mode is AutoresetMode.DISABLED and terminated.any():
                envs.reset(options={"reset_mask": terminated})
        envs.close()
    whole = 0
    with ExperimentLoader(exporter.output_dir) as loader:
        for episode in loader:
            behavior = episode.get_behavior()
            if "observation.count" not in behavior or not episode.get_metadata()["success"]:
                continue
            whole += 1
            env = int(episode.get_neural_states()["env"][0, 0])
            length = lengths[env]
            assert behavior["observation.count"].tolist() == list(range(length))
            assert behavior["terminated"].tolist() == [False] * (length - 1) + [True]
            np.testing.assert_allclose(behavior["action"], [[0.1 * (env + 1)]] * length)
            assert behavior["info.half"].tolist() == [0.5 * (i + 1) for i in range(length)]
            assert episode.get_final_state()["observation.count"] == length
            assert episode.get_rewards()["timesteps"].tolist() == [1]
    extra = 1 if mode is AutoresetMode.NEXT_STEP else 0
    assert whole == sum(12 // (length + extra) for length in lengths)


def test_a_vector_environment_with_one_generator(tmp_path: Path) -> None:
    drawn = []
    for seed in (None, 7, 7):
        with options(tmp_path / str(len(drawn))) as exporter:
            made = gymnasium.make_vec("CartPole-v1", num_envs=2)  # computes both at once
            envs = RecordVectorEpisodes(made, exporter)
            drawn.append(envs.reset(seed=seed)[0])
            with pytest.raises(gymnasium.error.Error):
                envs.reset(seed=[1, 2])
            envs.close()
        with ExperimentLoader(exporter.output_dir) as loader:
            for i, observation in enumerate(drawn[-1]):
                episode = loader.get_episode(i)
                assert episode.get_static_data("reset")["seed"] is None
                last = episode.get_static_data("last_observation")["observation"]
                np.testing.assert_array_equal(last, observation)
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_a_space_without_a_form_is_refused(tmp_path: Path) -> None:
    env = Counter()
    env.observation_space = spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))})
    with options(tmp_path) as exporter, pytest.raises(ConfigError, match="observation_space"):
        RecordEpisodes(env, exporter)
