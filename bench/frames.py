"""How fast are camera images recorded: 84x84x3 uint8, the size that agents are trained on?

The images are drawn like those of a simple game, flat areas and moving sprites, with a little noise
in one of them; they compress well, so the figures are those of copying and shuffling more than of
deflating.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bench.findings import Findings, Setting, figure, interleaved
from bench.readback import ReadBackError
from shardwriter import DataExporter

__all__ = ["draw", "measure"]

SHAPE = (84, 84, 3)
ROWS_PER_MEGABYTE = 49


def measure(setting: Setting) -> Findings:
    """Measure with and without compression, beside buffered h5py and ``write()``."""
    images = draw(100 if setting.is_quick else 1_000)
    calls = len(images) if setting.is_quick else 4_000
    rounds = interleaved(
        {
            "gzip": lambda: _recorded(setting.folder, images, calls, "gzip"),
            "none": lambda: _recorded(setting.folder, images, calls, None),
            "h5py gzip": _h5py(
                setting.folder, images, calls // 8, compression="gzip", shuffle=True
            ),
            "h5py none": _h5py(setting.folder, images, calls),
            "write": lambda: _written(setting.folder, images, calls),
        },
        setting,
    )
    write = ("write", "buffered write()")
    what = "84x84x3 uint8 frames"
    return Findings(
        figures=[
            figure(
                "frames/gzip",
                f"{what}, gzip",
                rounds,
                "gzip",
                "MB/s",
                peer=("h5py gzip", "h5py buffered, gzip 4 + shuffle"),
                ceiling=write,
            ),
            figure(
                "frames/none",
                f"{what}, uncompressed",
                rounds,
                "none",
                "MB/s",
                peer=("h5py none", "h5py buffered, uncompressed"),
                ceiling=write,
            ),
        ]
    )


def draw(count: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """Draw (count, 84, 84, 3) uint8 images; equal seeds give equal images."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, *SHAPE), np.uint8)
    images[:, :50] = (90, 150, 230)
    images[:, 50:] = (60, 120, 40)
    places = rng.integers(0, 70, (6, 2)).astype(float)
    speeds = rng.normal(0, 1.5, (6, 2))
    colours = rng.integers(0, 256, (6, 3))
    for image in images:
        places = (places + speeds) % 72
        for (top, left), colour in zip(places.astype(int), colours, strict=True):
            image[top : top + 12, left : left + 12] = colour
        image[50:60] ^= rng.integers(0, 2, (10, 84, 3), np.uint8)
    return images


def _rate(calls: int, seconds: float) -> float:
    return calls * int(np.prod(SHAPE)) / seconds / 1e6


def _recorded(
    folder: Path, images: np.ndarray[Any, Any], calls: int, compression: str | None
) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        options: dict[str, Any] = {"neural_sampling_rate": 1, "compression": compression}
        exporter = DataExporter(
            "frames", place, async_write=True, n_async_workers=1, progress=False, **options
        )
        with exporter.start_episode(0) as episode:  # so that the writer is up
            episode.log_timestep(0, {"frame": images[0]})
        episode.wait()
        start = time.perf_counter()
        with exporter.start_episode(1) as episode:
            for t in range(calls):
                episode.log_timestep(t, {"frame": images[t % len(images)]})
        episode.wait()
        taken = time.perf_counter() - start
        exporter.close(merge=False)
        with h5py.File(exporter.output_dir / "shards/episode_0001.h5") as file:
            got = file["episodes/episode_0001/neural_states/frame"][:]
    if not np.array_equal(got, images[np.arange(calls) % len(images)]):
        raise ReadBackError("frame", "values differ from those recorded")
    return _rate(calls, taken)


def _h5py(
    folder: Path, images: np.ndarray[Any, Any], calls: int, **filters: Any
) -> Callable[[], float]:
    def recorded() -> float:
        buffer = np.empty((ROWS_PER_MEGABYTE, *SHAPE), np.uint8)
        calls_whole = max(1, calls // len(buffer)) * len(buffer)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as place:
            with h5py.File(Path(place) / "frames.h5", "x") as file:
                stored = file.create_dataset(
                    "frame",
                    (0, *SHAPE),
                    "u1",
                    maxshape=(None, *SHAPE),
                    chunks=buffer.shape,
                    **filters,
                )
                for t in range(calls_whole):
                    row = t % len(buffer)
                    buffer[row] = images[t % len(images)]
                    if row + 1 == len(buffer):
                        stored.resize(t + 1, 0)
                        stored[t - row :] = buffer
            return _rate(calls_whole, time.perf_counter() - start)

    return recorded


def _written(folder: Path, images: np.ndarray[Any, Any], calls: int) -> float:
    path = folder / "frames.bin"
    start = time.perf_counter()
    with path.open("xb", buffering=1 << 20) as file:
        for t in range(calls):
            file.write(images[t % len(images)])
    taken = time.perf_counter() - start
    path.unlink()
    return _rate(calls, taken)
