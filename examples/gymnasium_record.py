"""Record Gymnasium environments with a wrapper: CartPole, and eight of them at once.

pip install 'shardwriter[gymnasium]'
python examples/gymnasium_record.py [OUTPUT_DIRECTORY]
"""

import sys

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.interop.gymnasium import RecordEpisodes, RecordVectorEpisodes


def lean(observations):
    """Push the cart to where the pole falls."""
    return (observations[..., 2] + 0.3 * observations[..., 3] > 0).astype(np.int64)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("cartpole-wrapped", output, seed=1) as exporter:
        env = RecordEpisodes(gymnasium.make("CartPole-v1"), exporter)
        for _ in range(3):
            observation, _ = env.reset()
            done = False
            while not done:
                observation, _, terminated, truncated, _ = env.step(int(lean(observation)))
                done = terminated or truncated
        env.close()

        makers = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=100)] * 8
        envs = RecordVectorEpisodes(SyncVectorEnv(makers), exporter)
        observations, _ = envs.reset()
        for _ in range(150):
            observations, *_ = envs.step(lean(observations))
        envs.close()

    with ExperimentLoader(exporter.output_dir) as loader:
        for episode in loader:
            facts = episode.get_metadata()
            total, seed = facts["total_reward"], facts["seed"]
            print(f"episode {episode.id:2d}: return {total:5.0f}, seed {seed}")
        behavior = loader.get_episode(0).get_behavior()
        print({name: values.shape for name, values in behavior.items()})
        print("last observation:", loader.get_episode(0).get_final_state()["observation"])


if __name__ == "__main__":
    main()
