"""How many windows a second does training get, in random order?

The peer is what one writes oneself: a map-style PyTorch dataset that slices the same shards with
h5py, opened in each worker. All go through PyTorch's DataLoader, and every window of the first
epoch is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bench.data import VARIANTS, simulate
from bench.findings import Figure, Findings, Setting, figure, interleaved
from bench.machine import usable_cores
from bench.readback import ReadBackError
from shardwriter import DataExporter

__all__ = ["measure"]

EPISODES, LENGTH, BATCH = 2, 40, 32  # of 40 MB each, five times what HDF5 caches of a dataset
OURS = {"stream": "WindowStream", "map": "WindowDataset"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Which windows are read."""

    name: str
    fields: tuple[str, ...]
    stride: int


WORKLOADS = (
    Workload(name="potentials", fields=("neural_states/potential", "behavior/position"), stride=40),
    Workload(name="behaviour", fields=("behavior/position", "behavior/velocity"), stride=8),
)


def measure(setting: Setting) -> Findings:
    """Measure in the training process, and with a worker per core, up to two."""
    if find_spec("torch") is None:
        return Findings(missing=["windows (needs torch)"])
    directory = _record(setting)
    workers = [0, min(2, usable_cores())]
    figures = []
    for workload in WORKLOADS:
        figures += _figures(workload, workers, directory, setting)
    return Findings(figures=figures)


def _figures(
    workload: Workload, counts: list[int], directory: Path, setting: Setting
) -> list[Figure]:
    epochs: dict[str, Callable[[], float]] = {}
    windows: dict[str, dict[tuple[int, int], float]] = {}
    for count in counts:
        for name, batches in _loaders(workload, count, directory).items():
            epochs[f"{name} {count}"] = partial(_windows_per_s, batches)
            windows[f"{name} {count}"] = _sums(batches, workload)
    expected = windows["h5py 0"]
    for name, found in windows.items():
        if found != expected:
            raise ReadBackError(name, "its windows are not those of h5py")
    rounds = interleaved(epochs, setting)
    return [
        figure(
            f"windows/{workload.name}/{kind}/{count}",
            f"{workload.name}: {label}, {f'{count} workers' if count else 'no worker'}",
            rounds,
            f"{kind} {count}",
            "windows/s",
            peer=(f"h5py {count}", "h5py, the same shards"),
        )
        for count in counts
        for kind, label in OURS.items()
    ]


def _record(setting: Setting) -> Path:
    variant = VARIANTS["A1k"].shortened(40 if setting.is_quick else 2)
    steps = variant.n_steps // EPISODES
    recording = simulate(variant)
    with DataExporter(
        "windows", setting.folder, neural_sampling_rate=1, progress=False
    ) as exporter:
        for i in range(EPISODES):
            rows = np.arange(i * steps, (i + 1) * steps)
            with exporter.start_episode(i) as episode:
                episode.log_timesteps(
                    np.arange(steps),
                    {"potential": recording.potentials[rows % len(recording.potentials)]},
                    behavior={
                        "position": recording.position[rows],
                        "velocity": recording.velocity[rows],
                    },
                )
    return exporter.output_dir


def _loaders(workload: Workload, workers: int, directory: Path) -> dict[str, Any]:
    """Return what gives batches in random order, by name."""
    from torch.utils.data import DataLoader

    from shardwriter.interop.torch import WindowDataset, WindowStream

    chosen = (LENGTH, workload.stride, workload.fields)
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    stream = WindowStream(directory, *chosen, batch_size=BATCH)
    datasets = {
        "map": WindowDataset(directory, *chosen),
        "h5py": SlicedShards(directory, *chosen),
    }
    return {"stream": DataLoader(stream, batch_size=None, **options)} | {
        name: DataLoader(dataset, BATCH, shuffle=True, **options)
        for name, dataset in datasets.items()
    }


class SlicedShards:
    """The peer: a map-style dataset over files that h5py opens once in each process."""

    def __init__(self, directory: Path, length: int, stride: int, fields: tuple[str, ...]) -> None:
        self._length, self._fields = length, fields
        self._files: dict[Path, h5py.Group] = {}
        self._windows: list[tuple[int, Path, int]] = []
        for number, path in enumerate(sorted((directory / "shards").glob("*.h5"))):
            with h5py.File(path) as file:
                rows = len(file[f"episodes/{path.stem}/{fields[0]}"])
            starts = range(0, rows - length + 1, stride)
            self._windows += [(number, path, start) for start in starts]

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        episode, path, start = self._windows[number]
        if path not in self._files:
            self._files[path] = h5py.File(path)[f"episodes/{path.stem}"]
        group = self._files[path]
        rows = {field: group[field][start : start + self._length] for field in self._fields}
        return {**rows, "episode": episode, "start": start}


def _windows_per_s(batches: Iterable[dict[str, Any]]) -> float:
    start = time.perf_counter()
    count = sum(len(batch["start"]) for batch in batches)
    return count / (time.perf_counter() - start)


def _sums(batches: Iterable[dict[str, Any]], workload: Workload) -> dict[tuple[int, int], float]:
    """Return the sum of each window's values; reading them all starts the workers."""
    found = {}
    for batch in batches:
        values = [batch[field].numpy().astype(np.float64) for field in workload.fields]
        for i, at in enumerate(
            zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True)
        ):
            found[at] = float(sum(each[i].sum() for each in values))
    return found
