"""Seeded data that every benchmark records.

A leaky integrate-and-fire (LIF) network is simulated once; recorders then replay it from memory, so
that a measurement contains recording and nothing else. Per step there are float32 membrane
potentials of N neurons, the ids of the ~2 % of neurons that fire, two float32[3] behaviours and a
float32 reward.

Invariant: replaying may repeat data, but never within reach of a compressor. Potentials repeat
after megabytes and everything else after enough steps that even its byte planes exceed the
32 KiB window of deflate. So a file is as large as that of data which never repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "VARIANTS",
    "Floats",
    "Ints",
    "LifNetwork",
    "Recording",
    "Spikes",
    "Step",
    "Variant",
    "simulate",
]

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int32]
Spikes: TypeAlias = NDArray[np.generic]
"""The ids of the neurons that fired, int32, or bool[N]."""
Step: TypeAlias = tuple[int, Floats, Spikes, Floats, Floats, np.float32]
"""(timestep, potentials, spikes, position, velocity, reward), as `recorder.Log` takes them."""

FIRING_FRACTION = 0.02
TUNING_STEPS = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One shape of the workload.

    Attributes
    ----------
    n_neurons
        Length of the vector of membrane potentials.
    n_steps
        Steps of one recorded episode.
    sample_every
        Potentials are stored once in so many steps; spikes, behaviour and reward at each step.
    pool_rows
        Different rows of potentials; they repeat after that.
    pool_steps
        Different steps of everything else; they repeat after that.
    """

    name: str
    n_neurons: int
    n_steps: int
    sample_every: int
    pool_rows: int
    pool_steps: int

    def shortened(self, divisor: int) -> Variant:
        """Return the same workload with fewer steps and a smaller pool."""
        n_steps = self.n_steps // divisor
        return replace(self, n_steps=n_steps, pool_steps=min(self.pool_steps, n_steps))

    @property
    def rows_per_megabyte(self) -> int:
        """Rows of potentials in a chunk of 1 MB."""
        return max(1, 1_000_000 // (4 * self.n_neurons))


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            name="A1k",
            n_neurons=1_000,
            n_steps=40_000,
            sample_every=1,
            pool_rows=2_000,
            pool_steps=40_000,
        ),
        Variant(
            name="A10k",
            n_neurons=10_000,
            n_steps=4_000,
            sample_every=1,
            pool_rows=500,
            pool_steps=4_000,
        ),
        Variant(
            name="B1k",
            n_neurons=1_000,
            n_steps=100_000,
            sample_every=100,
            pool_rows=400,
            pool_steps=40_000,
        ),
    )
}


class LifNetwork:
    """A noise-driven LIF network, dt = 1 ms, sparse random weights, 80 % of them excitatory.

    Its drive is tuned, at first and then slowly, so that ~2 % of the neurons fire per step.

    Parameters
    ----------
    n_neurons
        Number of neurons.
    seed
        Seed of weights, first potentials and noise.
    """

    REST_MV = np.float32(-65.0)
    THRESHOLD_MV = np.float32(-50.0)
    DECAY = np.float32(1 / 20)
    NOISE_MV = np.float32(2.0)
    REFRACTORY_STEPS = 2

    def __init__(self, n_neurons: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        out_degree = min(100, n_neurons // 10)
        sign = np.where(rng.random((n_neurons, 1)) < 0.8, 1, -4)
        strength = rng.lognormal(-1.2, 0.5, (n_neurons, out_degree)) * sign
        self._rng = rng
        self._n = n_neurons
        self._targets = rng.integers(0, n_neurons, (n_neurons, out_degree))
        self._weights: Floats = strength.astype(np.float32)
        self._refractory = np.zeros(n_neurons, np.int32)
        self._current: Floats = np.zeros(n_neurons, np.float32)
        self._drive_mv = 8.0
        self.potentials: Floats = rng.uniform(self.REST_MV, self.THRESHOLD_MV, n_neurons).astype(
            np.float32
        )
        for _ in range(TUNING_STEPS):
            self._drive_mv += 4.0 * (FIRING_FRACTION - len(self._advance()) / n_neurons)

    def step(self) -> Ints:
        """Advance by 1 ms and return the ids of the neurons that fired, int32, ascending."""
        fired = self._advance()
        self._drive_mv += 0.5 * (FIRING_FRACTION - len(fired) / self._n)
        return fired.astype(np.int32)

    def _advance(self) -> NDArray[np.intp]:
        noise = self.NOISE_MV * self._rng.standard_normal(self._n, dtype=np.float32)
        leak = (self.REST_MV - self.potentials + np.float32(self._drive_mv)) * self.DECAY
        v = self.potentials + leak + self._current * np.float32(0.3) + noise
        v[self._refractory > 0] = self.REST_MV
        np.maximum(self._refractory - 1, 0, out=self._refractory)
        fired = np.flatnonzero(v >= self.THRESHOLD_MV)
        v[fired] = self.REST_MV
        self._refractory[fired] = self.REFRACTORY_STEPS
        self._current *= np.float32(0.8)
        if len(fired):
            targets, weights = self._targets[fired].ravel(), self._weights[fired].ravel()
            self._current += np.bincount(targets, weights, self._n).astype(np.float32)
        self.potentials = v
        return fired


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """Simulated data, as pools that `steps` replays.

    Attributes
    ----------
    potentials
        (pool_rows, N) float32, one row per *stored* step.
    spike_ids, spike_offsets
        (K,) int32 and (pool_steps + 1,) int64: step i fired ``ids[offsets[i]:offsets[i + 1]]``.
    position, velocity, reward
        (pool_steps, 3), (pool_steps, 3) and (pool_steps,) float32.
    """

    potentials: Floats
    spike_ids: Ints
    spike_offsets: NDArray[np.int64]
    position: Floats
    velocity: Floats
    reward: Floats

    def save(self, folder: Path) -> None:
        """Write one ``.npy`` per field into `folder`, which is made."""
        folder.mkdir(parents=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> Recording:
        """Read what `save` wrote."""
        return cls(**{f.name: np.load(folder / f"{f.name}.npy") for f in fields(cls)})

    @property
    def n_steps(self) -> int:
        """Different steps in the pool."""
        return len(self.reward)

    def steps(self, n_steps: int, sample_every: int, *, dense: bool = False) -> list[Step]:
        """Build the arguments of `n_steps` calls beforehand, so that slicing is not timed.

        Parameters
        ----------
        n_steps
            Number of steps; the pools repeat as needed.
        sample_every
            Steps for which a row of potentials holds.
        dense
            Give spikes as bool[N] instead of as ids.

        Returns
        -------
        list of Step
            Views into this recording; nothing is copied, except that `dense` makes a new array.
        """
        bounds = self.spike_offsets.tolist()
        spikes: list[Spikes]
        if dense:
            spikes = list(self._dense_spikes())
        else:
            spikes = [self.spike_ids[a:b] for a, b in pairwise(bounds)]
        rows = list(self.potentials)
        small = list(
            zip(spikes, list(self.position), list(self.velocity), list(self.reward), strict=True)
        )
        return [
            (t, rows[t // sample_every % len(rows)], *small[t % len(small)]) for t in range(n_steps)
        ]

    def _dense_spikes(self) -> NDArray[np.bool_]:
        counts = np.diff(self.spike_offsets)
        fired = np.zeros((self.n_steps, self.potentials.shape[1]), np.bool_)
        fired[np.repeat(np.arange(self.n_steps), counts), self.spike_ids] = True
        return fired

    def stored_rows(self, start: int, stop: int) -> Floats:
        """Return the rows `start` to `stop` of potentials that a recorder has to store."""
        return self.potentials[np.arange(start, stop) % len(self.potentials)]

    def stored_spikes(self, n_steps: int) -> tuple[NDArray[np.int64], Ints]:
        """Return timesteps and neuron ids of all spikes of the first `n_steps` steps."""
        repeats, rest = divmod(n_steps, self.n_steps)
        counts = np.diff(self.spike_offsets)
        tail = self.spike_ids[: self.spike_offsets[rest]]
        ids = np.concatenate([*[self.spike_ids] * repeats, tail])
        per_step = np.concatenate([*[counts] * repeats, counts[:rest]])
        return np.repeat(np.arange(n_steps), per_step), ids

    def raw_bytes(self, n_steps: int, sample_every: int) -> int:
        """Count the bytes that `n_steps` steps carry, without timesteps or any format."""
        n_rows = -(-n_steps // sample_every)
        n_spikes = len(self.stored_spikes(n_steps)[1])
        n_neurons = int(self.potentials.shape[1])
        per_step = 4 * (3 + 3 + 1)
        return 4 * (n_rows * n_neurons + n_spikes) + n_steps * per_step


def simulate(variant: Variant, seed: int = 1) -> Recording:
    """Simulate the pools of one variant; equal seeds give equal data."""
    network = LifNetwork(variant.n_neurons, seed)
    rows = np.empty((variant.pool_rows, variant.n_neurons), np.float32)
    ids: list[Ints] = []
    for t in range(variant.pool_steps):
        ids.append(network.step())
        row, is_sampled = divmod(t, variant.sample_every)
        if is_sampled == 0 and row < variant.pool_rows:
            rows[row] = network.potentials
    n_rows = min(variant.pool_rows, -(-variant.pool_steps // variant.sample_every))
    position, velocity, reward = _behave(variant.pool_steps, np.random.default_rng(seed + 1))
    return Recording(
        potentials=rows[:n_rows],
        spike_ids=np.concatenate(ids),
        spike_offsets=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        position=position,
        velocity=velocity,
        reward=reward,
    )


def _behave(n_steps: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Walk at random, smoothly; the reward falls with the distance from the mean place."""
    pushes = rng.standard_normal((n_steps, 3)).astype(np.float32) * np.float32(0.05)
    velocity = np.zeros((n_steps, 3), np.float32)
    for t in range(1, n_steps):
        velocity[t] = np.float32(0.95) * velocity[t - 1] + pushes[t]
    position = np.cumsum(velocity * np.float32(0.02), 0, dtype=np.float32)
    distance = np.linalg.norm(position - position.mean(0), axis=1)
    found = rng.random(n_steps) < 0.01
    return position, velocity, (np.exp(-distance) + found).astype(np.float32)
