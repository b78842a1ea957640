"""Learn from a Minari dataset: import it, and clone its behaviour from batches of windows.

    python examples/minari_import.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[minari]'`. Minari's own collector stands for whoever made your
dataset, which `minari.download_dataset` brings. `shardwriter import minari NAME DIR` imports it
too.
"""

import os
import sys
import tempfile

import gymnasium
import minari
import numpy as np

from shardwriter import ExperimentLoader
from shardwriter.interop.minari import import_minari

NAME = "cartpole/expert-v0"
FIELDS = ["behavior/observation", "behavior/action"]


def collect():
    """Let an expert balance the pole, and Minari collect what it does."""
    env = minari.DataCollector(gymnasium.make("CartPole-v1", max_episode_steps=200))
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        done = False
        while not done:
            action = int(observation @ [0.05, 0.2, 1, 0.3] > 0)
            observation, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
    fields = ("algorithm_name", "author", "author_email", "code_permalink", "description")
    env.create_dataset(NAME, eval_env="CartPole-v1", **dict.fromkeys(fields, "-"))
    env.close()


def balanced(policy):
    """Return for how many steps a linear policy keeps the pole up."""
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=100)
    steps, done = 0, False
    while not done:
        observation, _, terminated, truncated, _ = env.step(int(observation @ policy > 0))
        steps, done = steps + 1, terminated or truncated
    env.close()
    return steps


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with tempfile.TemporaryDirectory() as datasets:
        os.environ["MINARI_DATASETS_PATH"] = datasets  # not where Minari keeps yours
        collect()
        report = import_minari(NAME, output)
        theirs = [(one.observations, one.actions) for one in minari.load_dataset(NAME)]
    print(f"{report.episodes} episodes of {NAME} in {report.directory}")

    with ExperimentLoader(report.directory) as loader:
        for episode, (observations, actions) in zip(loader, theirs, strict=True):
            behavior = episode.get_behavior()
            np.testing.assert_array_equal(behavior["observation"], observations[:-1])
            np.testing.assert_array_equal(behavior["action"], actions)
            last = episode.get_final_state()["observation"]  # the one after the last action
            np.testing.assert_array_equal(last, observations[-1])

        squares, products = np.zeros((4, 4)), np.zeros(4)
        for batch in loader.iter_windows(8, 8, FIELDS, batch_size=16, seed=0):
            observations = batch["behavior/observation"].reshape(-1, 4)
            pushes = 2 * batch["behavior/action"].ravel() - 1  # -1 to the left, 1 to the right
            squares += observations.T @ observations
            products += observations.T @ pushes
        policy = np.linalg.solve(squares, products)
    print(f"pushes to the right if {policy.round(1)} · (x, velocity, angle, its velocity) > 0")
    print(f"which balances the pole for {balanced(policy)} steps")


if __name__ == "__main__":
    main()
