"""Episodes whose every value follows from their id, and the ways to read them back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.recording.episode import Episode

Array = np.ndarray[Any, Any]
Tables = dict[str, Any]  # "behavior/position" -> array, or list for text

NEURONS = 12
SHORT, LONG = 60, 200_000
LONG_ID = 64


@dataclass(frozen=True)
class KnownEpisode:
    """What an episode logs, and what must come back."""

    id: int
    steps: int = SHORT
    sampling: int = 3

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Every value that is drawn, with a leading axis of timesteps."""
        rng = np.random.default_rng([self.id, self.steps])
        draw = rng.standard_normal
        late = np.full(self.steps, np.nan, np.float32)
        late[self.late_from :] = draw(self.steps - self.late_from, np.float32)
        reward = rng.choice([0.0, 0.0, 0.0, 1.0, -0.125], self.steps)
        return {
            "timesteps": np.arange(self.steps) + 7 * self.id,
            "potential": draw((self.steps, NEURONS), np.float32),
            "current": draw((self.steps, 2, 3)),
            "spikes": rng.random((self.steps, NEURONS)) < 0.2,
            "position": draw((self.steps, 3), np.float32),
            "heading": draw(self.steps),
            "phase": draw(self.steps) + 1j * draw(self.steps),
            "lap": rng.integers(-(2**62), 2**62, self.steps),
            "on_goal": rng.random(self.steps) < 0.5,
            "frame": rng.integers(0, 256, (self.steps, 2, 2), np.uint8),
            "late": late,
            "reward": reward,
        }

    @property
    def late_from(self) -> int:
        """The first timestep that has the field ``late``."""
        return self.steps // 2

    @property
    def spacing(self) -> int:
        """How much rarer weight changes and events are in long episodes, to save time."""
        return 1 if self.steps < 1000 else 20

    def neural_state(self, at: Any) -> dict[str, Any]:
        return {name: self.arrays[name][at] for name in ("potential", "current")}

    def behavior(self, at: Any) -> dict[str, Any]:
        names = ["position", "heading", "phase", "lap", "on_goal", "frame"]
        last = at.stop - 1 if isinstance(at, slice) else at
        if last >= self.late_from:
            names.append("late")
        return {name: self.arrays[name][at] for name in names}

    def static(self) -> dict[str, Any]:
        """Return nested data of every kind that can be kept."""
        return {
            "walls": np.arange(20.0).reshape(4, 5) * self.id,
            "name": f"maze {self.id} — größer",
            "open": True,
            "sizes": [1, 2, 3],
            "mixed": [1, "two", None, {"three": 3.0}],
            "nothing": {},
            "big": np.arange(20_000) + self.id,  # large enough to stay in the shard
        }

    # -- logging --------------------------------------------------------------------------

    def log(self, episode: Episode) -> None:
        """Log everything, one timestep a call."""
        episode.log_static_data("maze", self.static())
        for t in range(self.steps):
            self.log_step(episode, t)

    def log_step(self, episode: Episode, t: int) -> None:
        """Log everything of one timestep."""
        episode.log_timestep(
            int(self.arrays["timesteps"][t]),
            self.neural_state(t),
            self.arrays["spikes"][t],
            self.behavior(t),
            self.arrays["reward"][t],
        )
        self._log_rest(episode, t)

    def log_in_blocks(self, episode: Episode, size: int = 7_000) -> None:
        """Log everything, many timesteps a call."""
        episode.log_static_data("maze", self.static())
        for first in range(0, self.steps, size):
            block = slice(first, min(first + size, self.steps))
            episode.log_timesteps(
                self.arrays["timesteps"][block],
                self.neural_state(block),
                self.arrays["spikes"][block],
                self.behavior(block),
                self.arrays["reward"][block],
            )
            for t in range(block.start, block.stop):
                self._log_rest(episode, t)

    def _log_rest(self, episode: Episode, t: int) -> None:
        timestep = int(self.arrays["timesteps"][t])
        if t % (5 * self.spacing) == 0:
            synapse = (t % NEURONS, (t + 1) % NEURONS)
            episode.log_weight_change(timestep, synapse, t / 7, t / 3, trace=np.float32(t))
        if t % (10 * self.spacing) == 0:
            episode.log_event("lap", timestep, {"name": f"lap {t} — ü", "time": t / 9})
        if t % (17 * self.spacing) == 0:
            episode.log_event("bump", timestep)

    def end(self, episode: Episode) -> None:
        """End the episode with a final state and a summary."""
        episode.end(False, final_state=self.static(), summary={"id": self.id, "score": 0.5})

    # -- what must come back --------------------------------------------------------------

    @cached_property
    def tables(self) -> Tables:
        """Every column of every table."""
        a = self.arrays
        sampled = slice(None, None, self.sampling)
        fired, ids = a["spikes"].nonzero()
        rewarded = np.flatnonzero(a["reward"])
        changes = np.arange(0, self.steps, 5 * self.spacing)
        laps = np.arange(0, self.steps, 10 * self.spacing)
        names = ("position", "heading", "phase", "lap", "on_goal", "frame", "late")
        return {
            "neural_states/timesteps": a["timesteps"][sampled],
            "neural_states/potential": a["potential"][sampled],
            "neural_states/current": a["current"][sampled],
            "spikes/timesteps": a["timesteps"][fired],
            "spikes/neuron_ids": ids.astype(np.int32),
            "behavior/timesteps": a["timesteps"],
            **{f"behavior/{name}": a[name] for name in names},
            "rewards/timesteps": a["timesteps"][rewarded],
            "rewards/values": a["reward"][rewarded],
            "weight_changes/timesteps": a["timesteps"][changes],
            "weight_changes/source_ids": changes % NEURONS,
            "weight_changes/target_ids": (changes + 1) % NEURONS,
            "weight_changes/old_weights": changes / 7,
            "weight_changes/new_weights": changes / 3,
            "weight_changes/trace": changes.astype(np.float32),
            "events/lap/timesteps": a["timesteps"][laps],
            "events/lap/name": [f"lap {t} — ü" for t in laps],
            "events/lap/time": laps / 9,
            "events/bump/timesteps": a["timesteps"][:: 17 * self.spacing],
        }


@cache
def known(episode: int) -> KnownEpisode:
    """Return the known episode of an id; one of them is long."""
    return KnownEpisode(episode, LONG if episode == LONG_ID else SHORT)


def record_singly(episode: Episode) -> None:
    """Log a known episode by single calls: a rollout."""
    known(episode.id).log(episode)
    known(episode.id).end(episode)


def record_in_blocks(episode: Episode) -> None:
    """Log a known episode by calls of many timesteps: a rollout."""
    known(episode.id).log_in_blocks(episode)
    known(episode.id).end(episode)


def record(directory: Path, log: Any, **options: Any) -> Path:
    """Record one episode in this process; return the experiment's directory."""
    options = {"progress": False, "seed": 5} | options
    with (
        DataExporter("test", directory, **options) as exporter,
        exporter.start_episode(0) as episode,
    ):
        log(episode)
    return exporter.output_dir


# -- reading ------------------------------------------------------------------------------


def tables_by_loader(loader: ExperimentLoader, episode: int) -> Tables:
    """Read every table through the loader's getters."""
    handle = loader.get_episode(episode)
    groups: dict[str, Mapping[str, Array]] = {
        "neural_states": handle.get_neural_states(),
        "spikes": handle.get_spikes(),
        "behavior": handle.get_behavior(),
        "rewards": handle.get_rewards(),
        "weight_changes": handle.get_weight_changes(),
        **{f"events/{name}": columns for name, columns in handle.get_events().items()},
    }
    found = {}
    for group, columns in groups.items():
        for name, values in columns.items():
            found[f"{group}/{name}"] = values.tolist() if values.dtype == object else values
    return found


def tables_by_h5py(file: Path, episode: int) -> Tables:
    """Read every table as any program would that knows nothing of shardwriter."""
    found: Tables = {}

    def visit(path: str, node: h5py.Dataset | h5py.Group) -> None:
        is_table = path.startswith(("neural", "spikes/", "behavior", "rewards", "weight", "events"))
        if isinstance(node, h5py.Dataset) and is_table:
            text = h5py.check_string_dtype(node.dtype)
            found[path] = node.asstr()[()].tolist() if text else node[()]

    with h5py.File(file, "r") as opened:
        opened[f"episodes/episode_{episode:04d}"].visititems(visit)
    return found


def assert_same(found: Tables, expected: Tables) -> None:
    """Compare tables bit for bit, dtypes and shapes included."""
    assert sorted(found) == sorted(expected)
    for path, values in expected.items():
        if isinstance(values, list):
            assert found[path] == values, path
            continue
        assert (found[path].dtype, found[path].shape) == (values.dtype, values.shape), path
        assert found[path].tobytes() == values.tobytes(), path


def assert_same_tree(found: Any, expected: Any) -> None:
    """Compare nested values, types included."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            assert_same_tree(found[name], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_tree(one, other)
    else:
        assert found == expected
