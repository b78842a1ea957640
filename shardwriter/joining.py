"""An experiment in a directory of a given name, which independent jobs make or join.

Invariant: the directory appears under its name by one rename, with all that belongs to the
experiment; so whoever finds it can join, and of many that start at once one makes it.
"""

import errno
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shardwriter.config import RecorderConfig
from shardwriter.errors import ConfigError, ExperimentNotFound
from shardwriter.exporter import DataExporter
from shardwriter.files.experiment_file import ExperimentFiles
from shardwriter.files.journal import sync_directory
from shardwriter.files.layout import CONFIG_JSON, temporaries_of, temporary_path
from shardwriter.files.publication import patiently
from shardwriter.system.file_systems import NetworkMappingWarning
from shardwriter.system.process import Identity

__all__ = ["Settings", "check_agrees", "joined_experiment", "saved_config"]


class Settings(NamedTuple):
    """How to record (options of a ``DataExporter``), and the experiment's configuration."""

    options: Mapping[str, Any]
    config: Mapping[str, Any]


def joined_experiment(
    directory: Path, name: str, given: Settings | None, *, progress: bool
) -> DataExporter:
    """Return an exporter of the experiment in a directory, which is made where there is none.

    Parameters
    ----------
    directory
        The experiment's directory itself.
    name
        Its name, where it is made.
    given
        What it is made with, and has to agree with where it is there; None takes it as it is.
    progress
        Show progress bars.

    Raises
    ------
    ConfigError
        An option has a value it cannot have, or another one than the experiment.
    ExperimentNotFound
        The directory holds something else.
    """
    directory = directory.absolute()
    _remove_unfinished(directory)
    if saved_config(directory) is None:
        _make(directory, name, given or Settings({}, {}))
    check_agrees(directory, given)
    return DataExporter.resume(directory, progress=progress)


def saved_config(directory: Path) -> dict[str, Any] | None:
    """Return the configuration of the experiment in a directory, None where there is none.

    Raises
    ------
    ExperimentNotFound
        The directory holds something else.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    try:
        return ExperimentFiles.of(directory)[0].saved_config()
    except ExperimentNotFound as error:
        expected = "a new directory, or an experiment's"
        raise ExperimentNotFound(directory, expected, "name another one") from error


def check_agrees(directory: Path, given: Settings | None) -> None:
    """Make sure that an experiment was begun with what is given now.

    Raises
    ------
    ConfigError
        It was not.
    ExperimentNotFound
        The directory is not an experiment's.
    """
    files, recorder, _ = ExperimentFiles.of(directory)
    if given is None:
        return
    wanted = RecorderConfig.from_options(given.options).to_json()
    if given.options.get("seed") is None:
        wanted["seed"] = recorder["seed"]  # the one that was drawn
    for has, wants in ((recorder, wanted), (files.saved_config(), given.config)):
        differing = sorted(key for key in {*has, *wants} if has.get(key) != wants.get(key))
        if differing:
            expected, got = (
                ", ".join(f"{key}={each.get(key)!r}" for key in differing) for each in (has, wants)
            )
            where = f"with which {directory} was begun (another config needs another directory)"
            raise ConfigError("config", f"{expected}, {where}", got)


def _make(directory: Path, name: str, given: Settings) -> None:
    """Make an experiment under a hidden name beside the directory, and rename it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    hidden = temporary_path(directory, Identity.own().label)
    try:
        with warnings.catch_warnings():  # who goes on with it is warned
            warnings.simplefilter("ignore", NetworkMappingWarning)
            exporter = DataExporter(name, hidden, **given.options)
        exporter.save_config(given.config)
        exporter.close(merge=False)
        exporter.output_dir.rename(directory)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        patiently((directory / CONFIG_JSON).stat)  # another was faster
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    sync_directory(directory.parent)


def _remove_unfinished(directory: Path) -> None:
    """Remove what processes of this host that were killed in ``_make`` have left."""
    for hidden, label in temporaries_of(directory).items():
        owner = Identity.from_label(label)
        if owner is not None and owner.state == "dead":
            shutil.rmtree(hidden, ignore_errors=True)
