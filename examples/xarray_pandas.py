"""Analyse an experiment with pandas and xarray, reading of it only what is computed.

    python examples/xarray_pandas.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[pandas,xarray]'`. Neurons with noise are recorded under three
drives, four times each. pandas has one row for each episode; xarray stacks the potentials of all
episodes as Dask arrays, which are read when something of them is computed.
"""

import sys

import numpy as np
import pandas as pd
import xarray as xr

from shardwriter import DataExporter, ExperimentLoader

NEURONS, STEPS, DT = 50, 1_000, 1e-3
DRIVES = [0.6, 0.8, 1.0]


def rollout(episode):
    """Integrate and fire for a second; the episode's number says how strong the drive is."""
    drive = DRIVES[episode.id % len(DRIVES)]
    v = episode.rng.uniform(-65, -50, NEURONS).astype(np.float32)
    for t in range(STEPS):
        v += (-65 - v) / 20 + drive + episode.rng.normal(0, 1, NEURONS)
        fired = v >= -50
        v[fired] = -65
        episode.log_timestep(t, {"membrane_potential": v}, fired)
    return {"drive": drive}


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("drives", output, neural_sampling_rate=2, seed=1) as exporter:
        exporter.save_units({"membrane_potential": "mV"}, dt=DT)
        exporter.run_episodes(rollout, range(12), n_workers=2)

    with ExperimentLoader(exporter.output_dir) as loader:
        episodes = loader.to_dataframe()  # of the index: no shard is opened
        summaries = {episode.id: episode.get_metadata()["summary"] for episode in loader}
        episodes = episodes.join(pd.DataFrame.from_dict(summaries, orient="index"))
        episodes["rate_hz"] = episodes["spikes"] / (NEURONS * STEPS * DT)
        print(episodes.groupby("drive")["rate_hz"].agg(["mean", "std", "count"]).round(2))

        trees = [episode.to_xarray(chunks=100) for episode in loader]
        potentials = xr.concat(
            [tree["neural_states"]["membrane_potential"] for tree in trees],
            dim=pd.Index(episodes["drive"], name="drive"),
        )
        late = potentials.sel(timestep=slice(500, None))  # by label; nothing is read yet
        print(f"\n{dict(late.sizes)}, mean over time and neurons in {late.attrs['units']}:")
        print(late.groupby("drive").mean(...).compute().round(2).to_series())

        # The potentials before each spike of an episode, picked by timestep and neuron.
        spikes, v = (
            trees[0]["spikes"].dataset,
            trees[0]["neural_states"]["membrane_potential"].load(),
        )
        spikes = spikes.isel(spike=(spikes.timestep > 20) & (spikes.timestep % 2 == 0))
        print()
        for before in (2, 10, 20):
            then = v.sel(timestep=spikes.timestep - before, neuron=spikes.neuron_ids)
            print(f"{before:2d} ms before a spike: {then.mean():.1f} {v.attrs['units']}")


if __name__ == "__main__":
    main()
