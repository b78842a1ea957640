"""What belongs to the experiment as a whole, until a merge copies it into the master.

Each file ``experiment/<name>.h5`` holds what becomes the master's group ``<name>``. Invariant: a
file is written whole under a hidden name and then renamed, so a visible one is complete.
"""

import itertools
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import h5py

from shardwriter.errors import ConfigError, ExperimentNotFound, ShardDamaged, not_opened
from shardwriter.files.groups import plain, read_attributes, write_attributes, write_tree
from shardwriter.files.journal import sync_directory
from shardwriter.files.layout import (
    ATTRIBUTES,
    CONFIG_JSON,
    EXPERIMENT,
    SHARDS,
    run_notes,
    temporary_files,
    temporary_path,
)
from shardwriter.files.refusal import hdf5_to_write, named_refusals
from shardwriter.files.tree import TreeError, flatten
from shardwriter.files.untrusted import check_own
from shardwriter.files.vetting import vetted
from shardwriter.system.process import Identity

__all__ = [
    "ExperimentFiles",
    "lock_file",
    "new_experiment_directory",
    "remove_unfinished",
    "sparse_or_dense",
]


class ExperimentFiles:
    """The experiment's own files.

    Parameters
    ----------
    directory
        The experiment's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @staticmethod
    def of(directory: Path) -> "tuple[ExperimentFiles, dict[str, Any], dict[str, Any]]":
        """Return the files of an experiment, how it is recorded, and its attributes.

        Raises
        ------
        ExperimentNotFound
            The directory is not an experiment's.
        """
        attributes = directory / EXPERIMENT / f"{ATTRIBUTES}.h5"
        try:
            content = _config_json(directory)
            with vetted(attributes, "") as root:
                known = read_attributes(h5py.Group(root))
            return ExperimentFiles(directory), content["recorder"], known
        except (ShardDamaged, OSError, ValueError, KeyError) as error:
            expected = f"an experiment with {CONFIG_JSON} and {attributes.relative_to(directory)}"
            advice = "give the directory that a DataExporter made"
            raise ExperimentNotFound(directory, expected, advice) from error

    def saved_config(self) -> dict[str, Any]:
        """Return the configuration that ``save_config_json`` wrote."""
        return cast(dict[str, Any], _config_json(self._directory)["config"])

    def save(
        self, name: str, attributes: Mapping[str, Any], data: Mapping[str, Any] | None = None
    ) -> None:
        """Write or replace one file.

        Parameters
        ----------
        name
            The master's group, such as ``config`` or ``checkpoints/best``.
        attributes
            The group's attributes.
        data
            Its content, nested.

        Raises
        ------
        ConfigError
            Something cannot be stored; the file is as before.
        """
        try:
            self._write(name, attributes, data or {})
        except (TreeError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(name, "values that HDF5 and JSON can hold", str(error)) from error

    def save_config_json(self, recorder: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write the configuration for people, beside the master."""
        content = {"recorder": recorder, "config": config}
        path = self._directory / CONFIG_JSON
        temporary = temporary_path(path, Identity.own().label)
        temporary.write_text(json.dumps(content, indent=2, default=plain, ensure_ascii=False))
        temporary.replace(path)

    def _write(self, name: str, attributes: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        leaves = flatten(data)
        path = self._directory / EXPERIMENT / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path, Identity.own().label)
        try:
            with named_refusals(path):
                with hdf5_to_write(temporary, "w", libver=("v108", "v114")) as file:
                    write_attributes(file, attributes)
                    write_tree(file, leaves)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def _config_json(directory: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((directory / CONFIG_JSON).read_text()))


def remove_unfinished(directory: Path, force_hosts: Collection[str] = ()) -> None:
    """Remove what dead processes had begun to write of an experiment's own files, and their notes.

    Those of `force_hosts` are taken for dead where that cannot be told.
    """
    for path, label in (temporary_files(directory) | run_notes(directory)).items():
        owner = Identity.from_label(label)
        if owner is None or path.is_dir():  # nobody writes one under such a name
            continue
        is_forced = owner.state == "unknown" and owner.host in force_hosts
        if owner.state == "dead" or is_forced:
            path.unlink(missing_ok=True)


def sparse_or_dense(weights: Any) -> Any:
    """Return a SciPy sparse matrix as ``row``, ``col``, ``value`` and ``shape``, else `weights`."""
    if not hasattr(weights, "tocoo"):
        return weights
    coo = weights.tocoo()
    return {"row": coo.row, "col": coo.col, "value": coo.data, "shape": list(coo.shape)}


def lock_file(directory: Path, name: str) -> Path:
    """Return a file to lock in an experiment's folder of own files, once that folder is there.

    Raises
    ------
    ShardOutside
        The folder is a link that leads out of the experiment.
    ShardDamaged, NotPermitted
        It cannot be made.
    """
    folder = directory / EXPERIMENT
    check_own(folder, directory)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise not_opened(folder, "folder", error) from error
    return folder / name


def new_experiment_directory(parent: Path, name: str) -> Path:
    """Make ``<name>_<YYYYmmdd_HHMMSS>`` with its folder of shards; a suffix tells equals apart.

    Raises
    ------
    ConfigError
        The parent cannot be made.
    """
    stem = f"{name}_{datetime.now().astimezone().strftime('%Y%m%d_%H%M%S')}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file is in the way, or a link that leads nowhere
        raise ConfigError("output_dir", f"a directory ({error.strerror})", str(parent)) from error
    for i in itertools.count():
        directory = parent / (f"{stem}_{i}" if i else stem)
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        (directory / SHARDS).mkdir()
        return directory.absolute()
    raise AssertionError  # count() does not end
