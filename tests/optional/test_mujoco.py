"""A MuJoCo task of Gymnasium, recorded step by step."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.interop.gymnasium import RecordEpisodes


def test_a_half_cheetah_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working directory
    with DataExporter("cheetah", tmp_path, progress=False) as exporter:
        env = RecordEpisodes(gymnasium.make("HalfCheetah-v5", max_episode_steps=20), exporter)
        first, _ = env.reset()
        done = False
        while not done:
            last, _, _, done, info = env.step(np.zeros(6, np.float32))
        env.close()
    with ExperimentLoader(exporter.output_dir) as loader:
        episode = loader.get_episode(0)
        behavior = episode.get_behavior()
        assert loader.get_metadata()["env_id"] == "HalfCheetah-v5"
        assert behavior["observation"].shape == (20, 17)
        np.testing.assert_array_equal(behavior["observation"][0], first)
        np.testing.assert_array_equal(episode.get_final_state()["observation"], last)
        assert behavior["info.x_velocity"][-1] == info["x_velocity"]
        assert behavior["truncated"].tolist() == [False] * 19 + [True]
        again = gymnasium.make("HalfCheetah-v5")
        replayed, _ = again.reset(seed=episode.get_metadata()["seed"])
        np.testing.assert_array_equal(replayed, first)
