"""Record a MuJoCo task under a central pattern generator, then play an episode again.

    python examples/mujoco_cheetah.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[mujoco]'`. Two half-centres of spiking neurons take turns and swing
the legs of Gymnasium's HalfCheetah. The wrapper records what the environment says and is told;
what the network does comes from `neural_state` and `spikes`, which are called at every step. Seed
and actions then lead through the same episode once more, value by value.
"""

import sys

import gymnasium
import mujoco
import numpy as np

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.interop.gymnasium import RecordEpisodes

NEURONS, STEPS = 40, 300
HALVES = np.repeat([0, 1], NEURONS // 2)  # which half-centre a neuron belongs to
SWING = np.array([-0.2, -0.2, 0, -0.5, -0.7, -0.2])  # joints of hind and front leg


class PatternGenerator:
    """Two populations that inhibit each other, and tire."""

    def __init__(self, rng):
        self.rng = rng
        self.v = rng.uniform(0, 1, NEURONS)
        self.fired = np.zeros(NEURONS, bool)
        self.rate, self.fatigue = np.array([0.2, 0.0]), np.zeros(2)

    def step(self):
        """Advance by a timestep; return the torques of the joints."""
        drive = 0.35 - 1.5 * self.rate[::-1] - self.fatigue
        self.v[self.fired] = 0
        self.v = 0.9 * self.v + drive[HALVES] + self.rng.normal(0, 0.1, NEURONS)
        self.v = np.maximum(self.v, -1)
        self.fired = self.v >= 1
        firing = np.bincount(HALVES, self.fired, 2) / (NEURONS // 2)
        self.rate = 0.8 * self.rate + 0.2 * firing
        self.fatigue = 0.97 * self.fatigue + 0.06 * firing
        return np.clip(9 * (self.rate[0] - self.rate[1]) * SWING, -1, 1).astype(np.float32)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    network = PatternGenerator(np.random.default_rng(0))
    with DataExporter("cheetah", output, neural_sampling_rate=1, seed=1) as exporter:
        exporter.save_config({"mujoco": mujoco.__version__, "neurons": NEURONS})
        env = RecordEpisodes(
            gymnasium.make("HalfCheetah-v5", max_episode_steps=STEPS),
            exporter,
            neural_state=lambda: {"membrane_potential": network.v},
            spikes=lambda: network.fired,
        )
        for _ in range(3):
            env.reset()
            done = False
            while not done:
                _, _, terminated, truncated, _ = env.step(network.step())
                done = terminated or truncated
        env.close()

    with ExperimentLoader(exporter.output_dir) as loader:
        for episode in loader:
            behavior, facts = episode.get_behavior(), episode.get_metadata()
            print(
                f"episode {episode.id}: return {facts['total_reward']:6.1f}, "
                f"at {behavior['info.x_position'][-1]:5.2f} m, {facts['total_spikes']:,} spikes"
            )
        behavior, seed = episode.get_behavior(), facts["seed"]
        last = episode.get_final_state()["observation"]

    again = gymnasium.make("HalfCheetah-v5")
    observation, _ = again.reset(seed=seed)
    for recorded, action in zip(behavior["observation"], behavior["action"], strict=True):
        np.testing.assert_array_equal(observation, recorded)
        observation, *_ = again.step(action)
    np.testing.assert_array_equal(observation, last)
    again.close()
    print(f"episode {episode.id} played again: all {STEPS + 1} observations are the same")


if __name__ == "__main__":
    main()
