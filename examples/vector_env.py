"""Record a vectorised Gymnasium environment: one process, eight carts, one call for all.

    pip install 'shardwriter[gymnasium]'
    python examples/vector_env.py [OUTPUT_DIRECTORY]

Eight CartPoles are stepped together by a layer of leaky integrate-and-fire neurons per cart. An
environment whose pole fell is reset by Gymnasium, and its place in the batch is taken by a new
episode, so that each shard holds one episode from its reset to its end.
"""

import sys

import gymnasium
import numpy as np

from shardwriter import DataExporter, ExperimentLoader

ENVS, NEURONS, STEPS = 8, 40, 300


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 1, (4, NEURONS))
    sides = np.sign(weights[2] + weights[3])  # what a neuron votes for: the pole's own side
    v = np.zeros((ENVS, NEURONS), np.float32)
    rate = np.zeros((ENVS, NEURONS))

    envs = gymnasium.make_vec("CartPole-v1", num_envs=ENVS, vectorization_mode="sync")
    with (
        DataExporter("vector_env", output, neural_sampling_rate=5, async_write=True) as exporter,
        exporter.start_episodes(count=ENVS) as batch,
    ):
        observation, _ = envs.reset(seed=batch.seeds)
        done = np.zeros(ENVS, bool)
        for _ in range(STEPS):
            drive = observation * [0.2, 0.5, 8.0, 2.0] @ weights
            v = (0.8 * v + drive + rng.normal(0, 0.1, v.shape)).astype(np.float32)
            fired = v > 1
            v[fired] = 0
            rate = 0.7 * rate + fired
            action = ((rate @ sides) > 0).astype(int)

            before = observation
            observation, reward, terminated, truncated, _ = envs.step(action)
            # By default the step after an episode's end only resets its environment: it belongs to
            # no episode. Here the new one begins, and logs from the next step on.
            took_part = ~done
            batch.restart(done)
            batch.log_timesteps(
                batch.steps,  # every episode counts its own, from 0
                neural_state={"membrane_potential": v},
                spikes=fired,
                behavior={"observation": before, "action": action},
                reward=reward,
                active=took_part,
            )
            done = terminated | truncated
            batch.end(done, success=truncated, summary={"tilt_rad": before[:, 2]})
    envs.close()

    with ExperimentLoader(exporter.output_dir) as loader:
        index = loader.episode_index
        print(f"{len(index)} episodes, {index['steps'].sum():,} steps: {exporter.output_dir}")
        best = loader.get_episode(int(index["episode_id"][index["steps"].argmax()]))
        spikes = best.get_spikes()
        print(f"longest: episode {best.id}, {best.get_metadata()['total_timesteps']} steps")
        print(f"its neurons fired {len(spikes['neuron_ids']):,} times")


if __name__ == "__main__":
    main()
