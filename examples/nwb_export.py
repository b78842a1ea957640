"""Record a small spiking network, export it to NWB, and read it back with PyNWB.

    python examples/nwb_export.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[nwb]'`. `shardwriter export nwb DIR FILE` does the same.
"""

import sys

import numpy as np
from pynwb import NWBHDF5IO, validate

from shardwriter import DataExporter
from shardwriter.interop.nwb import export_nwb

NEURONS = 50
STEPS = 500
DT = 1e-3  # s


def rollout(episode):
    """Let noisy integrate-and-fire neurons run for half a second; reward every tenth spike."""
    v = episode.rng.uniform(-65, -50, NEURONS).astype(np.float32)
    spikes = 0
    for t in range(STEPS):
        v += (-65 - v) / 20 + 0.8 + episode.rng.normal(0, 1, NEURONS)
        fired = v >= -50
        v[fired] = -65
        before, spikes = spikes, spikes + fired.sum()
        reward = float(spikes // 10 - before // 10)
        rate = np.float32(fired.mean() / DT)
        episode.log_timestep(t, {"membrane_potential": v}, fired, {"rate": rate}, reward)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("noise", output, neural_sampling_rate=5, seed=1) as exporter:
        exporter.save_units({"membrane_potential": "mV", "rate": "Hz"}, dt=DT)
        exporter.save_config({"neurons": NEURONS, "tau": 20})
        for i in range(4):
            with exporter.start_episode(i) as episode:
                rollout(episode)

    file = exporter.output_dir / "noise.nwb"
    report = export_nwb(exporter.output_dir, file, n_neurons=NEURONS)
    print(f"{report.trials} trials, {report.spikes} spikes, {report.seconds} s in {file}")
    print(f"problems found by PyNWB: {validate(path=str(file)) or 'none'}")

    # Each trial is an episode, on one time axis.
    with NWBHDF5IO(file, "r") as io:
        session = io.read()
        potential = session.acquisition["membrane_potential"]
        print(f"potentials {potential.data.shape} in {potential.unit}, at {potential.rate:g} Hz")
        spikes = np.sort(np.concatenate([times[:] for times in session.units["spike_times"]]))
        trials = session.trials
        for episode, start, stop in zip(
            trials["episode_id"][:], trials["start_time"][:], trials["stop_time"][:], strict=True
        ):
            count = np.searchsorted(spikes, stop) - np.searchsorted(spikes, start)
            print(f"episode {episode}: {start:.1f} to {stop:.1f} s, {count} spikes")


if __name__ == "__main__":
    main()
