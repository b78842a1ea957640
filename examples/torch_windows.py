"""Train a PyTorch model on windows of a recorded experiment.

    python examples/torch_windows.py [OUTPUT_DIRECTORY]

A walker is recorded together with neurons that are tuned to where it is going. A small recurrent
network then learns to tell the velocity from the neurons, from windows of 50 steps that
DataLoader workers read and shuffle.
"""

import multiprocessing
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader

from shardwriter import DataExporter
from shardwriter.interop.torch import WindowStream

STEPS, NEURONS, HIDDEN = 2_000, 40, 32
FIELDS = ["neural_states/rate", "behavior/velocity"]


def rollout(episode):
    """Walk about smoothly; each neuron likes one direction."""
    rng = episode.rng
    steps = rng.normal(size=(STEPS + 20, 2)).cumsum(axis=0)
    velocity = ((steps[20:] - steps[:-20]) / 20**0.5).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, NEURONS, endpoint=False)
    drive = velocity @ np.stack([np.cos(angles), np.sin(angles)])
    rate = np.tanh(drive) + rng.normal(0, 1, (STEPS, NEURONS))
    episode.log_timesteps(
        np.arange(STEPS),
        neural_state={"rate": rate.astype(np.float32)},
        behavior={"velocity": velocity},
    )


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.GRU(NEURONS, HIDDEN, batch_first=True)
        self.outer = torch.nn.Linear(HIDDEN, 2)

    def forward(self, rates):
        return self.outer(self.inner(rates)[0])


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    with DataExporter("torch_windows", output, neural_sampling_rate=1, seed=1) as exporter:
        for _ in range(6):
            with exporter.start_episode() as episode:
                rollout(episode)

    # PyTorch is imported once, by the process that the workers are forked from.
    multiprocessing.set_forkserver_preload(["shardwriter.interop.torch"])
    torch.set_num_threads(1)  # the model is small
    torch.manual_seed(0)
    decoder = Decoder()
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    windows = WindowStream(exporter.output_dir, 50, 25, FIELDS, batch_size=32, seed=1)
    loader = DataLoader(
        windows,
        batch_size=None,  # the stream makes the batches
        num_workers=2,
        multiprocessing_context="forkserver",
        persistent_workers=True,
    )
    for epoch in range(3):
        windows.set_epoch(epoch)
        losses = []
        for batch in loader:
            rates, velocity = (batch[field] for field in FIELDS)
            loss = torch.nn.functional.mse_loss(decoder(rates), velocity)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: {len(losses)} batches, squared error {np.mean(losses):.3f}")


if __name__ == "__main__":
    main()
