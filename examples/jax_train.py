"""Train a JAX model on windows of a recorded experiment, one batch read ahead.

    python examples/jax_train.py [OUTPUT_DIRECTORY]

A walker is recorded together with neurons that are tuned to where it is going. A linear readout of
the last 20 steps learns to tell the velocity from the neurons. `iter_windows` gives NumPy arrays,
in an order that follows from seed and epoch; a thread reads and transfers the next batch while the
device computes.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from shardwriter import DataExporter, ExperimentLoader

STEPS, NEURONS, WINDOW = 2_000, 40, 20
FIELDS = ["neural_states/rate", "behavior/velocity"]


def rollout(episode):
    """Walk about smoothly; each neuron likes one direction."""
    rng = episode.rng
    steps = rng.normal(size=(STEPS + 20, 2)).cumsum(axis=0)
    velocity = ((steps[20:] - steps[:-20]) / 20**0.5).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, NEURONS, endpoint=False)
    drive = velocity @ np.stack([np.cos(angles), np.sin(angles)])
    rate = np.tanh(drive) + rng.normal(0, 1, (STEPS, NEURONS))
    episode.log_timesteps(
        np.arange(STEPS), {"rate": rate.astype(np.float32)}, behavior={"velocity": velocity}
    )


def loss(weights, rates, velocity):
    """Return the squared error at the last step of each window."""
    told = jnp.einsum("btn,tnd->bd", rates, weights)
    return ((told - velocity[:, -1]) ** 2).mean()


@jax.jit
def learn(weights, rates, velocity):
    """Return better weights, and how good the old ones were."""
    error, slope = jax.value_and_grad(loss)(weights, rates, velocity)
    return weights - 0.001 * slope, error


def on_device(batches):
    """Yield the fields of each batch on the device, the next one on its way meanwhile."""

    def fetch():
        batch = next(batches, None)
        return batch and [jax.device_put(batch[field]) for field in FIELDS]

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(fetch)
        while (fields := ahead.result()) is not None:
            ahead = thread.submit(fetch)
            yield fields


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("jax_train", output, neural_sampling_rate=1, seed=1) as exporter:
        for _ in range(6):
            with exporter.start_episode() as episode:
                rollout(episode)

    weights = jnp.zeros((WINDOW, NEURONS, 2))
    with ExperimentLoader(exporter.output_dir) as loader:
        for epoch in range(4):
            windows = loader.iter_windows(
                WINDOW, WINDOW // 4, FIELDS, batch_size=32, seed=1, epoch=epoch
            )
            errors = []
            for rates, velocity in on_device(windows):
                weights, error = learn(weights, rates, velocity)
                errors.append(error)
            print(f"epoch {epoch}: {len(errors)} batches, squared error {np.mean(errors):.3f}")


if __name__ == "__main__":
    main()
