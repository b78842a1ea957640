"""Plot an experiment while it is recorded.

    python examples/live_plot.py [EXPERIMENT_DIRECTORY]

Without a directory it starts a recording of its own. Where matplotlib has no
window to show, the last picture is saved as live_plot.png. Needs matplotlib.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np

from shardwriter import DataExporter, ExperimentLoader

EVERY_S = 0.2
STEPS = 1500


def rollout(episode):
    """Walk at random, a little slower than one can watch."""
    position = np.zeros(2)
    for t in range(STEPS):
        position += episode.rng.normal(size=2)
        episode.log_timestep(t, behavior={"position": position}, reward=-np.hypot(*position))
        if t % 100 == 0:
            time.sleep(0.1)


def draw(axes, loader):
    """Draw the path of every episode so far; return how many rows there are, and how many go on."""
    axes.clear()
    rows = going_on = 0
    for episode in loader:
        status = episode.get_metadata()["status"]
        behavior = episode.get_behavior()
        rows += len(behavior["timesteps"])
        going_on += status == "recording"
        if "position" in behavior:
            label = f"episode {episode.id}: {status}, {len(behavior['timesteps'])} steps"
            axes.plot(*behavior["position"].T, linewidth=0.8, label=label)
            axes.legend(loc="upper left")
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    return rows, going_on


def watch(directory, is_over):
    """Draw until the recording is over."""
    figure, axes = plt.subplots()
    has_window = plt.get_backend().lower() != "agg"
    with ExperimentLoader(directory, live=True) as loader:
        is_last = False
        while not is_last:
            is_last = is_over()  # asked first: then a last look sees all
            loader.refresh()
            rows, going_on = draw(axes, loader)
            print(f"{len(loader)} episodes, {going_on} of them going on: {rows:,} steps")
            if has_window:
                plt.pause(EVERY_S)
            else:
                figure.savefig("live_plot.png")
                time.sleep(EVERY_S)


def main():
    """Watch the experiment given, or one of our own."""
    if len(sys.argv) > 1:
        with ExperimentLoader(sys.argv[1], live=True) as loader:

            def is_over():
                loader.refresh()
                return b"recording" not in loader.episode_index["status"]

            watch(sys.argv[1], is_over)
        return
    exporter = DataExporter("walks", "experiments", progress=False)
    with exporter, ThreadPoolExecutor(1) as pool:  # the rollouts run in processes of their own
        recording = pool.submit(exporter.run_episodes, rollout, range(4), n_workers=2)
        watch(exporter.output_dir, recording.done)
        recording.result()


if __name__ == "__main__":
    main()
