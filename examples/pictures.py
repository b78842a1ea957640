"""Draw pictures of an experiment: of one episode, of a part of it, and of all.

    python examples/pictures.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[plot]'`. `shardwriter plot DIR` draws the same, with `--episode 3`
that of one. Three things make a picture speak: units, for its axes; the static data `populations`,
for its colours; and `dt`, for seconds and hertz.
"""

import sys

import numpy as np

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.plot import plot_episode, plot_experiment

POPULATIONS = {"place cells": [0, 160], "interneurons": [160, 200]}
NEURONS, STEPS, DT = 200, 3_000, 1e-3


def rollout(episode):
    """Run through a room of 1 m; place cells fire where they like it, all others everywhere."""
    rng = episode.rng
    episode.log_static_data("populations", POPULATIONS)
    centres = rng.random((160, 2))
    position, velocity = rng.random(2), np.zeros(2)
    v = np.full(NEURONS, -65, np.float32)
    for t in range(STEPS):
        velocity = 0.99 * velocity + rng.normal(0, 3e-4, 2)
        velocity[(position + velocity < 0) | (position + velocity > 1)] *= -1  # off the wall
        position = position + velocity
        near = np.exp(-((position - centres) ** 2).sum(axis=1) / 0.02)
        v += (-65 - v) / 20 + rng.normal(0, 1, NEURONS)
        v[:160] += 1.2 * near
        v[160:] += 0.6
        fired = v >= -50
        v[fired] = -65
        at_home = np.hypot(*(position - 0.5)) < 0.1
        episode.log_timestep(
            t, {"membrane_potential": v}, fired, {"position": position}, reward=0.01 * at_home
        )


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("room", output, neural_sampling_rate=1, seed=5) as exporter:
        exporter.save_units({"membrane_potential": "mV", "position": "m"}, dt=DT)
        exporter.run_episodes(rollout, range(6), n_workers=2)

    folder = exporter.output_dir / "pictures"
    folder.mkdir()
    with ExperimentLoader(exporter.output_dir) as loader:
        episode = loader.get_episode(3)
        for picture in (
            plot_experiment(loader, folder / "all.png"),
            plot_episode(episode, folder / "episode_3.png"),
            plot_episode(episode, folder / "spikes.pdf", start=500, stop=1000, fields=["spikes"]),
        ):
            print(f"{picture.name}: {picture.stat().st_size / 1000:.0f} kB in {picture.parent}")


if __name__ == "__main__":
    main()
