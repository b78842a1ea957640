"""Record what a JAX `lax.scan` has computed: a thousand timesteps in one call.

    python examples/jax_scan.py [OUTPUT_DIRECTORY]

The whole episode runs on the device as one compiled loop; its stacked outputs, nested as they are,
come to the host by one transfer and are logged at once.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shardwriter import DataExporter, ExperimentLoader

NEURONS, STEPS = 200, 1000


class Layer(NamedTuple):
    v: jax.Array
    adaptation: jax.Array


def step(layer, key):
    """Advance a layer of adaptive leaky integrate-and-fire neurons by one timestep."""
    noise = jax.random.normal(key, (NEURONS,))
    v = 0.9 * layer.v + 0.3 + 0.4 * noise - layer.adaptation
    fired = v > 1.0
    layer = Layer(jnp.where(fired, 0.0, v), 0.95 * layer.adaptation + 0.1 * fired)
    return layer, {"layer": layer, "fired": fired, "rate": fired.mean()}


@jax.jit
def simulate(key):
    start = Layer(jnp.zeros(NEURONS), jnp.zeros(NEURONS))
    return jax.lax.scan(step, start, jax.random.split(key, STEPS))[1]


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("jax_scan", output, neural_sampling_rate=10, seed=4) as exporter:
        for _ in range(3):
            with exporter.start_episode() as episode:
                out = simulate(jax.random.key(episode.seed % 2**32))
                episode.log_timesteps(
                    np.arange(STEPS),
                    {"layer": out["layer"]},  # the fields layer.v and layer.adaptation
                    out["fired"],
                    {"rate": out["rate"]},
                )

    with ExperimentLoader(exporter.output_dir) as loader:
        for episode in loader:
            states = episode.get_neural_states()
            spikes = episode.get_spikes()
            print(
                f"episode {episode.id}: layer.v {states['layer.v'].shape}, "
                f"layer.adaptation {states['layer.adaptation'].shape}, "
                f"{len(spikes['timesteps'])} spikes"
            )


if __name__ == "__main__":
    main()
