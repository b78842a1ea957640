"""A small experiment with everything in it, for the conversions."""

from pathlib import Path

import numpy as np

from shardwriter import DataExporter

N, STEPS, DT = 5, 60, 2e-3
UNITS = {"membrane_potential": "mV", "behavior/position": "cm", "reward": "pellet"}


def potentials(episode: int) -> np.ndarray:
    return np.random.default_rng(episode).normal(-60, 5, (STEPS, N)).astype(np.float32)


def fired(episode: int) -> np.ndarray:
    return potentials(episode) > -57


def positions(episode: int) -> np.ndarray:
    return np.random.default_rng(100 + episode).normal(size=(STEPS, 2))


def rewards() -> np.ndarray:
    return np.where(np.arange(STEPS) % 7 == 3, 0.5, 0.0)


def record(directory: Path, episodes: int = 3, dt: float | None = DT) -> Path:
    options = {"neural_sampling_rate": 2, "chunk_size": 16, "progress": False}
    with DataExporter("known", directory, **options) as exporter:
        exporter.save_units(UNITS, dt=dt)
        for i in range(episodes):
            with exporter.start_episode(i) as episode:
                episode.log_timesteps(
                    np.arange(STEPS),
                    neural_state={"membrane_potential": potentials(i)},
                    spikes=fired(i),
                    behavior={"position": positions(i), "zone": np.arange(STEPS) // 10},
                    reward=rewards(),
                )
                episode.log_event("lap", 7, {"number": 3, "name": "first"})
                episode.log_weight_change(9, (1, 2), old_weight=0.5, new_weight=0.75)
    return exporter.output_dir
