"""Writing a master: virtual datasets over shards, and copies of what is small.

Invariant: a visible master is complete; it is written under a hidden name and then renamed.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock
from tqdm.auto import tqdm

from merge.plan import EpisodePlan, MasterPlan, VirtualDataset, plan
from shardwriter.errors import ExperimentNotFound, ShardDamaged
from shardwriter.layout import (
    ATTRIBUTES,
    EPISODES,
    EXPERIMENT,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    MASTER,
    SHARDS,
    listed_episodes,
)
from shardwriter.schema import fill_value
from shardwriter.shard import describe, publish

__all__ = ["merge_experiment"]

_VIRTUAL_BYTES = 64 * 1024  # larger arrays outside tables stay where they are
_DEEPEST = 64


def merge_experiment(
    directory: Path, output: Path | None = None, *, progress: bool = False
) -> Path:
    """Build, or build anew, the master over all finished shards of an experiment.

    Parameters
    ----------
    directory
        The experiment's directory.
    output
        Where the master goes; by default ``experiment_data.h5`` in the directory. It names its
        shards relative to its own folder.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The master.

    Raises
    ------
    ExperimentNotFound
        The directory is not an experiment's.
    ShardDamaged, FormatError
        A shard cannot be read; the master is as before.
    """
    directory = directory.absolute()
    if not (directory / SHARDS).is_dir():
        raise ExperimentNotFound(
            directory, f"an experiment with a folder {SHARDS}/", "give the directory of one"
        )
    target = (output or directory / MASTER).absolute()
    (directory / EXPERIMENT).mkdir(exist_ok=True)
    with FileLock(directory / EXPERIMENT / "merge.lock"):
        shards = list(listed_episodes(directory).values())
        bar = tqdm(total=2 * len(shards), desc="merge", unit="shard", disable=not progress)
        with bar:
            described = [describe(path) for path in _counted(shards, bar)]
            names = [os.path.relpath(path, target.parent) for path in shards]
            _write(plan(described, names), directory, target, bar)
    return target


def _counted(items: Iterable[Any], bar: "tqdm[Any]") -> Iterator[Any]:
    for item in items:
        yield item
        bar.update()


def _write(master: MasterPlan, directory: Path, target: Path, bar: "tqdm[Any]") -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    # ("v108", "v114") keeps the master readable by HDF5 1.10 and later.
    with h5py.File(temporary, "w", libver=("v108", "v114")) as file:
        _copy_experiment(directory, file, target.parent)
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["episode_count"] = len(master.episodes)
        file.attrs["end_time"] = datetime.now(UTC).isoformat()
        file.create_dataset(INDEX, data=master.index)
        file.create_group(EPISODES)
        for episode in _counted(master.episodes, bar):
            _write_episode(file, episode)
    publish(temporary, target, replace=True)


def _write_episode(file: h5py.File, episode: EpisodePlan) -> None:
    group = file.create_group(episode.group)
    for name, value in episode.attributes.items():
        group.attrs[name] = value
    for dataset in episode.datasets:
        _create_virtual(file, dataset)
    if episode.copied:
        with h5py.File(episode.shard.path, "r") as source:
            for name in episode.copied:
                _copy(source[episode.group], name, group, name, episode.source)


def _copy_experiment(directory: Path, file: h5py.File, folder: Path) -> None:
    """Copy the experiment's own files: each to the group of its name, attributes to the root."""
    root = directory / EXPERIMENT
    for path in sorted(root.rglob("[!.]*.h5")):
        name = path.relative_to(root).with_suffix("").as_posix()
        with h5py.File(path, "r") as source:
            group = file if name == ATTRIBUTES else file.require_group(name)
            for key, value in source.attrs.items():
                group.attrs[key] = value
            for key in source:
                _copy(source, key, group, key, os.path.relpath(path, folder))


def _copy(
    source: h5py.Group, name: str, target: h5py.Group, key: str, file_name: str, depth: int = 0
) -> None:
    """Copy a group or dataset; large arrays stay where they are and are shown virtually."""
    place = f"{source.name}/{name}"
    path = Path(source.file.filename)
    if not isinstance(source.get(name, getlink=True), h5py.HardLink):
        raise ShardDamaged(path, place, "expected an object, got a link")
    if depth > _DEEPEST:
        raise ShardDamaged(path, place, f"expected groups at most {_DEEPEST} deep")
    node = source[name]
    if isinstance(node, h5py.Group):
        group = target.create_group(key)
        for attribute, value in node.attrs.items():
            group.attrs[attribute] = value
        for child in node:
            _copy(node, child, group, child, file_name, depth + 1)
        return
    if node.is_virtual or node.external:
        raise ShardDamaged(path, place, "expected data of its own, got a reference")
    if node.nbytes < _VIRTUAL_BYTES or node.dtype.kind not in "biufc":
        source.copy(node, target, key)
        return
    _create_virtual(
        target,
        VirtualDataset(key, node.name, file_name, node.shape, node.dtype, fill_value(node.dtype)),
    )
    for attribute, value in node.attrs.items():
        target[key].attrs[attribute] = value


def _create_virtual(group: h5py.Group, dataset: VirtualDataset) -> None:
    layout = h5py.VirtualLayout(dataset.shape, dataset.dtype)
    if 0 not in dataset.shape:
        layout[...] = h5py.VirtualSource(
            dataset.source, dataset.source_path, dataset.shape, dataset.dtype
        )
    group.create_virtual_dataset(dataset.path, layout, fillvalue=dataset.fill)
