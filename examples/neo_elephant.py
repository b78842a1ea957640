"""Analyse recorded spike trains with Elephant, through Neo.

    python examples/neo_elephant.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[elephant]'`. Half of the neurons are driven by noise of their own,
the other half shares its noise. Elephant tells the halves apart.
"""

import sys

import numpy as np
import quantities as pq
from elephant.conversion import BinnedSpikeTrain
from elephant.spike_train_correlation import correlation_coefficient
from elephant.statistics import cv, isi, mean_firing_rate

from shardwriter import DataExporter, ExperimentLoader

NEURONS, STEPS, DT = 20, 4_000, 1e-3
SHARED = slice(NEURONS // 2, None)


def rollout(episode):
    """Integrate and fire for four seconds."""
    v = episode.rng.uniform(-65, -50, NEURONS).astype(np.float32)
    for t in range(STEPS):
        noise = episode.rng.normal(0, 1, NEURONS)
        noise[SHARED] = 0.5 * noise[SHARED] + 0.87 * episode.rng.normal()
        v += (-65 - v) / 20 + 0.7 + noise
        fired = v >= -50
        v[fired] = -65
        episode.log_timestep(t, {"membrane_potential": v}, fired)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("noise", output, neural_sampling_rate=10, seed=3) as exporter:
        exporter.save_units({"membrane_potential": "mV"}, dt=DT)
        with exporter.start_episode(0) as episode:
            rollout(episode)

    with ExperimentLoader(exporter.output_dir) as loader:
        # n_neurons: those that never fired have a train, too.
        segment = loader.get_episode(0).to_neo(n_neurons=NEURONS).segments[0]
        spikes = loader.get_episode(0).get_spikes()

    trains = segment.spiketrains
    for neuron, train in enumerate(trains):
        steps = spikes["timesteps"][spikes["neuron_ids"] == neuron]
        np.testing.assert_allclose(train.rescale("s").magnitude, steps * DT)

    binned = BinnedSpikeTrain(list(trains), bin_size=25 * pq.ms)
    correlations = correlation_coefficient(binned)
    for name, half in (("noise of their own", slice(0, NEURONS // 2)), ("shared noise", SHARED)):
        rates = [float(mean_firing_rate(train).rescale("Hz")) for train in trains[half]]
        irregularity = np.mean([cv(isi(train)) for train in trains[half]])
        pairs = correlations[half, half][~np.eye(NEURONS // 2, dtype=bool)]
        print(
            f"{name}: {np.mean(rates):.1f} Hz, CV of intervals {irregularity:.2f}, "
            f"correlation {pairs.mean():.2f}"
        )

    (potential,) = segment.analogsignals
    print(f"{potential.name}: {potential.shape} in {potential.dimensionality}")


if __name__ == "__main__":
    main()
