"""Quick start: record 16 episodes of a small spiking network in parallel, then read them back.

    python examples/quickstart.py [OUTPUT_DIRECTORY]

The simulation: 1,000 leaky integrate-and-fire neurons steer a walker through a square room of
1 m. Four groups of neurons pull it east, north, west and south; the walker goes where the
spikes point. Reaching the goal is rewarded, and the goal then moves elsewhere.
"""

import sys

import numpy as np

from shardwriter import DataExporter, ExperimentLoader

NEURONS = 1000
SYNAPSES_PER_NEURON = 50
STEPS = 1000  # one is a millisecond
DIRECTIONS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])


def build_network(seed):
    """Draw who is connected to whom, and how strongly: 80 % excite, 20 % inhibit."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, NEURONS, size=(NEURONS, SYNAPSES_PER_NEURON))
    strength = rng.exponential(0.4, size=targets.shape)
    sign = np.where(rng.random(NEURONS) < 0.8, 1.0, -4.0)
    return targets, strength * sign[:, None]


TARGETS, WEIGHTS = build_network(seed=1)


def simulate(rng, steps):
    """Yield (potentials in mV, who fired, position in m, reward) for each millisecond."""
    v = rng.uniform(-65, -50, NEURONS).astype(np.float32)
    fired = np.zeros(NEURONS, bool)
    position = np.array([0.5, 0.5], np.float32)
    velocity = np.zeros(2)
    goal = rng.random(2)
    for _ in range(steps):
        # Each group hears more when the goal lies in its direction.
        pull = np.repeat(DIRECTIONS @ (goal - position), NEURONS // 4)
        synaptic = np.bincount(TARGETS[fired].ravel(), WEIGHTS[fired].ravel(), NEURONS)
        v += (-65 - v) / 20 + 0.7 + 0.4 * pull + synaptic + rng.normal(0, 0.6, NEURONS)
        fired = v >= -50
        v[fired] = -65

        votes = fired.reshape(4, -1).sum(axis=1)
        velocity = 0.98 * velocity + 2e-5 * (votes @ DIRECTIONS)
        position = np.clip(position + velocity, 0, 1).astype(np.float32)
        reward = 0.0
        if np.linalg.norm(goal - position) < 0.05:
            reward = 1.0
            goal = rng.random(2)
        yield v, fired, position, reward


def rollout(episode):
    """Run one episode. This is called in a worker process, once per episode."""
    goals = 0
    # episode.rng is seeded from the experiment's seed and the episode's id, so that episode 7
    # is the same whenever and wherever it runs.
    for t, (v, fired, position, reward) in enumerate(simulate(episode.rng, STEPS)):
        # Everything is copied: the arrays may be reused for the next step.
        episode.log_timestep(
            t,
            neural_state={"membrane_potential": v},  # stored every 10th step, see below
            spikes=fired,  # stored sparse: (timestep, neuron id)
            behavior={"position": position},  # stored every step
            reward=reward,  # stored where it is not 0
        )
        if reward:
            goals += 1
            episode.log_event("goal_reached", t, {"position": position})
    # What a rollout returns becomes the episode's summary.
    return {"goals": goals}


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"

    # Leaving this block merges the episodes into one file.
    with DataExporter("room", output, neural_sampling_rate=10, seed=42) as exporter:
        exporter.save_config({"neurons": NEURONS, "steps": STEPS, "units": {"v": "mV"}})
        sources = np.repeat(np.arange(NEURONS), SYNAPSES_PER_NEURON)
        exporter.save_network_structure(
            neurons={"ids": np.arange(NEURONS), "group": np.arange(NEURONS) // 250},
            connections={"sources": sources, "targets": TARGETS.ravel()},
            initial_weights={"value": WEIGHTS.ravel()},
        )
        results = exporter.run_episodes(rollout, range(16), n_workers=2)
    good = sum(result.is_good for result in results)
    print(f"recorded {good} of {len(results)} episodes in {exporter.output_dir}\n")

    # Reading needs no more than the directory, any time later.
    with ExperimentLoader(exporter.output_dir) as loader:
        print("episode  goals  spikes  rate (Hz)  path (m)")
        for episode in loader:
            about = episode.get_metadata()
            spikes = episode.get_spikes()
            position = episode.get_behavior()["position"]
            path = np.linalg.norm(np.diff(position, axis=0), axis=1).sum()
            count = len(spikes["neuron_ids"])
            rate = 1000 * count / NEURONS / STEPS
            goals = about["summary"]["goals"]
            print(f"{episode.id:7d}  {goals:5d}  {count:6d}  {rate:9.1f}  {path:8.2f}")

        states = loader.get_episode(3).get_neural_states(start=100, stop=200)
        v = states["membrane_potential"]
        print(f"\nepisode 3, steps 100 to 199: potentials {v.dtype} {v.shape},")
        print(f"stored at timesteps {states['timesteps'].tolist()}, mean {v.mean():.1f} mV")

    print(f"\nNow try:  shardwriter info {exporter.output_dir}")


if __name__ == "__main__":
    main()
