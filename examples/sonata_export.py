"""Record a small spiking network, export it to SONATA, and read it back with libsonata.

    python examples/sonata_export.py [OUTPUT_DIRECTORY]

Needs `pip install 'shardwriter[sonata]'`. `shardwriter export sonata DIR OUT` does the same.
"""

import sys

import numpy as np
from libsonata import SomaReportReader, SpikeReader

from shardwriter import DataExporter
from shardwriter.interop.sonata import export_sonata

NEURONS = 50
STEPS = 500
DT = 1e-4  # s


def rollout(episode):
    """Let noisy integrate-and-fire neurons run for 50 ms."""
    v = episode.rng.uniform(-65, -50, NEURONS).astype(np.float32)
    for t in range(STEPS):
        v += (-65 - v) / 200 + 0.1 + episode.rng.normal(0, 0.3, NEURONS)
        fired = v >= -50
        v[fired] = -65
        episode.log_timestep(t, {"membrane_potential": v}, fired)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("noise", output, neural_sampling_rate=10, seed=1) as exporter:
        exporter.save_units({"membrane_potential": "mV"}, dt=DT)
        for i in range(2):
            with exporter.start_episode(i) as episode:
                rollout(episode)

    sonata = exporter.output_dir / "sonata"
    export_sonata(exporter.output_dir, sonata, population="cortex")
    for folder in sorted(sonata.iterdir()):
        spikes = SpikeReader(str(folder / "spikes.h5"))["cortex"]
        report = SomaReportReader(str(folder / "membrane_potential.h5"))["cortex"]
        frame = report.get(node_ids=[3], tstart=10, tstop=20)
        print(f"{folder.name}: {len(spikes.get())} spikes {spikes.sorting}, in {spikes.time_units}")
        print(
            f"  neuron 3 from 10 to 20 ms: {frame.data.mean():.1f} {report.data_units} on average"
        )


if __name__ == "__main__":
    main()
