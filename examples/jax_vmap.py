"""Record a `vmap`-ed JAX model: many networks on one accelerator, an episode for each.

    python examples/jax_vmap.py [OUTPUT_DIRECTORY]

Sixteen networks of adaptive integrate-and-fire neurons run side by side as one compiled function.
Each call of `log_timesteps` brings all of a step's arrays to the host by one transfer, and
potentials only where they are stored. Networks that fall silent end their episodes early; the
others go on.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from shardwriter import DataExporter, ExperimentLoader

NETWORKS, NEURONS, STEPS = 16, 100, 200


def step(state, key, drive):
    """Advance one network by one timestep."""
    v, adaptation = state
    v = 0.9 * v + drive + 0.3 * jax.random.normal(key, (NEURONS,)) - adaptation
    fired = v > 1.0
    return (jnp.where(fired, 0.0, v), 0.9 * adaptation + 0.2 * fired), fired


@jax.jit
def step_all(states, keys, drives):
    keys, subkeys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    states, fired = jax.vmap(step)(states, subkeys, drives)
    return states, keys, fired, fired.mean(axis=1)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    drives = jnp.linspace(-0.2, 0.2, NETWORKS)
    states = jnp.zeros((NETWORKS, NEURONS)), jnp.zeros((NETWORKS, NEURONS))
    silent_for = np.zeros(NETWORKS, int)

    with (
        DataExporter("jax_vmap", output, neural_sampling_rate=10, seed=3) as exporter,
        exporter.start_episodes(range(NETWORKS)) as batch,
    ):
        seeds = np.array(batch.seeds) % 2**32
        keys = jax.vmap(jax.random.PRNGKey)(seeds.astype(np.uint32))
        for t in range(STEPS):
            states, keys, fired, rate = step_all(states, keys, drives)
            batch.log_timesteps(
                t,
                neural_state={"v": states[0], "adaptation": states[1]},
                spikes=fired,
                behavior={"rate": rate},
            )  # in the episodes that have not ended
            silent_for = np.where(np.asarray(rate) > 0, 0, silent_for + 1)
            fell_silent = (silent_for > 20) & batch.active
            batch.end(fell_silent, success=False, summary={"drive": drives})
        batch.end(summary={"drive": drives})

    with ExperimentLoader(exporter.output_dir) as loader:
        for episode in loader:
            known = episode.get_metadata()
            print(
                f"episode {episode.id:2d}: drive {known['summary']['drive']:.3f}, "
                f"{known['total_timesteps']:3d} steps, {known['total_spikes']:4d} spikes"
            )


if __name__ == "__main__":
    main()
