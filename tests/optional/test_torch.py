"""PyTorch: tensors of every kind, as they are."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import torch

from shardwriter import DataExporter, ExperimentLoader

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_tensors(tmp_path: Path) -> None:
    weights = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    with (
        DataExporter("torch", tmp_path, neural_sampling_rate=1, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        for t in range(4):
            episode.log_timestep(
                torch.tensor(t),
                {"w": weights * t, "half": torch.full((2,), t, dtype=torch.float16)},
                torch.arange(5) > t,
                {"bf": torch.tensor([t + 0.125], dtype=torch.bfloat16), "n": torch.tensor(t)},
                weights.sum() * t,
            )
        episode.log_timesteps(
            torch.arange(4, 6),
            behavior={"bf": torch.ones(2, 1).bfloat16(), "n": torch.tensor([8, 9])},
        )
        exporter.save_checkpoint("w", {"weights": weights.detach()})
    with ExperimentLoader(exporter.output_dir) as loader:
        found = loader.get_episode(0)
        states, behavior = found.get_neural_states(), found.get_behavior()
        expected = np.arange(6.0).reshape(2, 3) * np.arange(4)[:, None, None]
        np.testing.assert_array_equal(states["w"], expected)
        assert (states["w"].dtype, states["half"].dtype) == (np.float32, np.float16)
        assert behavior["bf"].tolist() == [[0.125], [1.125], [2.125], [3.125], [1.0], [1.0]]
        assert behavior["n"].tolist() == [0, 1, 2, 3, 8, 9]
        assert behavior["n"].dtype == np.int64
        assert found.get_spikes().counts().tolist() == [0, 1, 2, 3, 4]
        assert found.get_rewards()["values"].tolist() == [15.0, 30.0, 45.0]
        np.testing.assert_array_equal(
            loader.get_checkpoint("w")["weights"], np.arange(6.0).reshape(2, 3)
        )
    with h5py.File(exporter.output_dir / "shards" / "episode_0000.h5") as file:
        column = file["episodes/episode_0000/behavior/bf"]
        assert (column.dtype, column.attrs["logged_as"]) == (np.float32, "bfloat16")


def test_the_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / "torch_policy.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "episode 1: hidden (100, 32) float32, (400, 2)" in done.stdout
