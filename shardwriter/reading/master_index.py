"""Finding an experiment, and the index in its master.

Invariant: an index returned has every field that this version reads.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import ExperimentNotFound, FormatError, ShardDamaged, command
from shardwriter.files.column_reader import read_whole
from shardwriter.files.episode_index import lacking_fields
from shardwriter.files.layout import INDEX, MASTER, check_experiment, unfinished_text
from shardwriter.files.links import is_there, open_dataset
from shardwriter.files.published import published_file
from shardwriter.files.shard_description import check_format
from shardwriter.files.untrusted import UNREADABLE, check_own, check_tree, read_attributes_of
from shardwriter.files.vetting import Vetter

__all__ = ["master_of", "open_index", "recording_of"]


def open_index(path: Path) -> tuple[h5py.File, np.ndarray[Any, Any]]:
    """Open a master and read its index.

    Raises
    ------
    FormatError
        It is of another format or version, or cannot be read.
    """
    try:
        vetter = Vetter(path, whole=True)
        vetter.check(INDEX)
        file = published_file(path)
    except OSError as error:
        raise FormatError(path, "an HDF5 file", str(error)) from error
    except ShardDamaged as damage:
        _, place, problem, _ = damage.args
        raise FormatError(path, "a file that HDF5 can read", f"{place}: {problem}") from damage
    try:
        vetter.bind(file.id)
        check_format(path, read_attributes_of(path, file["/"].id))
        if not is_there(path, file.id, INDEX):
            raise FormatError(path, f"a master with {INDEX}", "none; is it a shard?")
        dataset = open_dataset(path, file.id, INDEX)
        check_tree(path, dataset.id)
        index = read_whole(dataset)
        lacking = lacking_fields(index.dtype)
        if lacking:
            raise FormatError(path, f"an {INDEX} with fields {', '.join(lacking)}", "others")
        if index.ndim != 1:
            raise FormatError(path, f"an {INDEX} of one axis", f"one of shape {index.shape}")
    except (*UNREADABLE, ShardDamaged) as error:
        file.close()
        raise FormatError(path, f"a readable {INDEX}", str(error)) from error
    except BaseException:
        file.close()
        raise
    return file, index


def master_of(path: Path) -> Path:
    """Return the master that a path leads to: the file itself, or that of a directory.

    Raises
    ------
    ExperimentNotFound
        There is none.
    ShardOutside
        An experiment's is a link to a file outside.
    """
    if path.is_dir():
        if (path / MASTER).is_file():
            check_own(path / MASTER, path)
            return path / MASTER
        check_experiment(path)
        unfinished = unfinished_text(path)
        then = f"{unfinished}, and then" if unfinished else "run"
        advice = f"{then} {command('merge', path)}"
        raise ExperimentNotFound(path, f"a master {MASTER} in it", advice)
    if not path.is_file():
        raise ExperimentNotFound(path, "an experiment's directory or master", "check the path")
    return path


def recording_of(path: Path) -> Path:
    """Return an experiment's directory, to read it live.

    Raises
    ------
    ExperimentNotFound
        It is not the directory of one.
    """
    check_experiment(path)
    return path
