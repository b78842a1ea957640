"""Record from processes that shardwriter did not start: here those of a ProcessPoolExecutor.

    python examples/process_pool.py [OUTPUT_DIRECTORY]

Where something else runs your simulations already (a process pool, Dask, Ray, MPI ranks), send it
the exporter. Pickled, it becomes a handle that opens episodes of the same experiment wherever it
arrives. Nothing else is shared: each episode has its own buffer and its own file.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from shardwriter import DataExporter, ExperimentLoader

STEPS = 2000


def random_walk(recorder, episode_id, stride):
    """Record one episode; this runs in a process of the pool."""
    # Leaving the blocks ends the episode and waits until its file is there.
    with recorder, recorder.start_episode(episode_id) as episode:
        steps = stride * episode.rng.standard_normal((STEPS, 2), dtype=np.float32)
        # All timesteps at once: each array has a leading axis of time.
        episode.log_timesteps(np.arange(STEPS), behavior={"position": steps.cumsum(axis=0)})
        episode.end(summary={"stride": stride})
    return episode_id


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    strides = [0.1, 0.2, 0.5, 1.0]
    spawn = multiprocessing.get_context("spawn")
    with (
        DataExporter("walks", output, seed=3) as exporter,
        ProcessPoolExecutor(max_workers=2, mp_context=spawn) as pool,
    ):
        tasks = [pool.submit(random_walk, exporter, i, stride) for i, stride in enumerate(strides)]
        done = [task.result() for task in tasks]
    print(f"recorded episodes {done} in {exporter.output_dir}")

    with ExperimentLoader(exporter.output_dir) as loader:
        for episode in loader:
            stride = episode.get_metadata()["summary"]["stride"]
            end = episode.get_behavior(start=STEPS - 1)["position"][0]
            print(f"episode {episode.id}: stride {stride}, ended at {end[0]:.1f}, {end[1]:.1f}")


if __name__ == "__main__":
    main()
