"""JAX: arrays, pytrees, bfloat16, one transfer per call, `scan`, and logging from inside `jit`.

Run by test_jax.py, in a process of its own.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import FieldError
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.recording.episode import Episode

EXAMPLES = Path(__file__).parents[2] / "examples"


class Layer(NamedTuple):
    v: Any
    w: Any


def read(directory: Path, log: Any, **options: Any) -> RecordedEpisode:
    options = {"progress": False, "neural_sampling_rate": 1} | options
    with (
        DataExporter("jax", directory, **options) as exporter,
        exporter.start_episode(0) as episode,
    ):
        log(episode)
    return ExperimentLoader(exporter.output_dir).get_episode(0)


def test_arrays_and_pytrees(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for t in range(5):
            state = {
                "layers": [1.0, 2.0],
                "hidden": Layer(jnp.arange(3.0) + t, {"x": jnp.int32(t)}),
            }
            action = jnp.float16([t, 0.5])
            episode.log_timestep(t, state, jnp.arange(4) > t, {"action": action}, jnp.float32(t))

    episode = read(tmp_path, log)
    states = episode.get_neural_states()
    assert set(states) == {"timesteps", "layers", "hidden.v", "hidden.w.x"}
    assert states["hidden.v"].dtype == np.float32
    np.testing.assert_array_equal(states["hidden.v"], np.arange(3.0) + np.arange(5)[:, None])
    assert states["hidden.w.x"].tolist() == list(range(5))
    assert episode.get_behavior()["action"].dtype == np.float16
    assert episode.get_spikes()["neuron_ids"].tolist() == [1, 2, 3, 2, 3, 3]
    assert episode.get_rewards()["values"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_bfloat16_is_stored_as_float32_and_noted(tmp_path: Path, dtype: str) -> None:
    values = jnp.linspace(-3, 3, 64).astype(dtype)

    def log(episode: Episode) -> None:
        episode.log_timestep(0, {"v": values})

    episode = read(tmp_path, log)
    found = episode.get_neural_states()["v"][0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.asarray(values.astype(jnp.float32)))
    shard = next(tmp_path.glob("jax_*/shards/episode_0000.h5"))
    with h5py.File(shard) as file:
        assert file["episodes/episode_0000/neural_states/v"].attrs["logged_as"] == dtype


def test_one_transfer_per_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = []
    original = jax.device_get

    def counting(tree: Any) -> Any:
        transfers.append(len(jax.tree.leaves(tree)))
        return original(tree)

    monkeypatch.setattr(jax, "device_get", counting)

    def log(episode: Episode) -> None:
        x = jnp.ones(3)
        for t in range(4):
            state = {"a": Layer(np.zeros(2), x), "b": x}
            episode.log_timestep(t, state, x > 0, {"c": x, "d": 1.0}, jnp.float32(1))
        episode.log_timestep(4, behavior={"c": np.ones(3, np.float32), "d": 2.0})
        episode.log_timesteps(jnp.arange(5, 7), behavior={"c": jnp.ones((2, 3)), "d": np.ones(2)})

    episode = read(tmp_path, log, neural_sampling_rate=2)
    # No neural state is fetched that is not due, and nothing where there is nothing to fetch.
    assert transfers == [7, 4, 7, 4, 3]
    assert episode.get_behavior()["d"].tolist() == [1, 1, 1, 1, 2, 1, 1]


def test_logging_from_inside_jit_is_in_order(tmp_path: Path) -> None:
    def log_all(episode: Episode) -> None:
        def log(t: Any, v: Any) -> None:
            episode.log_timestep(t, {"v": v}, behavior={"first": v[0]})

        @jax.jit
        def run() -> Any:
            def step(t: Any, v: Any) -> Any:
                io_callback(log, None, t, v, ordered=True)
                return v * 1.0 + 1.0

            return jax.lax.fori_loop(0, 300, step, jnp.zeros(50_000))

        run()
        jax.effects_barrier()

    episode = read(tmp_path, log_all, async_write=True)
    states = episode.get_neural_states()
    assert states["timesteps"].tolist() == list(range(300))
    assert (states["v"] == np.arange(300)[:, None]).all()
    assert episode.get_behavior()["first"].tolist() == list(range(300))


def test_a_traced_value_is_an_error_that_names_the_callback(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        with pytest.raises(FieldError, match=r"inside jit, log through .*io_callback"):
            jax.jit(lambda v: episode.log_timestep(0, {"v": v}))(jnp.zeros(3))

    assert len(read(tmp_path, log).get_neural_states()["timesteps"]) == 0


@pytest.mark.parametrize(
    ("example", "expected"),
    [("jax_scan", "episode 2: layer.v (100, 200)"), ("jax_io_callback", "potentials (500, 100)")],
)
def test_the_examples_run(tmp_path: Path, example: str, expected: str) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / f"{example}.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
