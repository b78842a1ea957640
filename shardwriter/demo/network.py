"""The spiking network: leaky integrate-and-fire neurons that turn a smell into a movement.

Potentials are millivolts, times milliseconds. A synaptic weight is in mV too: what one spike adds
to the synaptic current, measured as the potential at which that current would hold the neuron.
Invariant: a neuron excites all its targets or inhibits all of them (Dale's law), also
after learning.

The model is the textbook one (Gerstner et al., *Neuronal Dynamics*, 2014, chapters 1 and 5):
exponential current-based synapses, one millisecond of delay, an absolute refractory period.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MOTOR", "POPULATIONS", "SENSORY", "Circuit", "CircuitConfig", "Neurons"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SENSORY = slice(0, 72)
MOTOR = slice(322, 400)
POPULATIONS: dict[str, slice] = {
    "sensory": SENSORY,
    "excitatory": slice(72, 272),
    "inhibitory": slice(272, 322),
    "turn_left": slice(322, 348),
    "turn_right": slice(348, 374),
    "forward": slice(374, 400),
}
"""Ids of each population, in order and without gaps; `MOTOR` spans the last three."""

_TURNS = (POPULATIONS["turn_left"], POPULATIONS["turn_right"])

# Source, target, probability of a synapse, mean weight in mV.
_PATHWAYS = (
    ("sensory", "excitatory", 0.10, 1.5),
    ("excitatory", "excitatory", 0.10, 0.8),
    ("excitatory", "inhibitory", 0.15, 1.5),
    ("inhibitory", "excitatory", 0.30, -2.0),
    ("inhibitory", "inhibitory", 0.30, -1.5),
    *(("excitatory", motor, 0.10, 0.8) for motor in list(POPULATIONS)[3:]),
    *(("inhibitory", motor, 0.10, -0.8) for motor in list(POPULATIONS)[3:]),
    *(("sensory", motor, 0.60, 2.0) for motor in list(POPULATIONS)[3:]),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitConfig:
    """Constants of the neurons and of their input."""

    rest_mv: float = -65.0
    threshold_mv: float = -50.0
    reset_mv: float = -65.0
    membrane_tau_ms: float = 20.0
    synapse_tau_ms: float = 5.0
    refractory_ms: int = 3
    noise_mv: float = 3.0
    """Standard deviation of a free potential under its background noise."""
    wander_mv: float = 3.0
    wander_tau_ms: float = 250.0
    """Slow random input to each turning population: exploration."""
    tuning_concentration: float = 1.2
    """Concentration of the sensory neurons' von Mises tuning to bearings."""
    sensory_bias_mv: float = 6.0
    hidden_bias_mv: float = 12.5
    turn_bias_mv: float = 7.0
    forward_bias_mv: float = 6.0


class Circuit:
    """The wiring that all episodes share.

    Attributes
    ----------
    weights
        float32 ``(neurons, neurons)`` in mV, the source by row.
    plastic
        bool ``(motor neurons, sensory neurons)``: the synapses that learn.
    preferred_rad
        Bearing at which each sensory neuron fires most.
    """

    def __init__(self, seed: int, config: CircuitConfig | None = None) -> None:
        """Draw the synapses; the same seed gives the same circuit everywhere."""
        rng = np.random.default_rng(seed)
        self.config = config or CircuitConfig()
        self.weights: Floats = np.zeros((MOTOR.stop, MOTOR.stop), dtype=np.float32)
        for source, target, probability, mean_mv in _PATHWAYS:
            block = self.weights[POPULATIONS[source], POPULATIONS[target]]
            strengths = mean_mv * rng.lognormal(-0.08, 0.4, size=block.shape)
            block[:] = strengths * (rng.random(block.shape) < probability)
        np.fill_diagonal(self.weights, 0.0)
        self.plastic: Bools = self.weights[SENSORY, MOTOR].T != 0.0
        self.preferred_rad: Floats = np.linspace(
            -math.pi, math.pi, SENSORY.stop, endpoint=False, dtype=np.float32
        )

    def structure(self) -> dict[str, dict[str, Any]]:
        """Return the arguments of `DataExporter.save_network_structure`."""
        sources, targets = self.weights.nonzero()
        values = self.weights[sources, targets]
        names = [name for name, ids in POPULATIONS.items() for _ in range(ids.start, ids.stop)]
        ids = np.arange(len(names))
        preferred = np.full(len(names), np.nan, dtype=np.float32)
        preferred[SENSORY] = self.preferred_rad
        is_plastic = (sources < SENSORY.stop) & (targets >= MOTOR.start)
        return {
            "neurons": {"ids": ids, "population": names, "preferred_bearing_rad": preferred},
            "connections": {"sources": sources, "targets": targets, "is_plastic": is_plastic},
            "initial_weights": {
                "row": sources, "col": targets, "value": values, "shape": self.weights.shape
            },
        }  # fmt: skip


class Neurons:
    """The state of one copy of the circuit, advanced a millisecond at a time.

    Attributes
    ----------
    potentials
        float32 ``(neurons,)`` in mV, borrowed: changed in place by every step.
    weights
        This copy's own; learning changes them in place.
    """

    def __init__(self, circuit: Circuit, rng: np.random.Generator) -> None:
        """Start at random potentials between reset and threshold."""
        config, size = circuit.config, len(circuit.weights)
        self.weights = circuit.weights.copy()
        self.potentials = rng.uniform(config.reset_mv, config.threshold_mv, size).astype(np.float32)
        self._circuit, self._rng, self._now = circuit, rng, 0
        self._fired: Bools = np.zeros(size, dtype=np.bool_)
        self._current, self._change = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._asleep, self._wakes_at = np.zeros(size, np.bool_), np.zeros(size, np.int64)
        self._rest = self._steady_input()
        self._drive = self._rest.copy()
        self._wander = [0.0, 0.0]
        self._leak = np.float32(1.0 / config.membrane_tau_ms)
        self._fade = np.float32(math.exp(-1.0 / config.synapse_tau_ms))
        self._noise = chain.from_iterable(self._noise_blocks(size))

    def _steady_input(self) -> Floats:
        """Return the potential at which the constant input alone would hold each neuron."""
        config = self._circuit.config
        steady = np.full(len(self.weights), config.rest_mv, dtype=np.float32)
        steady[SENSORY] += config.sensory_bias_mv
        steady[SENSORY.stop : MOTOR.start] += config.hidden_bias_mv
        steady[POPULATIONS["forward"]] += config.forward_bias_mv
        for turn in _TURNS:
            steady[turn] += config.turn_bias_mv
        return steady

    def _noise_blocks(self, size: int, steps: int = 256) -> Iterator[Floats]:
        """Yield white noise for `steps` steps at a time: drawing it row by row is slower."""
        config = self._circuit.config
        scale = np.float32(config.noise_mv * math.sqrt(2.0 / config.membrane_tau_ms))
        while True:
            block = self._rng.standard_normal((steps, size), dtype=np.float32)
            block *= scale
            yield block

    def feel(
        self, bearing_rad: float, strength_mv: float, *, exploration: float, duration_ms: float
    ) -> None:
        """Set the input of the next `duration_ms`.

        Parameters
        ----------
        bearing_rad, strength_mv
            Where the smell comes from, and the input it gives to neurons tuned to that bearing.
        exploration
            Scales the wandering input of the turning populations.
        duration_ms
            How long until the next call: the wandering input is as much older.
        """
        config, drive = self._circuit.config, self._drive
        tuning = np.cos(self._circuit.preferred_rad - np.float32(bearing_rad))
        tuning -= 1.0
        tuning *= config.tuning_concentration
        np.exp(tuning, out=tuning)
        tuning *= strength_mv
        np.add(self._rest[SENSORY], tuning, out=drive[SENSORY])
        keep = math.exp(-duration_ms / config.wander_tau_ms)
        kick = config.wander_mv * math.sqrt(1.0 - keep * keep)
        for i, turn in enumerate(_TURNS):
            self._wander[i] = keep * self._wander[i] + kick * self._rng.standard_normal()
            np.add(self._rest[turn], exploration * self._wander[i], out=drive[turn])

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
        np.greater_equal(potentials, config.threshold_mv, out=self._fired)
        ids = self._fired.nonzero()[0]
        potentials[ids] = config.reset_mv
        self._wakes_at[ids] = self._now + config.refractory_ms
        self._current *= self._fade
        self._current += self.weights.take(ids, axis=0).sum(axis=0)
        self._now += 1
        return self._fired
