"""Record a PyTorch policy: tensors go in as they are.

    python examples/torch_policy.py [OUTPUT_DIRECTORY]

Tensors may be on a GPU, may require gradients, and may be bfloat16, which HDF5 lacks: it is
stored as float32, exactly, and the dataset says so.
"""

import sys

import torch

from shardwriter import DataExporter, ExperimentLoader

STEPS, HIDDEN = 400, 32


class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, HIDDEN)
        self.outer = torch.nn.Linear(HIDDEN, 2)

    def forward(self, observation):
        hidden = torch.tanh(self.inner(observation))
        return hidden, self.outer(hidden)


def rollout(episode, policy, generator):
    """Push a point about the plane, towards its middle."""
    state = torch.randn(4, generator=generator)
    for t in range(STEPS):
        hidden, action = policy(state)
        state = state + 0.1 * torch.cat([state[2:], action.detach() - state[:2]])
        episode.log_timestep(
            t,
            neural_state={"hidden": hidden.to(torch.bfloat16)},
            behavior={"position": state[:2], "action": action},
            reward=-state[:2].norm(),
        )


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"
    torch.manual_seed(0)
    policy = Policy()
    with DataExporter("torch_policy", output, neural_sampling_rate=4, seed=4) as exporter:
        exporter.save_checkpoint("policy", dict(policy.state_dict()))
        for _ in range(2):
            with exporter.start_episode() as episode:
                rollout(episode, policy, torch.Generator().manual_seed(episode.seed))

    with ExperimentLoader(exporter.output_dir) as loader:
        print(f"checkpoint {sorted(loader.get_checkpoint('policy'))}")
        for episode in loader:
            hidden = episode.get_neural_states()["hidden"]
            action = episode.get_behavior()["action"]
            print(f"episode {episode.id}: hidden {hidden.shape} {hidden.dtype}, {action.shape}")


if __name__ == "__main__":
    main()
