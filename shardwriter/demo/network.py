"""The spiking network: leaky integrate-and-fire neurons that turn a smell into a movement.

Four hundred neurons in four kinds of population. Potentials are millivolts, times milliseconds;
a synaptic weight is the jump, in mV, of the current that one spike adds. The invariant: a neuron
excites all its targets or inhibits all of them (Dale's law), also after learning.

The model is the textbook one (Gerstner et al., Neuronal Dynamics, chapter 5): exponential
current-based synapses, one millisecond of transmission delay, an absolute refractory period.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

__all__ = ["POPULATIONS", "Circuit", "CircuitConfig", "Neurons", "build_circuit"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

POPULATIONS: dict[str, slice] = {
    "sensory": slice(0, 72),
    "excitatory": slice(72, 272),
    "inhibitory": slice(272, 322),
    "turn_left": slice(322, 348),
    "turn_right": slice(348, 374),
    "forward": slice(374, 400),
}
"""Which neuron ids form which population, in order and without gaps."""

KAPPA = 3.0
MOTOR = slice(322, 400)


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitConfig:
    """Constants of the neurons and of their background input."""

    rest_mv: float = -65.0
    threshold_mv: float = -50.0
    reset_mv: float = -65.0
    membrane_tau_ms: float = 20.0
    synapse_tau_ms: float = 5.0
    refractory_ms: int = 3
    noise_mv: float = 4.0
    wander_mv: float = 3.0
    wander_tau_ms: float = 250.0
    sensory_bias_mv: float = 6.0
    hidden_bias_mv: float = 11.5
    turn_bias_mv: float = 11.0
    forward_bias_mv: float = 13.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """Wiring that all episodes share.

    `weights` is float32 (neurons, neurons) in mV, source by row; `plastic` marks, by motor neuron
    and sensory neuron, the synapses that learn; `preferred_rad` is the bearing at which each
    sensory neuron fires most.
    """

    config: CircuitConfig
    weights: Floats
    plastic: Bools
    preferred_rad: Floats


def build_circuit(seed: int, config: CircuitConfig | None = None) -> Circuit:
    """Wire the network: the same seed gives the same circuit everywhere."""
    rng = np.random.default_rng(seed)
    size = POPULATIONS["forward"].stop
    weights = np.zeros((size, size), dtype=np.float32)

    def connect(source: str, target: str, probability: float, mean_mv: float) -> None:
        """Draw the synapses of one pathway, their strengths log-normal around `mean_mv`."""
        rows, columns = POPULATIONS[source], POPULATIONS[target]
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        strengths = mean_mv * rng.lognormal(-0.08, 0.4, size=shape)
        weights[rows, columns] = strengths * (rng.random(shape) < probability)

    connect("sensory", "excitatory", 0.10, 1.5)
    connect("excitatory", "excitatory", 0.10, 0.8)
    connect("excitatory", "inhibitory", 0.15, 1.5)
    connect("inhibitory", "excitatory", 0.30, -2.0)
    connect("inhibitory", "inhibitory", 0.30, -1.5)
    for motor in ("turn_left", "turn_right", "forward"):
        connect("excitatory", motor, 0.10, 0.8)
        connect("inhibitory", motor, 0.10, -0.8)
        connect("sensory", motor, 0.60, 1.0)
    np.fill_diagonal(weights, 0.0)
    plastic = np.ascontiguousarray(weights[POPULATIONS["sensory"], MOTOR].T != 0.0)
    count = POPULATIONS["sensory"].stop
    preferred = np.linspace(-math.pi, math.pi, count, endpoint=False, dtype=np.float32)
    return Circuit(config or CircuitConfig(), weights, plastic, preferred)


class Neurons:
    """The state of one copy of the circuit, advanced a millisecond at a time."""

    def __init__(self, circuit: Circuit, rng: np.random.Generator) -> None:
        """Start at random potentials between reset and threshold, with weights of its own."""
        config, size = circuit.config, len(circuit.weights)
        self.weights = circuit.weights.copy()
        self.potentials = rng.uniform(config.reset_mv, config.threshold_mv, size).astype(np.float32)
        self.fired: Bools = np.zeros(size, dtype=np.bool_)
        self._circuit, self._rng, self._now = circuit, rng, 0
        self._current, self._change = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._wakes_at = np.zeros(size, dtype=np.int64)
        self._asleep = np.zeros(size, dtype=np.bool_)
        self._drive = self._background()
        self._bias = self._drive.copy()
        self._wander = np.zeros(3)
        self._leak = np.float32(1.0 / config.membrane_tau_ms)
        self._fade = np.float32(math.exp(-1.0 / config.synapse_tau_ms))
        self._noise = chain.from_iterable(self._noise_blocks(size))

    def _background(self) -> Floats:
        """Return the constant input of every neuron, in mV of steady-state potential."""
        config = self._circuit.config
        drive = np.full(len(self.weights), config.rest_mv, dtype=np.float32)
        for name, bias in (
            ("sensory", config.sensory_bias_mv),
            ("excitatory", config.hidden_bias_mv),
            ("inhibitory", config.hidden_bias_mv),
            ("turn_left", config.turn_bias_mv),
            ("turn_right", config.turn_bias_mv),
            ("forward", config.forward_bias_mv),
        ):
            drive[POPULATIONS[name]] += bias
        return drive

    def _noise_blocks(self, size: int, steps: int = 256) -> Iterator[Floats]:
        """Yield white noise that makes free potentials fluctuate by `noise_mv`, in blocks."""
        scale = self._circuit.config.noise_mv * math.sqrt(2.0 / self._circuit.config.membrane_tau_ms)
        while True:
            block = self._rng.standard_normal((steps, size), dtype=np.float32)
            block *= np.float32(scale)
            yield block

    def feel(self, bearing_rad: float, strength_mv: float, frame_ms: int) -> None:
        """Set the input for the next `frame_ms`: the odour's bearing and strength.

        Sensory neurons are tuned to bearings (a von Mises bump); the motor populations receive a
        slowly wandering input each, which makes the agent explore.
        """
        config, drive = self._circuit.config, self._drive
        tuning = np.cos(self._circuit.preferred_rad - np.float32(bearing_rad))
        tuning -= 1.0
        tuning *= KAPPA
        sensory = POPULATIONS["sensory"]
        np.add(self._bias[sensory], strength_mv * np.exp(tuning), out=drive[sensory])
        keep = math.exp(-frame_ms / config.wander_tau_ms)
        kick = config.wander_mv * math.sqrt(1.0 - keep * keep)
        self._wander = keep * self._wander + kick * self._rng.standard_normal(3)
        for name, wander in zip(("turn_left", "turn_right", "forward"), self._wander, strict=True):
            drive[POPULATIONS[name]] = self._bias[POPULATIONS[name]] + wander

    def step(self) -> Bools:
        """Advance by a millisecond; return who fired (borrowed: valid until the next step)."""
        config, change, potentials = self._circuit.config, self._change, self.potentials
        np.subtract(self._drive, potentials, out=change)
        change += self._current
        change *= self._leak
        change += next(self._noise)
        potentials += change
        np.greater(self._wakes_at, self._now, out=self._asleep)
        np.putmask(potentials, self._asleep, config.reset_mv)
        np.greater_equal(potentials, config.threshold_mv, out=self.fired)
        ids = self.fired.nonzero()[0]
        potentials[ids] = config.reset_mv
        self._wakes_at[ids] = self._now + config.refractory_ms
        self._current *= self._fade
        self._current += self.weights.take(ids, axis=0).sum(axis=0)
        self._now += 1
        return self.fired
