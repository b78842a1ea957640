"""How many short episodes can one worker record in a second, from start to published shard?

Each has 100 steps of A1k. The peer makes a file for each with buffered h5py, without syncing it.
The limit is a raw file of the same bytes for each that is synced and renamed, as a shard is.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.data import VARIANTS, Recording, Step, Variant, simulate
from bench.findings import Findings, Setting, figure, interleaved
from bench.readback import check_episode
from bench.recorders import RECORDERS, RawRecorder

__all__ = ["measure"]

STEPS = 100


def measure(setting: Setting) -> Findings:
    """Measure with a writer process and without."""
    variant = replace(VARIANTS["A1k"].shortened(20), n_steps=STEPS)
    recording = simulate(variant)
    steps = recording.steps(STEPS, 1)
    episodes = 20 if setting.is_quick else 150
    names = ("gzip", "gzip-caller", "h5py-gzip")
    rounds = interleaved(
        {
            **{
                name: lambda name=name: _recorded(
                    name, variant, recording, steps, episodes, setting.folder
                )
                for name in names
            },
            "raw": lambda: _synced(variant, steps, episodes, setting.folder),
        },
        setting,
    )
    return Findings(
        figures=[
            figure(
                f"short_episodes/{name}",
                f"episodes of {STEPS} steps, {RECORDERS[name].label}",
                rounds,
                name,
                "episodes/s",
                peer=("h5py-gzip", RECORDERS["h5py-gzip"].label),
                ceiling=("raw", "write() + fsync() + rename()"),
            )
            for name in names[:2]
        ]
    )


def _recorded(
    name: str,
    variant: Variant,
    recording: Recording,
    steps: list[Step],
    episodes: int,
    folder: Path,
) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        recorder = RECORDERS[name].make(Path(place), variant)
        log = recorder.begin(episodes)  # so that the writer is up
        log(*steps[0])
        recorder.end()
        recorder.finish()
        start = time.perf_counter()
        for episode in range(episodes):
            log = recorder.begin(episode)
            for step in steps:
                log(*step)
            recorder.end()
        recorder.finish()
        taken = time.perf_counter() - start
        recorder.close()
        for episode in range(episodes):
            check_episode(recorder, episode, recording, n_steps=STEPS, sample_every=1)
    return episodes / taken


def _synced(variant: Variant, steps: list[Step], episodes: int, folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        recorder = RawRecorder(Path(place), variant)
        start = time.perf_counter()
        for episode in range(episodes):
            log = recorder.begin(episode)
            for step in steps:
                log(*step)
            recorder.end()
            path = recorder.path(episode)
            _sync(path)
            path.rename(path.with_suffix(".final"))
            _sync(path.parent)
        return episodes / (time.perf_counter() - start)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
