"""What belongs to no episode: configuration, network, checkpoints and the like.

It is in the master, or, before any merge, in the small files that a merge copies into it.
Invariant: nothing is read that leads out of the experiment's directory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py

from shardwriter.errors import (
    ConfigError,
    ExperimentNotFound,
    ShardDamaged,
    ShardOutside,
    command,
)
from shardwriter.files.column_reader import read_value
from shardwriter.files.groups import read_attributes, read_tree
from shardwriter.files.layout import ATTRIBUTES, CHECKPOINTS, EXPERIMENT
from shardwriter.files.links import is_there, members, open_dataset
from shardwriter.files.untrusted import check_own, check_tree, file_of, is_inside, readable
from shardwriter.files.vetting import Vetter, vetted

__all__ = ["ExperimentGroups", "OwnFiles", "OwnGroups"]


class ExperimentGroups(Protocol):
    """An experiment's own data, by the names of the master's root groups."""

    def metadata(self) -> dict[str, Any]:
        """Return the experiment's attributes."""

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a group, ``{}`` for none."""

    def tree(self, name: str, part: str = "") -> Any:
        """Return the nested values of a group, or of a part of it, ``{}`` for none."""

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints."""


class OwnGroups:
    """The groups of a master.

    Parameters
    ----------
    path
        The master's path.
    root
        The directory that no source of its data may lie outside of.
    file
        The master, open.
    """

    def __init__(self, path: Path, root: Path, file: h5py.File) -> None:
        self._path = path
        self._root = root
        self._file = file
        self._vetter = Vetter(path)
        self._vetter.bind(file.id)

    def metadata(self) -> dict[str, Any]:
        """Return the experiment's attributes."""
        file = self._opened()
        with readable(self._path):
            return read_attributes(file)

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a group, ``{}`` for none."""
        file = self._opened()
        with readable(self._path, name):
            self._vetter.check(name)
            if not is_there(self._path, file.id, name):
                return {}
            return read_attributes(file[name])

    def tree(self, name: str, part: str = "") -> Any:
        """Return the nested values of a group, or of a part of it, ``{}`` for none."""
        name = f"{name}/{part}" if part else name
        file = self._opened()
        with readable(self._path, name):
            self._vetter.check(name)
            if not is_there(self._path, file.id, name):
                return {}
            check_tree(self._path, file[name].id, may_be_virtual=True)
            return read_tree(file[name], self._value)

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints."""
        file = self._opened()
        with readable(self._path, CHECKPOINTS):
            self._vetter.check(CHECKPOINTS)
            return members(self._path, file.id, CHECKPOINTS)

    def _opened(self) -> h5py.File:
        """Return the master; a closed one would say of every name that it is not there."""
        if not self._file:
            raise ConfigError(f"loader of {self._path}", "an open one", "a closed one")
        return self._file

    def _value(self, dataset: h5py.Dataset) -> Any:
        """Read a dataset of the master; a virtual one straight from its source.

        HDF5 itself would look for the source in other places too, and answer fill values.
        """
        if not dataset.is_virtual:
            return read_value(dataset)
        sources = dataset.virtual_sources()
        if len(sources) != 1:
            raise ShardDamaged(self._path, dataset.name, "expected one source")
        path = self._path.parent / sources[0].file_name.replace("%%", "%")
        place = sources[0].dset_name.replace("%%", "%").lstrip("/")
        if not path.is_file():
            advice = f"put it back, or run {command('merge', self._path.parent)}"
            raise ExperimentNotFound(path, f"the data of {dataset.name}", advice)
        if not is_inside(path, self._root):
            raise ShardOutside(path, self._root)
        return _source_value(path, place, dataset)


class OwnFiles:
    """The files that a merge will make these groups of.

    Parameters
    ----------
    directory
        The experiment's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / EXPERIMENT

    def metadata(self) -> dict[str, Any]:
        """Return the experiment's attributes."""
        return self.attributes(ATTRIBUTES)

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a group, ``{}`` for none."""
        with self._opened(name) as root:
            return {} if root is None else read_attributes(root)

    def tree(self, name: str, part: str = "") -> Any:
        """Return the nested values of a group, or of a part of it, ``{}`` for none."""
        with self._opened(name) as root:
            if root is None:
                return {}
            check_tree(file_of(root), root.id)
            return {} if part and part not in root else read_tree(root[part or "/"], read_value)

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints."""
        found = (self._folder / CHECKPOINTS).glob("*.h5")
        return sorted(path.stem for path in found if not path.name.startswith("."))

    @contextmanager
    def _opened(self, name: str) -> Iterator[h5py.Group | None]:
        path = self._folder / f"{name}.h5"
        if not path.is_file():
            yield None
            return
        check_own(path, self._folder)
        with vetted(path, "") as root:
            yield h5py.Group(root)


def _source_value(path: Path, place: str, dataset: h5py.Dataset) -> Any:
    with vetted(path, place) as root, readable(path, place):
        source = open_dataset(path, root, place)
        check_tree(path, source.id)
        if source.shape != dataset.shape or source.dtype != dataset.dtype:
            raise ShardDamaged(path, place, f"expected {dataset.dtype} {dataset.shape}")
        return read_value(source)
