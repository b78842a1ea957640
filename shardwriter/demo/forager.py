"""The agent: a network in a body in an arena, and the rollout that records it.

Invariant: everything random comes from the episode's generator, so that an experiment's seed and an
episode's id give the same episode again.
"""

import math
from dataclasses import dataclass

import numpy as np

from shardwriter.demo.network import MOTOR, POPULATIONS, SENSORY, Circuit, Neurons
from shardwriter.demo.plasticity import Change, Dopamine, Plasticity, PlasticityConfig
from shardwriter.demo.world import Arena, ArenaConfig, Meal
from shardwriter.recording.episode import Episode

__all__ = ["DT_S", "UNITS", "BodyConfig", "Forager", "rollout"]

DT_S = 1e-3
UNITS = {
    "membrane_potential": "mV",
    "weight": "mV",
    "position": "cm",
    "heading": "rad",
    "speed": "cm/s",
}

_WEIGHTS_EVERY = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyConfig:
    """How odour becomes input, and spikes become movement."""

    frame_ms: int = 10
    """The world is sensed, and the weights are changed, once per frame."""
    rate_tau_ms: float = 50.0
    turn_rad: float = 0.55
    """Turning rate (rad/s) per hertz by which the left population fires above the right one."""
    base_speed_cm_s: float = 10.0
    stride_cm: float = 0.6
    """Speed (cm/s) per hertz of the forward population."""
    odour_mv: float = 27.0
    odour_half: float = 0.12
    """Largest sensory input, and the odour concentration that gives half of it."""


class Forager:
    """One agent that learns while it lives."""

    def __init__(self, circuit: Circuit, rng: np.random.Generator, *, learns: bool = True) -> None:
        self.arena = Arena(ArenaConfig(), rng)
        self.neurons = Neurons(circuit, rng)
        self.turn_rad_s = 0.0
        self._body = BodyConfig()
        self._speed_cm_s = 0.0
        self._learns = learns
        frame = self._body.frame_ms
        rule = PlasticityConfig()
        weights = self.neurons.weights[SENSORY, MOTOR].T
        self._plasticity = Plasticity(weights, circuit.plastic, rule, frame)
        self._dopamine = Dopamine(rule, frame)
        self._recent = np.zeros((frame, len(circuit.weights)), dtype=np.bool_)
        self._rates_hz = np.zeros(3)
        self.odour = self.arena.smell()

    def step(self, timestep: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], Meal | None]:
        """Live for a millisecond; return who fired (borrowed), and what was eaten."""
        moment = timestep % self._body.frame_ms
        if moment == 0:
            self._sense()
        fired = self.neurons.step()
        self._recent[moment] = fired
        self.arena.move(self._speed_cm_s, self.turn_rad_s, 1.0)
        meal = self._end_frame() if moment == self._body.frame_ms - 1 else None
        return fired, meal

    def weight_changes(self, *, everything: bool = False) -> Change:
        """Return what learning has changed since the last call, by neuron ids."""
        posts, pres, old, new = self._plasticity.changes(everything=everything)
        return Change(posts + MOTOR.start, pres + SENSORY.start, old, new)

    def _sense(self) -> None:
        concentration, bearing = self.odour
        strength = self._body.odour_mv * concentration / (concentration + self._body.odour_half)
        self.neurons.feel(
            bearing,
            strength,
            exploration=self._dopamine.exploration,
            duration_ms=self._body.frame_ms,
        )

    def _end_frame(self) -> Meal | None:
        """Read the motor rates, eat, smell, learn."""
        self._decode()
        before, self.odour = self.odour, self.arena.smell()
        meal = self.arena.eat()
        rise = math.log((self.odour.concentration + 1e-3) / (before.concentration + 1e-3))
        signal = self._dopamine.signal(rise * 1e3 / self._body.frame_ms, meal is not None)
        if self._learns:
            self._plasticity.observe(self._recent[:, SENSORY], self._recent[:, MOTOR])
            self._plasticity.learn(signal)
        if meal is not None:
            self.odour = self.arena.smell()
        return meal

    def _decode(self) -> None:
        """Turn the spikes of a frame into a turning rate and a speed."""
        body = self._body
        spikes = self._recent[:, MOTOR].reshape(body.frame_ms, 3, -1)
        instant_hz = spikes.mean(axis=(0, 2)) * 1e3
        self._rates_hz += (1.0 - math.exp(-body.frame_ms / body.rate_tau_ms)) * (
            instant_hz - self._rates_hz
        )
        left, right, forward = self._rates_hz.tolist()
        self.turn_rad_s = body.turn_rad * (left - right)
        self._speed_cm_s = body.base_speed_cm_s + body.stride_cm * forward


def rollout(
    episode: Episode, *, steps: int, circuit_seed: int, learns: bool = True
) -> dict[str, float]:
    """Let a forager live for `steps` milliseconds and log all of it.

    Every episode starts with the same naive circuit. Returns what was eaten (in all, and in each
    quarter of the episode) and the distance walked.
    """
    forager = Forager(Circuit(circuit_seed), episode.rng, learns=learns)
    arena = forager.arena
    populations = {name: [ids.start, ids.stop] for name, ids in POPULATIONS.items()}
    episode.log_static_data("arena", {"size_cm": arena.config.size_cm, "food_cm": arena.food})
    episode.log_static_data("populations", populations)
    quarters = [0, 0, 0, 0]
    for t in range(steps):
        fired, meal = forager.step(t)
        episode.log_timestep(
            t,
            neural_state={"membrane_potential": forager.neurons.potentials},
            spikes=fired,
            behavior={
                "position": arena.position,
                "heading": arena.heading_rad,
                "speed": arena.speed_cm_s,
                "odour": forager.odour.concentration,
                "odour_bearing": forager.odour.bearing_rad,
            },
            reward=0.0 if meal is None else 1.0,
        )
        if meal is not None:
            quarters[4 * t // steps] += 1
            event = {"position": meal.position, "regrown_at": meal.regrown_at}
            episode.log_event("food_eaten", t, event)
        if t % _WEIGHTS_EVERY == _WEIGHTS_EVERY - 1 or t == steps - 1:
            _log_weights(episode, t, forager.weight_changes(everything=t == steps - 1))
    eaten = {f"food_quarter_{i + 1}": n for i, n in enumerate(quarters)}
    return {"food_eaten": sum(quarters), "distance_cm": arena.distance_cm, **eaten}


def _log_weights(episode: Episode, timestep: int, change: Change) -> None:
    synapses = np.stack((change.pres, change.posts), axis=1)
    episode.log_weight_changes(timestep, synapses, change.old, change.new)
