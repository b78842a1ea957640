"""Recorded episodes as Minari's: which fields become what, and the steps of each.

Invariant: one episode is in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardwriter.errors import ConfigError, FieldsDiffer, MissingDependency, episodes_text
from shardwriter.files.layout import BEHAVIOR, REWARDS, TIMESTEPS
from shardwriter.interop.spaces import (
    Form,
    field_names,
    inferred_space,
    space_from_json,
    value_of,
)
from shardwriter.loader import ExperimentLoader
from shardwriter.reading.recorded_episode import RecordedEpisode

try:
    from minari.data_collector import EpisodeBuffer
except ImportError as error:
    raise MissingDependency("minari", "minari") from error

__all__ = ["Episodes", "Plan"]

Array = np.ndarray[Any, Any]
_PARTS = {"observation": "observations", "action": "actions"}
_ENDS = ("terminated", "truncated")
_OTHER_TABLES = ("neural_states", "spikes", "weight_changes", "events")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What becomes observations and actions.

    Attributes
    ----------
    spaces
        By part, ``observation`` and ``action``.
    origin
        Where they come from, for people.
    columns
        By part, for each field of its space the column of ``behavior`` that it is.
    forms
        Of each column of `first`, an episode with steps.
    """

    spaces: dict[str, Any]
    origin: str
    columns: dict[str, dict[str, str]]
    forms: dict[str, str]
    first: int

    @classmethod
    def of(
        cls,
        loader: ExperimentLoader,
        ids: Sequence[int],
        chosen: Mapping[str, Sequence[str] | None],
    ) -> "Plan":
        """Plan for some episodes; see ``export_minari``."""
        first, behavior = _first_behavior(loader, ids)
        has_env = behavior.keys() >= set(_ENDS)
        columns = {name: _columns(name, behavior, chosen[name]) for name in _PARTS}
        lacking = [
            f"no {_PARTS[name]} (behavior/{name}, or fields named with --{_PARTS[name]})"
            for name in _PARTS
            if not columns[name]
        ]
        if not has_env and not (loader.episode_index["rows_rewards"] > 0).any():
            lacking.append("no rewards")
        if lacking:
            there = ", ".join(key for key in behavior if key != TIMESTEPS) or "nothing"
            got = f"{'; '.join(lacking)}; behavior has {there}"
            raise ConfigError("experiment", "observations, actions and rewards", got)
        recorded = {name: loader.get_metadata().get(f"{name}_space") for name in _PARTS}
        spaces, origins = {}, {}
        for name in _PARTS:
            text = recorded[name]
            space = space_from_json(str(text)) if text and chosen[name] is None else None
            if space is not None and set(field_names(name, space)) == columns[name].keys():
                spaces[name], origins[name] = space, "recorded with the environment"
                continue
            spaces[name] = _inferred(loader, ids, name, columns[name], behavior)
            why = "no space was recorded" if not text else "it is not of the space recorded"
            origins[name] = f"inferred from the values, as {why}"
        told = [f"{name} {text}" for name, text in origins.items()]
        return cls(
            spaces=spaces,
            origin="; ".join(told if len(set(origins.values())) > 1 else [origins["action"]]),
            columns=columns,
            forms={key: _form(behavior[key]) for key in behavior},
            first=first,
        )


def _first_behavior(loader: ExperimentLoader, ids: Sequence[int]) -> tuple[int, dict[str, Array]]:
    """Return the first episode with steps, and its behaviour."""
    for episode in ids:
        behavior = loader.get_episode(episode).get_behavior()
        if len(behavior[TIMESTEPS]):
            return episode, behavior
    return -1, {}


def _columns(
    name: str, behavior: Mapping[str, Array], chosen: Sequence[str] | None
) -> dict[str, str]:
    """Return the columns of a part by their paths in its space."""
    if chosen is None:
        found = [key for key in behavior if key == name or key.startswith(f"{name}.")]
        return {key: key for key in found}
    for column in chosen:
        if column not in behavior or column == TIMESTEPS:
            there = ", ".join(key for key in behavior if key != TIMESTEPS)
            raise ConfigError(_PARTS[name], f"fields of behavior ({there})", column)
    if len(chosen) == 1:
        return {name: chosen[0]}
    return {f"{name}.{column}": column for column in chosen}


def _form(column: Array) -> str:
    return f"{column.dtype} {column.shape[1:]}"


def _inferred(
    loader: ExperimentLoader,
    ids: Sequence[int],
    name: str,
    columns: Mapping[str, str],
    behavior: Mapping[str, Array],
) -> Any:
    forms: dict[str, Form] = {}
    for path, column in columns.items():
        values = behavior[column]
        extent = None
        if values.dtype.kind in "iu" and values.ndim == 1:
            extent = _extent(loader, ids, column)
        forms[path] = values.dtype, values.shape[1:], extent
    return inferred_space(name, forms)


def _extent(loader: ExperimentLoader, ids: Sequence[int], column: str) -> tuple[int, int]:
    """Return the smallest and the largest value of a column."""
    extents: list[int] = []
    for episode in ids:
        with loader.get_episode(episode).opened() as group:
            is_there = f"{BEHAVIOR}/{column}" in group
        if is_there:
            values, _ = loader.concat(f"{BEHAVIOR}/{column}", [episode])
            extents += [int(values.min()), int(values.max())] if len(values) else []
    return min(extents), max(extents)


@dataclass(slots=True)
class Episodes:
    """Turns episodes into Minari's, and notes what was peculiar about them."""

    loader: ExperimentLoader
    plan: Plan
    steps: int = 0
    metadata: list[dict[str, Any]] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    empty: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    shortened: list[int] = field(default_factory=list)

    def buffers(self, ids: Sequence[int], done: Callable[[], object]) -> Iterator[Any]:
        """Yield each episode that has steps."""
        index = self.loader.episode_index
        rows = index[np.isin(index["episode_id"], ids)]
        self.left_out |= {name for name in _OTHER_TABLES if (rows[f"rows_{name}"] > 0).any()}
        for episode in ids:
            buffer = self._buffer(self.loader.get_episode(episode))
            if buffer is not None:
                self.steps += len(buffer.rewards)
                yield buffer
            done()

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of."""
        texts = (
            (self.empty, "without steps: left out"),
            (self.shortened, "without a last observation: their last step is left out"),
            (self.cut, "neither terminated nor truncated: marked as truncated"),
        )
        return tuple(f"{episodes_text(ids)} {text}" for ids, text in texts if ids)

    def _buffer(self, episode: RecordedEpisode) -> Any:
        behavior = episode.get_behavior()
        steps = len(behavior[TIMESTEPS])
        last = _named(episode.get_static_data("last_observation"))
        last |= _named(episode.get_final_state())
        has_last = all(column in last for column in self.plan.columns["observation"].values())
        if steps == 0 or (steps == 1 and not has_last):
            self.empty.append(episode.id)
            return None
        self._check(episode.id, behavior)
        count = steps if has_last else steps - 1
        if not has_last:
            self.shortened.append(episode.id)
        ends = {key: behavior.get(key, np.zeros(steps, bool))[:count] for key in _ENDS}
        if not any(end[-1] for end in ends.values()):
            self.cut.append(episode.id)
            ends["truncated"] = ends["truncated"].copy()
            ends["truncated"][-1] = True
        reset = _named(episode.get_static_data("reset"))
        facts = episode.get_metadata()
        self.metadata.append(_episode_metadata(episode, facts))
        self._note_left_out(behavior)
        return EpisodeBuffer(
            id=len(self.metadata) - 1,
            seed=reset.get("seed") if reset else facts.get("seed"),
            options=_named(reset.get("options")) or None,
            observations=self._part("observation", behavior, steps, last if has_last else {}),
            actions=self._part("action", behavior, count, {}),
            rewards=_rewards(episode, behavior[TIMESTEPS])[:count],
            terminations=ends["terminated"],
            truncations=ends["truncated"],
            infos=_infos(behavior, count, _named(reset.get("info"))),
        )

    def _note_left_out(self, behavior: Mapping[str, Array]) -> None:
        used = {TIMESTEPS, *_ENDS}.union(*(part.values() for part in self.plan.columns.values()))
        others = [key for key in behavior if key not in used and not key.startswith("info.")]
        self.left_out |= {f"{BEHAVIOR}/{key}" for key in others}

    def _check(self, episode: int, behavior: Mapping[str, Array]) -> None:
        for part in self.plan.columns.values():
            for column in part.values():
                expected = self.plan.forms[column]
                got = _form(behavior[column]) if column in behavior else "none"
                if got != expected:
                    place = f"{BEHAVIOR}/{column}"
                    raise FieldsDiffer(place, self.plan.first, expected, episode, got)

    def _part(
        self, name: str, behavior: Mapping[str, Array], count: int, last: Mapping[str, Any]
    ) -> Any:
        """Return `count` values of a space, and behind them the last one, if there is one."""
        rows = {}
        for path, column in self.plan.columns[name].items():
            values = behavior[column][:count]
            if last:
                if np.shape(last[column]) != values.shape[1:]:
                    expected = f"{values.shape[1:]}, as in {BEHAVIOR}"
                    raise ConfigError(f"last {column}", expected, np.shape(last[column]))
                values = np.concatenate([values, np.asarray(last[column], values.dtype)[None]])
            rows[path] = values.tolist() if values.dtype.kind == "O" else values
        return value_of(name, self.plan.spaces[name], rows)


def _named(values: Any) -> dict[str, Any]:
    """Return nested static data without entries of None, ``{}`` where they have no names."""
    if not isinstance(values, Mapping):
        return {}
    return {
        key: _named(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _rewards(episode: RecordedEpisode, timesteps: Array) -> Array:
    """Return the reward of each step, 0 where none was stored."""
    stored = episode.get_rewards()
    rows = np.minimum(np.searchsorted(timesteps, stored[TIMESTEPS]), len(timesteps) - 1)
    if (timesteps[rows] != stored[TIMESTEPS]).any():
        lost = stored[TIMESTEPS][timesteps[rows] != stored[TIMESTEPS]][0]
        expected = f"rewards of episode {episode.id} at timesteps that have behavior"
        raise ConfigError(REWARDS, expected, f"timestep {lost}")
    rewards = np.zeros(len(timesteps))
    np.add.at(rewards, rows, stored["values"])
    return rewards


def _infos(behavior: Mapping[str, Array], count: int, first: Mapping[str, Any]) -> dict[str, Any]:
    """Return infos of ``count + 1`` rows, NaN where a number was not given."""
    found = {}
    steps = {
        key.removeprefix("info."): values[:count]
        for key, values in behavior.items()
        if key.startswith("info.")
    }
    for key in {**first, **steps}:
        if key not in steps:
            found[key] = np.concatenate([[first[key]], np.full(count, np.nan)])
        elif key in first:
            values = steps[key]
            found[key] = np.concatenate([np.asarray(first[key], values.dtype)[None], values])
        elif steps[key].dtype.kind == "f":
            nothing = np.full((1, *steps[key].shape[1:]), np.nan, steps[key].dtype)
            found[key] = np.concatenate([nothing, steps[key]])
        else:
            found[key] = steps[key]
    return {
        key: values.tolist() if values.dtype.kind == "O" else values
        for key, values in found.items()
    }


def _episode_metadata(episode: RecordedEpisode, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Minari keeps with an episode; a path of its names nests."""
    own = {name: facts[name] for name in ("status", "success") if name in facts}
    found = {"episode_id": episode.id, **own, **_scalars(facts["summary"], "summary/")}
    imported = _scalars(episode.get_static_data("minari"), "")
    return {**imported, **{f"shardwriter/{name}": value for name, value in found.items()}}


def _scalars(values: Any, prefix: str) -> dict[str, Any]:
    """Return the numbers and texts in nested dicts by their path."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (bool, int, float, str, np.generic)):
            found[f"{prefix}{key}"] = value
    return found
