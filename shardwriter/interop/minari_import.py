"""Minari datasets as experiments, one episode at a time.

Invariant: an imported episode has the form that `RecordEpisodes` gives to a recorded one.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.errors import ExperimentNotFound, MissingDependency
from shardwriter.exporter import DataExporter
from shardwriter.interop.spaces import check_space, rows_of, space_to_json
from shardwriter.progress import progress_bar
from shardwriter.recording.episode import Episode

try:
    import minari
    from minari.storage import get_dataset_path
except ImportError as error:
    raise MissingDependency("minari", "minari") from error

__all__ = ["MinariImport", "import_minari"]

Array = np.ndarray[Any, Any]
_KNOWN = ("id", "total_steps", "seed", "options")  # of an episode, kept elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class MinariImport:
    """What an import made; ``env`` is the environment's id, None for none."""

    dataset: str
    directory: str
    episodes: int
    steps: int
    env: str | None


def import_minari(
    name: str, output_dir: str | os.PathLike[str] = "experiments", *, progress: bool = False
) -> MinariImport:
    """Make an experiment of a Minari dataset that is on this machine.

    Episodes get Minari's ids and have the form that `RecordEpisodes` records: ``observation``,
    ``action``, ``terminated``, ``truncated`` and ``info.<key>`` in ``behavior``, rewards, the last
    observation in ``final_state``, seed, options and first infos in the static data ``reset``,
    and further metadata in ``minari``. Infos that are no arrays with a row for each step are in
    the static data ``infos``. The experiment's attributes have the spaces, the environment's
    specification and, as JSON, ``minari``: all else that is known of the dataset. One episode is
    in memory at a time.

    Parameters
    ----------
    name
        The dataset's id, such as ``maze/random-v0``.
    output_dir
        Where the experiment's directory is made.
    progress
        Show a progress bar.

    Raises
    ------
    ExperimentNotFound
        There is no such dataset where Minari has them (``MINARI_DATASETS_PATH``).
    ConfigError
        A space is of a kind without a fixed form.
    FieldError
        A value cannot be stored.
    MissingDependency
        Minari is not installed; raised when this module is imported.
    """
    place = Path(get_dataset_path(name))
    if not (place / "data").is_dir():
        advice = f"`minari download {name}` gets it, if it is a public one"
        raise ExperimentNotFound(place, f"the Minari dataset {name}", advice)
    dataset = minari.load_dataset(name)
    spaces = {"observation": dataset.observation_space, "action": dataset.action_space}
    for part, space in spaces.items():
        check_space(f"{part}_space", space)
    steps = 0
    with (
        DataExporter(name.replace("/", "_"), output_dir, progress=False) as exporter,
        progress_bar("import", "episode", len(dataset), shown=progress) as bar,
    ):
        exporter.save_metadata(_attributes(dataset, spaces))
        for data in dataset.iterate_episodes():
            (metadata,) = dataset.storage.get_episode_metadata([data.id])
            with exporter.start_episode(int(data.id)) as episode:
                _record(episode, data, spaces, metadata)
            steps += len(data)
            bar.update()
    return MinariImport(
        dataset=name,
        directory=os.fspath(exporter.output_dir),
        episodes=len(dataset),
        steps=steps,
        env=dataset.env_spec.id if dataset.env_spec else None,
    )


def _attributes(dataset: Any, spaces: Mapping[str, Any]) -> dict[str, Any]:
    found = {f"{part}_space": space_to_json(space) for part, space in spaces.items()}
    known = dataset.storage.metadata
    rest = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in known.items()
        if key not in ("env_spec", *found)
    }
    found["minari"] = json.dumps(rest, default=str)
    if dataset.env_spec is not None:
        found |= {"env_spec": known["env_spec"], "env_id": dataset.env_spec.id}
    return found


def _record(
    episode: Episode, data: Any, spaces: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Log an episode of Minari's."""
    count = len(data)
    observations = rows_of("observation", spaces["observation"], data.observations)
    infos = {f"info.{key}": value for key, value in _leaves(data.infos or {}, "")}
    by_step = {key: rows for key, rows in infos.items() if len(rows) in (count, count + 1)}
    first = {
        key.removeprefix("info."): rows[0] for key, rows in by_step.items() if len(rows) > count
    }
    reset = {"seed": metadata.get("seed"), "options": metadata.get("options"), "info": first}
    episode.log_static_data("reset", reset)
    statics = {
        "minari": {key: value for key, value in metadata.items() if key not in _KNOWN},
        "infos": {
            key.removeprefix("info."): rows for key, rows in infos.items() if key not in by_step
        },
    }
    for name, values in statics.items():
        if values:
            episode.log_static_data(name, values)
    if count:
        episode.log_timesteps(
            np.arange(count),
            behavior={
                **{key: rows[:count] for key, rows in observations.items()},
                **rows_of("action", spaces["action"], data.actions),
                "terminated": np.asarray(data.terminations, bool),
                "truncated": np.asarray(data.truncations, bool),
                **{key: rows[-count:] for key, rows in by_step.items()},
            },
            reward=data.rewards,
        )
    last = {key: rows[count] for key, rows in observations.items() if len(rows) > count}
    episode.end(final_state=last)


def _leaves(infos: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Array]]:
    """Yield what is in nested infos by its path, texts as str."""
    for key, value in infos.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            rows = np.atleast_1d(np.asarray(value))
            if rows.dtype.kind == "O" and all(isinstance(each, bytes) for each in rows):
                rows = np.array([each.decode() for each in rows])
            yield f"{prefix}{key}", rows
