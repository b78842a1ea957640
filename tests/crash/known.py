"""What the crash trials log: every row carries its index and a checksum, and follows from both."""

import os
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter import ExperimentLoader
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.recording.episode import Episode

Array = np.ndarray[Any, Any]

ACK = struct.Struct("<HHI")
STEP, EVENT, WEIGHT, STATIC, END = range(5)
BLOCK = 10
STEPS = {"short": 40, "long": 500, "late": 500}
LATE_FROM = 230
STATUSES = ("completed", "interrupted", "empty")


@cache
def noise(episode: int) -> Array:
    return np.random.default_rng(episode).integers(0, 256, (max(STEPS.values()), 16), np.uint8)


def checksum(index: int, data: Array) -> int:
    return zlib.crc32(data.tobytes(), index)


@dataclass
class Log:
    """Logs one episode, and says after every call that it returned."""

    episode: Episode
    shape: str
    pipe: int
    counts: Counter[int] = field(default_factory=Counter)

    def returned(self, kind: int, count: int = 1) -> None:
        self.counts[kind] += count
        os.write(self.pipe, ACK.pack(self.episode.id, kind, self.counts[kind]))

    def run(self) -> None:
        step = 0
        while step < STEPS[self.shape]:
            count = BLOCK if step % 50 == 20 and self.shape != "short" else 1
            self.log_steps(step, count)
            step += count
            if step % 7 == 0:
                self.episode.log_event("turn", step, {"index": self.counts[EVENT]})
                self.returned(EVENT)
            if step % 5 == 0:
                index = self.counts[WEIGHT]
                self.episode.log_weight_change(step, index, float(index), index + 0.5)
                self.returned(WEIGHT)
            if step % 100 == 33:
                name = f"static_{self.counts[STATIC]}"
                self.episode.log_static_data(name, {"index": self.counts[STATIC]})
                self.returned(STATIC)
        self.episode.end()
        self.returned(END)

    def log_steps(self, step: int, count: int) -> None:
        data = noise(self.episode.id)[step : step + count]
        steps = np.arange(step, step + count)
        sums = np.array([checksum(int(i), row) for i, row in zip(steps, data, strict=True)])
        fields: dict[str, Array] = {"index": steps, "noise": data, "checksum": sums}
        if self.shape == "late" and step >= LATE_FROM:
            fields["late"] = steps * 0.5
        spikes = [np.arange(i, i + i % 3) for i in steps]
        states = {"v": steps[:, None] + np.arange(4, dtype=np.float32)}
        if count > 1:
            rewards = steps + 1.0
            self.episode.log_timesteps(steps, states, None, fields, rewards, spike_ids=spikes)
        else:
            one = {name: values[0] for name, values in fields.items()}
            state = {"v": states["v"][0]}
            self.episode.log_timestep(step, state, None, one, step + 1.0, spike_ids=spikes[0])
        self.returned(STEP, count)


Acks = dict[int, Counter[int]]


def check(directory: Path, acks: Acks, shape: str, is_finished: bool) -> int:
    """Check a merged experiment against what was acknowledged; return the acknowledged rows."""
    rows = 0
    with ExperimentLoader(directory) as loader:
        found = loader.list_episodes()
        assert set(acks) <= set(found), f"acknowledged {sorted(acks)}, found {found}"
        for episode in found:
            counts = acks.get(episode, Counter())
            rows += _check_episode(loader.get_episode(episode), counts, shape, is_finished)
    return rows


def _check_episode(
    episode: RecordedEpisode, counts: Counter[int], shape: str, is_finished: bool
) -> int:
    status = episode.get_metadata()["status"]
    assert status in STATUSES, status
    assert status == "completed" or not (counts[END] or is_finished), status
    acked = counts[STEP]
    behavior = episode.get_behavior()
    steps = _length(behavior["timesteps"], acked, BLOCK, "behavior")
    _same(behavior["timesteps"], np.arange(steps), "behavior/timesteps")
    if steps:
        data = noise(episode.id)[:steps]
        _same(behavior["index"], np.arange(steps), "behavior/index")
        _same(behavior["noise"], data, "behavior/noise")
        sums = [checksum(i, row) for i, row in enumerate(behavior["noise"])]
        _same(behavior["checksum"], np.array(sums), "behavior/checksum")
    if "late" in behavior:
        late = np.where(np.arange(steps) < LATE_FROM, np.nan, np.arange(steps) * 0.5)
        _same(behavior["late"], late, "behavior/late")
    assert "late" in behavior or shape != "late" or acked <= LATE_FROM
    _check_others(episode, acked)
    events = episode.get_events("turn")
    n = _length(events["timesteps"], counts[EVENT], 1, "events")
    if n:
        _same(events["index"], np.arange(n), "events/turn/index")
    weights = episode.get_weight_changes()
    n = _length(weights["timesteps"], counts[WEIGHT], 1, "weight_changes")
    _same(weights["new_weights"], np.arange(n) + 0.5, "weight_changes/new_weights")
    static = episode.get_static_data()
    assert counts[STATIC] <= len(static) <= counts[STATIC] + 1, "static data"
    assert all(static[f"static_{i}"] == {"index": i} for i in range(len(static)))
    return acked + counts[EVENT] + counts[WEIGHT]


def _check_others(episode: RecordedEpisode, acked: int) -> None:
    states = episode.get_neural_states()
    n = _length(states["timesteps"], acked, BLOCK, "neural_states")
    if n:
        _same(states["v"], np.arange(n)[:, None] + np.arange(4), "neural_states/v")
    rewards = episode.get_rewards()
    n = _length(rewards["timesteps"], acked, BLOCK, "rewards")
    _same(rewards["values"], np.arange(n) + 1.0, "rewards/values")
    spikes = episode.get_spikes()
    all_steps = np.arange(acked + BLOCK)
    times = np.repeat(all_steps, all_steps % 3)
    ids = np.concatenate([np.arange(i, i + i % 3) for i in all_steps])
    n = _length(spikes["timesteps"], int(np.sum(times < acked)), 2 * BLOCK, "spikes")
    _same(spikes["timesteps"], times[:n], "spikes/timesteps")
    _same(spikes["neuron_ids"], ids[:n], "spikes/neuron_ids")


def _length(values: Array, acked: int, in_flight: int, name: str) -> int:
    n = len(values)
    assert acked <= n <= acked + in_flight, f"{name}: {acked} rows acknowledged, {n} found"
    return n


def _same(got: Array, expected: Array, name: str) -> None:
    assert got.shape == expected.shape, f"{name}: {got.shape}, expected {expected.shape}"
    different = ~np.isclose(got, expected, 0, 0, equal_nan=True)
    bad = np.flatnonzero(different.any(axis=tuple(range(1, got.ndim))))
    assert not len(bad), f"{name}: {len(bad)} values differ, the first at {bad[0]}"
