"""Record from inside `jax.jit`, as the computation goes: `jax.experimental.io_callback`, ordered.

    python examples/jax_io_callback.py [OUTPUT_DIRECTORY]

For loops that run too long, or hold too much, to return every step as `jax_scan.py` does. With
`ordered=True` the calls come one after the other, in the order of the steps. Wait for them
(`jax.effects_barrier()`) before the episode ends.
"""

import sys

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from shardwriter import DataExporter, ExperimentLoader

NEURONS, STEPS = 100, 500


def simulation(episode):
    """Return a compiled simulation that logs to an episode."""

    def log(timestep, v, fired):
        episode.log_timestep(timestep, {"membrane_potential": v}, fired, {"mean": v.mean()})

    def step(t, carry):
        v, key = carry
        key, here = jax.random.split(key)
        v = 0.9 * v + 0.1 + 0.4 * jax.random.normal(here, (NEURONS,))
        fired = v > 1.0
        io_callback(log, None, t, v, fired, ordered=True)
        return jnp.where(fired, 0.0, v), key

    @jax.jit
    def run(key):
        return jax.lax.fori_loop(0, STEPS, step, (jnp.zeros(NEURONS), key))

    return run


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with (
        DataExporter("jax_io_callback", output, neural_sampling_rate=1, seed=4) as exporter,
        exporter.start_episode() as episode,
    ):
        simulation(episode)(jax.random.key(episode.seed % 2**32))
        jax.effects_barrier()

    with ExperimentLoader(exporter.output_dir) as loader:
        states = loader.get_episode(0).get_neural_states()
        spikes = loader.get_episode(0).get_spikes()
        print(f"timesteps {states['timesteps'][0]} to {states['timesteps'][-1]} in order")
        print(f"potentials {states['membrane_potential'].shape}")
        print(f"{len(spikes['timesteps'])} spikes")


if __name__ == "__main__":
    main()
