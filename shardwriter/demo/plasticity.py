"""Reward-modulated plasticity: which sensory-to-motor synapses grow, and when.

A three-factor rule (Frémaux and Gerstner, *Front. Neural Circuits* 9:85, 2016): pairs of spikes
leave an eligibility trace in their synapse, and a signal that all synapses share, dopamine, turns
the traces into weight changes. Invariant: the plastic weights of a motor neuron stay between
zero and a maximum.

Everything is updated once per frame of a few milliseconds: the pairs inside a frame are one matrix
product, whose cost is that of a handful of NumPy calls.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Change", "Dopamine", "Plasticity", "PlasticityConfig"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlasticityConfig:
    """Constants of the learning rule."""

    rate_mv: float = 0.8
    pair_tau_ms: float = 20.0
    eligibility_tau_ms: float = 200.0
    mean_tau_ms: float = 1000.0
    largest_mv: float = 8.0
    logged_from_mv: float = 0.05
    """Smaller changes wait in `Plasticity.changes` until they have grown to this."""
    food_reward: float = 1.0
    approach_reward_s: float = 0.1
    """Worth of an odour that rises e-fold per second."""
    expectation_tau_ms: float = 150.0
    success_tau_ms: float = 2000.0


class Change(NamedTuple):
    """Weight changes since the last report: row and column of each, and the weights in mV."""

    posts: npt.NDArray[np.intp]
    pres: npt.NDArray[np.intp]
    old: Floats
    new: Floats


class Plasticity:
    """Changes a block of weights in place, ``(postsynaptic, presynaptic)`` neurons."""

    def __init__(
        self, weights: Floats, plastic: Bools, config: PlasticityConfig, frame_ms: int
    ) -> None:
        """Take over the block: `weights` is borrowed, non-zero only where `plastic`."""
        self._config, self._weights = config, weights
        self._mask = plastic.astype(np.float32)
        self._totals = weights.sum(axis=1, keepdims=True)
        self._reported = weights.copy()
        self._eligibility = np.zeros_like(weights)
        self._trace = np.zeros(weights.shape[1], dtype=np.float32)
        self._mean_fired = np.zeros(weights.shape[0], dtype=np.float32)
        decay = math.exp(-1.0 / config.pair_tau_ms)
        lags = np.subtract.outer(np.arange(frame_ms), np.arange(frame_ms))
        self._within = np.where(lags >= 0, decay ** np.abs(lags), 0.0).astype(np.float32)
        self._carried = (decay ** np.arange(1.0, frame_ms + 1.0)).astype(np.float32)
        self._keep = np.float32(math.exp(-frame_ms / config.eligibility_tau_ms))
        self._mean_gain = np.float32(1.0 - math.exp(-frame_ms / config.mean_tau_ms))

    def observe(self, pre: Bools, post: Bools) -> None:
        """Add a frame of spikes, ``(frame, neurons)`` each, to the eligibility traces.

        A postsynaptic spike counts against the neuron's mean rate: a trace says that this
        synapse helped the neuron to fire more, or less, than it usually does.
        """
        traces = self._within @ pre.astype(np.float32)
        traces += np.multiply.outer(self._carried, self._trace)
        self._trace = traces[-1]
        fired = post.astype(np.float32)
        self._mean_fired += self._mean_gain * (fired.mean(axis=0) - self._mean_fired)
        fired -= self._mean_fired
        self._eligibility *= self._keep
        self._eligibility += fired.T @ traces

    def learn(self, dopamine: float) -> None:
        """Turn eligibility into weight; each neuron's total input weight stays what it was."""
        change = self._eligibility * np.float32(self._config.rate_mv * dopamine)
        change *= self._mask
        weights = self._weights
        weights += change
        np.clip(weights, 0.0, self._config.largest_mv, out=weights)
        weights *= self._totals / np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)

    def changes(self, *, everything: bool = False) -> Change:
        """Return the weights that have moved noticeably since they were last returned."""
        least = 0.0 if everything else self._config.logged_from_mv
        posts, pres = (np.abs(self._weights - self._reported) > least).nonzero()
        old, new = self._reported[posts, pres], self._weights[posts, pres]
        self._reported[posts, pres] = new
        return Change(posts, pres, old, new)


class Dopamine:
    """The reward prediction error that teaches, and the exploration that it calls for.

    What is rewarding is food, and to smell more of it: the rise of the odour's logarithm, as in
    Weber's law. The expectation is the recent past, so that only a turn for the better counts.
    """

    def __init__(self, config: PlasticityConfig, frame_ms: int) -> None:
        self._config = config
        self._frame_ms = frame_ms
        self._expected = 0.0
        self._success = 0.0

    @property
    def exploration(self) -> float:
        """How much to explore and to learn: 1 at first, less the steadier the odour rises."""
        return 1.0 - min(1.0, max(0.0, self._success / self._config.approach_reward_s))

    def signal(self, rise_per_s: float, has_eaten: bool) -> float:
        """Return the signal for a frame in which the odour's logarithm rose at `rise_per_s`."""
        config = self._config
        if has_eaten:
            return (config.food_reward - self._expected) * self.exploration
        reward = config.approach_reward_s * rise_per_s
        error = reward - self._expected
        self._expected += error * self._frame_ms / config.expectation_tau_ms
        self._success += (reward - self._success) * self._frame_ms / config.success_tau_ms
        return error * self.exploration
