"""Writing the content of a master: virtual datasets, attributes and copied data.

Through h5py's low-level interface: a master of 10,000 episodes has 100,000 datasets. Invariant:
nothing that is written depends on when or where it is written, but for the attributes given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from merge.episode_group import add_episode
from merge.plan import EpisodePlan
from shardwriter.files import symbol_table
from shardwriter.files.encoding import Encoder, encoded
from shardwriter.files.layout import EPISODES
from shardwriter.files.links import Node
from shardwriter.files.lookup3 import lookup3
from shardwriter.files.refusal import hdf5_to_write
from shardwriter.files.schema import fill_value
from shardwriter.files.shard_description import ColumnDescription, StaticNode
from shardwriter.files.stored_objects import is_group
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar
from shardwriter.files.untrusted import as_object

__all__ = [
    "Appending",
    "MasterWriter",
    "appending",
    "batches",
    "has_episodes",
    "link_episodes",
    "open_master",
    "replace_rows",
    "stored_size",
]

Array = np.ndarray[Any, Any]
_Item = TypeVar("_Item")

_INDEX_CHUNK = 1024
_SUPERBLOCK_BYTES = 48
_END = slice(28, 36)  # in it, of version 2 or 3: where the file ends
_BATCH = 128  # episodes that are encoded side by side
_SMALL_ATTRIBUTES = 64 * 1024  # what an object header can hold


def open_master(path: Path, mode: str) -> AbstractContextManager[h5py.File]:
    """Open a master that is to be written, new or not.

    ("v108", "v114") keeps it readable by HDF5 1.10 and later.
    """
    return hdf5_to_write(path, mode, libver=("v108", "v114"))


class MasterWriter:
    """Writes into an open master.

    Parameters
    ----------
    file
        The file, from ``open_master``.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._untimed = h5p.create(h5p.GROUP_CREATE)
        self._untimed.set_obj_track_times(False)
        self._scalar = h5s.create(h5s.SCALAR)
        self._text = h5t.py_create(h5py.string_dtype(), logical=True)
        self._types: dict[tuple[np.dtype[Any], bool], h5t.TypeID] = {}
        self._properties: dict[tuple[np.dtype[Any], bool], h5p.PropDCID] = {}

    def group(self, parent: h5g.GroupID, path: str) -> h5g.GroupID:
        """Return a group below another, by a path; what is missing of it is created."""
        for name in path.split("/") if path else ():
            raw = encoded(name)
            if raw in parent:
                parent = h5g.open(parent, raw)
            else:
                parent = h5g.create(parent, raw, gcpl=self._untimed)
        return parent

    def static(
        self, parent: h5g.GroupID, nodes: Iterable[StaticNode], source: str, prefix: str
    ) -> None:
        """Write groups and datasets outside tables: small ones copied, large ones virtual.

        Parameters
        ----------
        parent
            The group that they come into.
        nodes
            Groups before what they hold.
        source, prefix
            The file that they are from, relative to the master, and their group in it.
        """
        for node in nodes:
            where, _, name = node.path.rpartition("/")
            if node.value is None and node.dtype is None:
                self.attributes(self.group(parent, node.path), node.attributes)
                continue
            holder = self.group(parent, where)
            if node.dtype is None or node.value is not None:
                text = h5py.string_dtype() if node.dtype is None else None
                new = h5py.Group(holder).create_dataset(name, data=node.value, dtype=text).id
            else:
                column = ColumnDescription(name, node.dtype, node.shape[1:])
                place = f"{prefix}/{node.path}" if prefix else node.path
                new = self._virtual(holder, column, node.shape[0], source, place)
            self.attributes(new, node.attributes)

    def attributes(self, node: Node, values: Mapping[str, Any]) -> None:
        """Write attributes with the types that their values have."""
        for name, value in values.items():
            if isinstance(value, str) and len(value) < _SMALL_ATTRIBUTES // 4:
                attribute = h5a.create(node, encoded(name), self._text, self._scalar)
                attribute.write(np.array(value, h5py.string_dtype()))
            elif isinstance(value, np.generic) and value.dtype.kind in "biufc":
                array = np.asarray(value)
                kind = self._type(array.dtype, False)
                h5a.create(node, encoded(name), kind, self._scalar).write(array)
            else:
                as_object(node).attrs[name] = value

    def _type(self, dtype: np.dtype[Any], is_text: bool) -> h5t.TypeID:
        key = (dtype, is_text)
        if key not in self._types:
            text = h5py.string_dtype("utf-8", dtype.itemsize) if is_text else dtype
            self._types[key] = h5t.py_create(text, logical=True)
        return self._types[key]

    def _creation(self, dtype: np.dtype[Any], is_text: bool) -> h5p.PropDCID:
        key = (dtype, is_text)
        if key not in self._properties:
            properties = h5p.create(h5p.DATASET_CREATE)
            properties.set_obj_track_times(False)
            fill = fill_value(dtype)
            if fill is not None:
                properties.set_fill_value(np.asarray(fill))
            self._properties[key] = properties
        return self._properties[key].copy()

    def _virtual(
        self, parent: h5g.GroupID, column: ColumnDescription, rows: int, source: str, place: str
    ) -> h5d.DatasetID:
        """Create a virtual dataset that shows a whole dataset of another file."""
        properties = self._creation(column.dtype, column.is_text)
        shape = (rows, *column.shape)
        space = h5s.create_simple(shape)
        if 0 not in shape:
            # "%b" in these names would stand for a block's number; "%%" is a per cent sign.
            names = (encoded(name.replace("%", "%%")) for name in (source, f"/{place}"))
            properties.set_virtual(space, *names, space)
        kind = self._type(column.dtype, column.is_text)
        return h5d.create(parent, encoded(column.name), kind, space, properties)


def replace_rows(group: h5py.Group, name: str, values: Array) -> None:
    """Write a one-dimensional dataset, in place where it has the same dtype already."""
    if name in group and group[name].dtype == values.dtype:
        group[name].resize(len(values), axis=0)
        group[name][...] = values
        return
    if name in group:
        del group[name]
    group.create_dataset(name, data=values, maxshape=(None,), chunks=(_INDEX_CHUNK,))


def link_episodes(
    path: Path,
    episodes: Iterable[EpisodePlan],
    kept: Mapping[bytes, int],
    done: Callable[[int], object],
) -> None:
    """Write episodes behind a closed master's content, and make them its group of episodes.

    Parameters
    ----------
    path
        The master, with a group ``episodes``.
    episodes
        Those that are new.
    kept
        The groups that it has already, by name.
    done
        Called with the number of episodes written since it was last called.
    """
    with appending(path, kept) as out:
        for several in batches(episodes):
            encoder = Encoder(out.end)
            for each in several:
                out.addresses[each.name] = add_episode(encoder, each)
            out.write(encoder.finish())
            done(len(several))


class Appending:
    """A file that episodes are written behind.

    Attributes
    ----------
    end
        Where the next byte goes.
    addresses
        The groups of episodes by name.
    """

    def __init__(self, file: BinaryIO, end: int, addresses: dict[bytes, int]) -> None:
        self._file = file
        self.end = end
        self.addresses = addresses

    def write(self, data: bytes) -> None:
        """Write behind what is there."""
        self.end += self._file.write(data)


def has_episodes(path: Path) -> bool:
    """Tell whether ``appending`` finds the group ``episodes`` of a closed file."""
    try:
        _episodes_address(path)
    except UNCERTAIN:
        return False
    return True


def _episodes_address(path: Path) -> int:
    with Structure(path) as structure:
        address = structure.place(EPISODES)
        if address is None or not is_group(structure.messages(address)):
            raise Unfamiliar
    return address


def stored_size(path: Path) -> int:
    """Return the size that a file has by its superblock, which a larger one was not given."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(_SUPERBLOCK_BYTES)[_END], "little")


@contextmanager
def appending(path: Path, kept: Mapping[bytes, int]) -> Iterator[Appending]:
    """Write behind the content of a closed file with a group ``episodes``; link what is new."""
    with path.open("r+b") as file:
        head = bytearray(file.read(_SUPERBLOCK_BYTES))
        out = Appending(file, int.from_bytes(head[_END], "little"), dict(kept))
        file.seek(out.end)
        yield out
        data, tree, heap = symbol_table.written(out.addresses, out.end)
        out.write(data)
        file.truncate(out.end)
        file.seek(_episodes_address(path))
        file.write(symbol_table.header(tree, heap))
        head[_END] = out.end.to_bytes(8, "little")
        head[44:48] = lookup3(bytes(head[:44])).to_bytes(4, "little")
        file.seek(0)
        file.write(head)


def batches(items: Iterable[_Item], size: int = _BATCH) -> Iterator[list[_Item]]:
    """Yield so many at a time."""
    following = iter(items)
    while several := list(islice(following, size)):
        yield several
