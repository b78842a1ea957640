"""Record CartPole, export it as a Minari dataset, and import that as an experiment.

    python examples/minari_export.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[minari]'`. `shardwriter export minari DIR NAME` and `shardwriter
import minari NAME DIR` do the same. The dataset goes into OUTPUT_DIRECTORY too, not to where
Minari keeps yours.
"""

import os
import sys

import gymnasium
import minari
import numpy as np

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.interop.gymnasium import RecordEpisodes
from shardwriter.interop.minari import export_minari, import_minari

NAME = "cartpole/leaning-v0"


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    os.environ["MINARI_DATASETS_PATH"] = os.path.abspath(os.path.join(output, "minari"))
    with DataExporter("cartpole", output, seed=1) as exporter:
        env = RecordEpisodes(gymnasium.make("CartPole-v1"), exporter)
        for _ in range(5):
            observation, _ = env.reset()
            done = False
            while not done:
                action = int(observation[2] + observation[3] > 0)  # push where the pole leans
                observation, _, terminated, truncated, _ = env.step(action)
                done = terminated or truncated
        env.close()

    report = export_minari(exporter.output_dir, NAME, metadata={"algorithm_name": "leaning"})
    print(f"{report.episodes} episodes with {report.steps} steps in {report.directory}")

    dataset = minari.load_dataset(NAME)
    for episode in dataset:
        shape = episode.observations.shape
        print(f"episode {episode.id}: return {episode.rewards.sum():g}, observations {shape}")

    # The seeds make the environment begin as it did.
    (metadata,) = dataset.storage.get_episode_metadata([2])
    observation, _ = dataset.recover_environment().reset(seed=metadata["seed"])
    print(f"episode 2 begins again at {np.round(observation, 3)}")

    back = import_minari(NAME, output)
    with ExperimentLoader(exporter.output_dir) as first, ExperimentLoader(back.directory) as second:
        for one, other in zip(first, second, strict=True):
            ours, theirs = one.get_behavior(), other.get_behavior()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    print(f"imported, every value the same: {back.directory}")


if __name__ == "__main__":
    main()
