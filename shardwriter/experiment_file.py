"""What belongs to the experiment as a whole, until a merge copies it into the master.

Each file ``experiment/<name>.h5`` holds what becomes the master's group ``<name>``. Invariant: a
file is written whole under a hidden name and then renamed, so a visible one is complete.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from shardwriter.groups import write_attributes, write_tree
from shardwriter.journal import sync_directory
from shardwriter.layout import EXPERIMENT
from shardwriter.tree import flatten

__all__ = ["write_experiment_file"]


def write_experiment_file(
    directory: Path, name: str, attributes: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Write or replace one file of the experiment.

    Parameters
    ----------
    directory
        The experiment's directory.
    name
        The master's group, such as ``config`` or ``checkpoints/best``.
    attributes
        The group's attributes.
    data
        Its content, nested.

    Raises
    ------
    TreeError
        The content cannot be stored; the file is as before.
    """
    leaves = flatten(data)
    path = directory / EXPERIMENT / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with h5py.File(temporary, "w", libver=("v108", "v114")) as file:
            write_attributes(file, attributes)
            write_tree(file, leaves)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
