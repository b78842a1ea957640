"""Episodes of noise, and scripts in processes of their own, for the tests of what was promised."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from known_episode import Array

from shardwriter.recording.episode import Episode

QUIET: dict[str, Any] = {"progress": False, "seed": 5}


def shard(experiment: Path, episode: int = 0) -> Path:
    return experiment / "shards" / f"episode_{episode:04d}.h5"


def log_noise(episode: Episode, steps: int = 2_000) -> None:
    noise = noise_of(episode.id, steps)
    for t in range(steps):
        episode.log_timestep(t, {"v": noise[t]}, noise[t] > 1, {"x": t / 10}, float(t % 7 == 0))


def noise_of(episode: int, steps: int = 2_000) -> Array:
    return np.random.default_rng(episode).standard_normal((steps, 20), np.float32)


def run(script: str, *arguments: object, **options: Any) -> str:
    """Run a script in a process of its own; return what it printed."""
    lines = [line.removeprefix("        ") for line in script.splitlines()]
    command = [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout
