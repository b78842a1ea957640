"""Experiments as Minari datasets, one episode at a time.

Invariant: what is written is what was recorded, step by step; where a dataset asks for more than
was recorded, the report says what was done.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardwriter import __version__
from shardwriter.errors import ConfigError, MissingDependency
from shardwriter.interop.minari_episodes import Episodes, Plan
from shardwriter.interop.minari_import import MinariImport, import_minari
from shardwriter.interop.new_path import new_path
from shardwriter.loader import ExperimentLoader
from shardwriter.notebook import name_of
from shardwriter.progress import progress_bar

try:
    import minari
    from gymnasium.envs.registration import EnvSpec
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path
except ImportError as error:
    raise MissingDependency("minari", "minari") from error

__all__ = ["MinariExport", "MinariImport", "export_minari", "import_minari"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MinariExport:
    """What an export wrote.

    Attributes
    ----------
    spaces
        Where the spaces come from.
    env
        The environment that Minari can make again, None for none.
    notes
        What the dataset has that was not recorded, or lacks.
    left_out
        Tables, and fields of ``behavior``, that Minari has no place for.
    """

    dataset: str
    directory: str
    episodes: int
    steps: int
    observation_space: str
    action_space: str
    spaces: str
    env: str | None
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


def export_minari(
    directory: str | os.PathLike[str],
    name: str,
    *,
    episodes: Sequence[int] | None = None,
    observations: Sequence[str] | None = None,
    actions: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> MinariExport:
    """Write an experiment as a Minari dataset, for ``minari.load_dataset(name)``.

    An episode of T steps has T actions, rewards, terminations and truncations, and T+1
    observations: the last one is from ``final_state`` or, of an episode that was left, from
    ``last_observation``, as `RecordEpisodes` keeps it. Fields ``info.<key>`` become infos of T+1
    rows, the first from the reset. Images are stored as they are, not as JPEG. One episode is in
    memory at a time.

    Parameters
    ----------
    directory
        The experiment.
    name
        The dataset's id, such as ``maze/random-v0``; it must be a new one. It is written to
        where Minari has its datasets (``MINARI_DATASETS_PATH``).
    episodes
        Ids; by default all.
    observations, actions
        Fields of ``behavior``; by default ``observation`` and ``action``, or all below
        ``observation.`` and ``action.``. Several become a dict space of these names.
    metadata
        Further entries of the dataset, such as ``author`` (a set), ``author_email`` (a set),
        ``algorithm_name``, ``code_permalink``, ``description``, ``requirements``.
    root
        The directory that no shard may lie outside of; by default the master's own.
    progress
        Show a progress bar.

    Raises
    ------
    ConfigError
        There is nothing that could be observations, actions or rewards; `name` is none, or is
        there already.
    FieldsDiffer
        A field is not of one dtype and shape in all the episodes.
    ExperimentNotFound, EpisodeNotFound, ShardMissing, MasterStale, ShardDamaged, ShardOutside
        The experiment, or an episode's shard, cannot be read.
    MissingDependency
        Minari is not installed; raised when this module is imported.
    """
    target = _new_dataset(name)
    with ExperimentLoader(directory, root=root) as loader:
        ids = loader.list_episodes() if episodes is None else sorted(set(episodes))
        chosen = {"observation": observations, "action": actions}
        plan = Plan.of(loader, ids, chosen)
        spec = loader.get_metadata().get("env_spec")
        made = Episodes(loader, plan)
        namespace = name.rpartition("/")[0]
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)
        with (
            new_path(target) as hidden,
            progress_bar("export", "episode", len(ids), shown=progress) as bar,
        ):
            hidden.mkdir()
            storage = MinariStorage.new(
                _made(hidden / "data"),
                observation_space=plan.spaces["observation"],
                action_space=plan.spaces["action"],
                env_spec=EnvSpec.from_json(spec) if spec else None,
                jpeg_encoding=False,
            )
            storage.update_metadata(_dataset_metadata(loader, name) | dict(metadata or {}))
            storage.update_episodes(made.buffers(ids, bar.update))
            storage.update_episode_metadata(made.metadata)
    return MinariExport(
        dataset=name,
        directory=os.fspath(target),
        episodes=len(made.metadata),
        steps=made.steps,
        observation_space=str(plan.spaces["observation"]),
        action_space=str(plan.spaces["action"]),
        spaces=plan.origin,
        env=EnvSpec.from_json(spec).id if spec else None,
        notes=made.notes(),
        left_out=tuple(sorted(made.left_out)),
    )


def _new_dataset(name: str) -> Path:
    """Return where a new dataset goes."""
    found = DATASET_ID_RE.fullmatch(name)
    if found is None or found["version"] is None:
        raise ConfigError("name", "an id with a version, such as maze/random-v0", name)
    target = Path(get_dataset_path(name))
    if target.exists():
        raise ConfigError("name", f"a dataset that does not exist in {target.parent}", name)
    return target


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _dataset_metadata(loader: ExperimentLoader, name: str) -> dict[str, Any]:
    own = loader.get_metadata()
    experiment = name_of(own)
    return {
        "dataset_id": name,
        "minari_version": minari.__version__,
        "description": f"Episodes of the experiment {experiment}, recorded with shardwriter.",
        "shardwriter": {
            "version": __version__,
            "experiment_name": experiment,
            "start_time": str(own["start_time"]),
        },
    }
