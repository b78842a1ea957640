"""Experiments to merge, and the content of files as plain values."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter import DataExporter

STEPS = 30


def record(
    folder: Path,
    ids: Iterable[int],
    *,
    name: str = "maze",
    position: Any = np.float32,
    **options: Any,
) -> Path:
    """Record short episodes with every kind of content; return the experiment's directory."""
    options = {"neural_sampling_rate": 2, "seed": 5, "progress": False, **options}
    with DataExporter(name, folder, **options) as exporter:
        exporter.save_config({"rate": 0.5, "nested": {"layers": [1, 2]}})
        exporter.save_network_structure(
            neurons={"ids": np.arange(20)},
            connections={"sources": np.arange(20_000) % 20, "targets": np.arange(20_000) % 7},
        )
        exporter.save_metadata({"subject": "µ-mouse"})
        exporter.save_checkpoint("best", {"weights": np.ones((3, 4)), "step": 7})
        for episode in ids:
            _record_one(exporter, episode, position)
    return exporter.output_dir


def _record_one(exporter: DataExporter, number: int, position: Any) -> None:
    rng = np.random.default_rng(number)
    with exporter.start_episode(number) as episode:
        episode.log_static_data("maze", {"walls": rng.random((100, 200)), "name": f"m{number}"})
        for t in range(STEPS + number % 3):
            episode.log_timestep(
                t,
                neural_state={"potential": rng.random(20, np.float32)},
                spikes=rng.random(20) < 0.3,
                behavior={"position": rng.random(3).astype(position), "at 50% %b": t},
                reward=float(t % 4),
            )
        episode.log_weight_change(3, (1, 2), 0.5, 0.25)
        episode.log_event("goal", 4, {"zone": "north", "time": 0.5})
        episode.end(success=True, final_state={"energy": 3.5}, summary={"distance": 1.5})


def record_long(folder: Path, **options: Any) -> Path:
    """Record an episode 1 of many chunks, columns and static values; return the directory."""
    options = {"chunk_size": 32, "progress": False, **options}
    rng = np.random.default_rng(0)
    deep = {f"key {i}": i for i in range(130)}
    with (
        DataExporter("long", folder, **options) as exporter,
        exporter.start_episode(1) as episode,
    ):
        episode.log_static_data("maze", {"walls": rng.random((300, 1000)), "deep": deep})
        for t in range(1400):
            behavior = {f"field {i}": t for i in range(12)}
            episode.log_timestep(t, spikes=rng.random(3) < 0.3, behavior=behavior, reward=1.0)
        episode.log_event("goal", 4, {"zone": "north"})
        episode.end(success=True, summary={"distance": 1.5})
    return exporter.output_dir


def content(group: h5py.Group) -> dict[str, Any]:
    """Return attributes and datasets below a group, by path, as digests that tell all of them."""
    found: dict[str, Any] = {f"@{name}": repr(value) for name, value in group.attrs.items()}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        for key, value in node.attrs.items():
            if key not in ("crc32", "is_sorted"):  # of the chunks, not of the values
                found[f"{name}@{key}"] = repr(value)
        if isinstance(node, h5py.Group):
            found[name] = "group"
        else:
            values = node[()]
            data = repr(values.tolist()) if node.dtype == object and node.shape else values
            digest = hashlib.sha256(data.encode() if isinstance(data, str) else bytes(data))
            found[name] = (str(node.dtype), node.shape, digest.hexdigest())

    group.visititems(visit)
    return found


def master_content(master: Path) -> dict[str, Any]:
    """Return all that a master holds of its episodes, and of the experiment."""
    with h5py.File(master) as file:
        found = content(file)
    mine = ("merge", "episode_index", "concatenated", "@end_time", "@uuid")
    return {name: value for name, value in found.items() if not name.startswith(mine)}


def shards_content(directory: Path) -> dict[str, Any]:
    """Return the content of all shards, as a master shows it."""
    found: dict[str, Any] = {}
    for path in sorted((directory / "shards").glob("episode_*.h5")):
        with h5py.File(path) as file:
            group = file["episodes"]
            found |= {f"episodes/{name}": value for name, value in content(group).items()}
    return found


def stamps(directory: Path) -> Mapping[str, tuple[int, int, bytes]]:
    """Return size, time of change and content of every shard."""
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted((directory / "shards").iterdir())
    }


def copied(experiment: Path, folder: Path) -> Path:
    """Return a copy of an experiment, times included."""
    target = folder / experiment.name
    shutil.copytree(experiment, target)
    return target


def shard(directory: Path, episode: int) -> Path:
    """Return the path of an episode's shard."""
    return directory / "shards" / f"episode_{episode:04d}.h5"
