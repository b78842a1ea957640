"""Copying what belongs to an experiment as a whole when it is packed or unpacked.

Invariant: nothing outside the experiment is copied, and HDF5 copies in a process that can be lost.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h5py import h5g

from merge.copying import Copying, copied_in_child
from merge.master_file import MasterWriter, open_master
from merge.sources import is_own_name
from shardwriter.errors import ShardDamaged
from shardwriter.files.column_reader import read_value
from shardwriter.files.layout import (
    ATTRIBUTES,
    CHECKPOINTS,
    CONFIG_JSON,
    EPISODES,
    EXPERIMENT,
    INDEX,
    MERGE,
)
from shardwriter.files.links import Node, entries, open_child, open_dataset
from shardwriter.files.refusal import named_refusals
from shardwriter.files.untrusted import check_own, check_tree, read_attributes_of, readable
from shardwriter.files.vetting import Vetter, vetted

__all__ = ["copy_into_group", "copy_own_files", "unpack_own_files"]


def copy_into_group(path: Path, writer: MasterWriter, target: Path, group: str) -> list[Copying]:
    """Copy all of a file into a group of the file, at `target`, that a writer has open.

    Only its attributes; returns the rest for ``copied_in_child`` once that is closed.

    Raises
    ------
    ShardDamaged, TooLarge
        The file cannot be read, or is not to be.
    """
    place = writer.group(writer.file.id, group)
    with vetted(path, "") as source:
        writer.attributes(h5g.open(place, b"."), read_attributes_of(path, source))
        check_tree(path, source)
        names = entries(path, source)
    prefix = f"{group}/" if group else ""
    return [Copying(path, each, target, f"{prefix}{each}") for each in map(os.fsdecode, names)]


def config_text(directory: Path) -> str | None:
    """Return what an experiment's ``config.json`` says, None where there is none.

    Raises
    ------
    ShardOutside
        It is a link to a file outside the experiment.
    ShardDamaged
        It cannot be read, or is no text.
    """
    path = directory / CONFIG_JSON
    if not path.is_file():
        return None
    check_own(path, directory)
    with readable(path, "text"):
        return path.read_text()


def copy_own_files(source: Path, target: Path) -> None:
    """Copy the files beside the shards from one experiment's directory to another.

    Raises
    ------
    ShardOutside
        One is a link to a file outside the experiment.
    """
    own = (source / EXPERIMENT).rglob("[!.]*")
    for path in (*own, source / CONFIG_JSON):
        if path.is_file() and path.suffix not in (".lock", ".run"):
            check_own(path, source)
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def unpack_own_files(path: Path, target: Path) -> None:
    """Write the groups of a packed file's root as the files that they came from.

    Raises
    ------
    ShardDamaged, TooLarge
        A group cannot be read, or is not to be.
    """
    root = target / EXPERIMENT
    root.mkdir()
    vetter = Vetter(path)
    left_over: list[Copying] = []
    with vetter.opened() as source:
        attributes = read_attributes_of(path, source)
        for name in ("format", "format_version", "episode_count", "uuid"):
            attributes.pop(name, None)
        _write_own_file(root / f"{ATTRIBUTES}.h5", attributes)
        for key in entries(path, source):
            name = os.fsdecode(key)
            if name in (EPISODES, INDEX, MERGE):
                continue
            vetter.check(name)
            group = open_child(path, source, key)
            check_tree(path, group)
            if name == CONFIG_JSON:
                (target / name).write_text(str(read_value(open_dataset(path, source, name))))
                continue
            _check_name(path, name)
            if name != CHECKPOINTS:
                left_over += _copy_group(path, name, group, root / f"{name}.h5")
                continue
            (root / name).mkdir()
            for checkpoint in entries(path, group):
                place = f"{name}/{os.fsdecode(checkpoint)}"
                _check_name(path, place)
                member = open_child(path, group, checkpoint)
                left_over += _copy_group(path, place, member, root / f"{place}.h5")
    list(copied_in_child(left_over))


def _check_name(path: Path, name: str) -> None:
    if not is_own_name(name):
        raise ShardDamaged(path, name, "expected the name of a group of an experiment's own")


def _copy_group(path: Path, place: str, group: Node, target: Path) -> list[Copying]:
    """Write a file with a group's attributes; return the rest for ``copied_in_child``."""
    if not isinstance(group, h5g.GroupID):
        raise ShardDamaged(path, place, "expected a group, got a dataset")
    names = entries(path, group)
    if target.exists():
        raise ShardDamaged(path, place, f"expected another name, as {target.name} has that already")
    _write_own_file(target, read_attributes_of(path, group))
    return [Copying(path, f"{place}/{key}", target, key) for key in map(os.fsdecode, names)]


def _write_own_file(target: Path, attributes: Mapping[str, Any]) -> None:
    with named_refusals(target), open_master(target, "w") as file:
        MasterWriter(file).attributes(file["/"].id, attributes)
