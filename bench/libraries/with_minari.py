"""Minari: episode buffers in memory, written as a HDF5 dataset at the end.

It has no ragged type, so spikes are a dense int8 vector; potentials that are sampled fit no
observation and go into the infos. Velocities are the actions.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import Floats, Spikes, Variant
from bench.recorder import Log, Signals

__all__ = ["MinariRecorder"]


class MinariRecorder:
    """One dataset for each episode."""

    def __init__(self, folder: Path, variant: Variant) -> None:
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
        self._folder, self._variant = folder, variant
        self._is_dense = variant.sample_every == 1

    def begin(self, episode: int) -> Log:
        """Make the lists."""
        self._episode = episode
        self._v: list[Floats] = []
        self._spikes: list[Any] = []
        self._position: list[Floats] = []
        self._velocity: list[Floats] = []
        self._reward: list[float] = []
        n, every = self._variant.n_neurons, self._variant.sample_every

        def log(t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
            if t % every == 0:
                self._v.append(v.copy())
            fired = np.zeros(n, np.int8)
            fired[spikes] = 1
            self._spikes.append(fired)
            self._position.append(p.copy())
            self._velocity.append(q.copy())
            self._reward.append(float(r))

        return log

    def end(self) -> None:
        """Write the dataset."""
        import minari
        from gymnasium.spaces import Box, Dict, MultiBinary
        from minari.data_collector import EpisodeBuffer

        n, steps = self._variant.n_neurons, len(self._reward)
        observations = {"spikes": self._spikes, "position": self._position}
        spaces = {"spikes": MultiBinary(n), "position": Box(-np.inf, np.inf, (3,), np.float32)}
        if self._is_dense:
            observations["v"] = self._v
            spaces["v"] = Box(-np.inf, np.inf, (n,), np.float32)
        for values in observations.values():  # one observation more than there are actions
            values.append(values[-1])
        buffer = EpisodeBuffer(
            id=0,
            observations=observations,
            actions=self._velocity,
            rewards=self._reward,
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
            infos={} if self._is_dense else {"v": self._v},
        )
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # on metadata that a benchmark has none of
            minari.create_dataset_from_buffers(
                self._name(self._episode),
                [buffer],
                observation_space=Dict(spaces),
                action_space=Box(-np.inf, np.inf, (3,), np.float32),
                data_format="hdf5",
            )

    @staticmethod
    def _name(episode: int) -> str:
        return f"bench/episode{episode}-v0"

    def finish(self) -> None:
        """Do nothing: `end` wrote the file."""

    def close(self) -> None:
        """Do nothing: `end` wrote the file."""

    def path(self, episode: int) -> Path:
        """Return the dataset's folder."""
        return self._folder / self._name(episode)

    def read(self, episode: int) -> Signals:
        """Read the episode back."""
        import minari

        read = minari.load_dataset(self._name(episode))[0]
        observations: Any = read.observations
        v = observations["v"][:-1] if self._is_dense else read.infos["v"]
        return Signals(
            potentials=np.asarray(v),
            spike_ids=np.nonzero(observations["spikes"][:-1])[1].astype(np.int32),
            position=observations["position"][:-1],
            velocity=read.actions,
            reward=read.rewards,
        )
