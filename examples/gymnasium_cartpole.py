"""Record Gymnasium's CartPole-v1 under a small spiking network, many episodes in parallel.

    pip install 'shardwriter[gymnasium]'
    python examples/gymnasium_cartpole.py [OUTPUT_DIRECTORY]

The policy is a network of 66 leaky integrate-and-fire neurons, in NumPy. Four groups of sensory
neurons encode the state of cart and pole, one half of each group its positive values and the
other half its negative ones. They drive two motor neurons, "left" and "right", and whichever has
fired more of late gets its way. CartPole moves in steps of 20 ms, the network in steps of 1 ms:
the timestep that is recorded is the network's.

Each episode scales the synapses by random factors of its own. The table at the end shows which
draws can balance the pole: a search over policies, whose every run can be looked at afterwards.
"""

import sys

import gymnasium
import numpy as np

from shardwriter import DataExporter, ExperimentLoader

EPISODES = 10
MS_PER_ENV_STEP = 20

SENSES = ("cart_position", "cart_velocity", "pole_angle", "pole_velocity")
TYPICAL = np.array([1.0, 1.0, 0.1, 1.0])  # m, m/s, rad, rad/s
GROUP = 16  # sensory neurons per sense
SENSORY = slice(0, 4 * GROUP)
LEFT, RIGHT = 4 * GROUP, 4 * GROUP + 1
NEURONS = 4 * GROUP + 2


class SpikingPolicy:
    """The network: what it senses, who fires, which way it pushes."""

    def __init__(self, rng):
        self.rng = rng
        self.gains = np.array([0.1, 0.5, 1.0, 1.0]) * rng.lognormal(0.0, 1.5, size=4)
        self.sign = np.tile(np.where(np.arange(GROUP) % 2, 1.0, -1.0), 4)
        self.synapses = 0.2 * np.repeat(self.gains, GROUP) * self.sign
        self.v = rng.uniform(0, 1, NEURONS).astype(np.float32)  # in units of the threshold
        self.fired = np.zeros(NEURONS, bool)
        self.motor_trace = np.zeros(2)  # spikes of left and right, fading within 20 ms

    def step(self, observation):
        """Let a millisecond pass; return potentials and who fired."""
        drive = np.zeros(NEURONS)
        seen = np.repeat(observation / TYPICAL, GROUP) * self.sign
        drive[SENSORY] = 0.3 * np.clip(seen, 0, 2)
        # A sensory spike excites one motor neuron and inhibits the other.
        push = (self.synapses * self.fired[SENSORY]).sum()
        drive[LEFT], drive[RIGHT] = 0.05 - push, 0.05 + push

        self.v[self.fired] = 0
        self.v += drive - self.v / 10 + self.rng.normal(0, 0.02, NEURONS)
        np.maximum(self.v, -1, out=self.v)
        self.fired = self.v >= 1
        self.motor_trace = 0.95 * self.motor_trace + self.fired[[LEFT, RIGHT]]
        return self.v, self.fired

    def action(self):
        """Return 0 to push the cart to the left, 1 to the right."""
        left, right = self.motor_trace
        return int(right > left) if left != right else int(self.rng.random() < 0.5)


def rollout(episode):
    """Run one episode. This is called in a worker process, once per episode."""
    env = gymnasium.make("CartPole-v1")
    policy = SpikingPolicy(episode.rng)
    # Data about the episode as a whole: any nesting of dicts, lists, arrays, strings, numbers.
    episode.log_static_data("policy", {"gains": policy.gains, "senses": list(SENSES)})

    observation, _ = env.reset(seed=episode.seed)  # makes the environment reproducible, too
    terminated = truncated = False
    t = -1
    while not (terminated or truncated):
        t += 1
        v, fired = policy.step(observation)
        behavior = reward = None  # what is None is not logged at this timestep
        if t % MS_PER_ENV_STEP == MS_PER_ENV_STEP - 1:
            action = policy.action()
            behavior = {**dict(zip(SENSES, observation, strict=True)), "action": action}
            observation, reward, terminated, truncated, _ = env.step(action)
        episode.log_timestep(
            t,
            neural_state={"membrane_potential": v},
            spikes=fired,
            behavior=behavior,
            reward=reward,
        )
    env.close()

    if terminated:
        episode.log_event("fell", t, {"pole_angle": observation[2], "position": observation[0]})
    # Ending the episode by hand says whether it reached its goal. To return is to succeed.
    episode.end(success=truncated, summary={"balanced_s": (t + 1) / 1000})


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "experiments"

    with DataExporter("cartpole", output, neural_sampling_rate=5, seed=2) as exporter:
        exporter.save_config({"env": "CartPole-v1", "ms_per_env_step": MS_PER_ENV_STEP})
        exporter.run_episodes(rollout, range(EPISODES), n_workers=2)
    print(f"recorded in {exporter.output_dir}\n")

    with ExperimentLoader(exporter.output_dir) as loader:
        print("         gain of cart's    gain of pole's   balanced  |angle|  motor spikes")
        print("episode  place  velocity  angle  velocity  for (s)    (deg)   left : right")
        for episode in loader:
            gains = episode.get_static_data("policy")["gains"]
            seconds = episode.get_metadata()["summary"]["balanced_s"]
            angle = np.degrees(np.abs(episode.get_behavior()["pole_angle"]).mean())
            ids = episode.get_spikes()["neuron_ids"]
            columns = f"{gains[0]:5.2f}  {gains[1]:8.2f}  {gains[2]:5.2f}  {gains[3]:8.2f}"
            motor = f"{(ids == LEFT).sum():4d} : {(ids == RIGHT).sum():4d}"
            print(f"{episode.id:7d}  {columns}  {seconds:8.2f}  {angle:6.2f}   {motor}")

        # The index has one row per episode and needs no shard to be opened. CartPole rewards
        # every step by 1 and stops an episode that goes well after 500 of them.
        index = loader.episode_index
        good = index["episode_id"][index["total_reward"] == 500]
        print(f"\nbalanced to the end: episodes {good.tolist()}")

        # Events are tables too: a timestep and the fields of each.
        falls = [episode.get_events("fell") for episode in loader]
        angles = [angle for fell in falls for angle in fell.get("pole_angle", ())]
        left = sum(angle < 0 for angle in angles)
        print(f"fell to the left: {left}, to the right: {len(angles) - left}")

    print(f"\nNow try:  shardwriter info {exporter.output_dir}")


if __name__ == "__main__":
    main()
