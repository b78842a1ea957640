"""Keeping HDF5 from files that crash it or hang it, as some do though all their checksums fit.

Invariant: HDF5 opens an object in this process only once everything in the object that it will
decode was found to be as ``Structure`` knows it, or another process survived reading the object.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from operator import add
from pathlib import Path
from typing import cast

import h5py
from h5py import h5d

from shardwriter.errors import ShardDamaged, ShardWriterError
from shardwriter.files.chunk_index import most_chunks
from shardwriter.files.encoding import mapping
from shardwriter.files.global_heap import check_heaps
from shardwriter.files.published import open_published
from shardwriter.files.stored_episode import is_known
from shardwriter.files.structure import UNCERTAIN, Messages, Structure, Unfamiliar, are_sound
from shardwriter.files.untrusted import (
    DEEPEST,
    MOST_NODES,
    UNREADABLE,
    Node,
    check_path,
    check_tree,
    entries,
    is_at_hand,
    open_child,
    read_attributes_of,
)
from shardwriter.system.process import Child, Parent

__all__ = ["Vetter", "vet"]

_LIMIT_S = 60.0  # without a sign of life
_SIGN_OF_LIFE_S = 1.0
_MOST_OUTCOMES = 4096
# What is wrong, "" for nothing, by a file's device, inode, size and time, and a place in it.
_outcomes: dict[tuple[int, int, int, int, str], str] = {}


def vet(path: Path, *places: str) -> None:
    """Make sure that HDF5 can open a file, and objects in it with all below; see ``Vetter``."""
    vetter = Vetter(path)
    for place in places:
        vetter.check(place)


class Vetter:
    """Makes sure that HDF5 can open objects of one file.

    Parameters
    ----------
    path
        The file. Its global heaps are checked by ``check_heaps``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._links: dict[int, dict[bytes, int]] = {}  # of known groups on the way, by addresses
        self._vetted: set[str] = set()

    def check(self, place: str) -> None:
        """Make sure that HDF5 can open the file, an object in it, and all that is below.

        Several threads may ask at once.

        Raises
        ------
        ShardDamaged
            It crashes HDF5, or keeps it busy for ever.
        """
        if place in self._vetted:
            return
        if not self._is_known(place):
            _survive(self._path, place)
        self._vetted.add(place)

    def _is_known(self, place: str) -> bool:
        try:
            with Structure(self._path, is_read_whole=False) as structure:
                _Walk(structure, self._links).to(place)
            if are_sound([structure]) == [True]:
                return True
        except UNCERTAIN:
            pass
        self._links.clear()
        return False


class _Walk:
    """Goes through the objects of a file; what is not known in them raises one of UNCERTAIN."""

    def __init__(self, structure: Structure, links: dict[int, dict[bytes, int]]) -> None:
        self._structure = structure
        self._links = links
        self._nodes = 0

    def to(self, place: str) -> None:
        structure = self._structure
        address = structure.root
        for name in place.encode("utf-8", "surrogateescape").split(b"/") if place else ():
            if address not in self._links:
                messages = self._messages(address)
                is_group = structure.is_group(messages)
                self._links[address] = structure.links(messages) if is_group else {}
            if name not in self._links[address]:
                return  # there is no such object, as HDF5 will say
            address = self._links[address][name]
        if not is_known(structure, address):
            self._below(address, 0)

    def _messages(self, address: int) -> Messages:
        messages = self._structure.messages(address)
        self._structure.attributes(messages)
        return messages

    def _below(self, address: int, depth: int) -> None:
        self._nodes += 1
        if depth > DEEPEST or self._nodes > MOST_NODES:
            raise Unfamiliar
        messages = self._messages(address)
        if not self._structure.is_group(messages):
            self._dataset(messages)
            return
        for member in self._structure.links(messages).values():
            self._below(member, depth + 1)

    def _dataset(self, messages: Messages) -> None:
        shown = self._structure.virtual_mapping(messages)
        if shown is not None:
            self._structure.form(messages)
            source, place, *_ = shown[9:].replace(b"%%", b"%").split(b"\0", 2)
            if shown[:-4] != mapping(source, place):
                raise Unfamiliar
            return
        dataset = self._structure.dataset(messages)
        if not all(is_at_hand(number) for number in dataset.filters):
            raise Unfamiliar
        if dataset.chunk:
            most_chunks(self._structure, dataset)


# -- in another process -------------------------------------------------------------------------


def _survive(path: Path, place: str) -> None:
    """Have an object read by another process, once for as long as the file stays as it is."""
    try:
        stat = path.stat()
    except OSError:
        return  # HDF5 will say so
    key = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, place
    if key not in _outcomes:
        if len(_outcomes) >= _MOST_OUTCOMES:
            _outcomes.clear()
        _outcomes[key] = _outcome(path, place)
    if _outcomes[key]:
        mend = "put an intact copy in its place, or move it away and merge again"
        raise ShardDamaged(path, place or "structure", _outcomes[key], mend)


def _outcome(path: Path, place: str) -> str:
    """Have an object read by another process; return what is wrong with that, "" for nothing."""
    child = Child(f"{__name__}:try_to_read")
    try:
        child.link.send((path, place))
        while child.link.poll(_LIMIT_S):
            problem = child.link.recv()
            if problem is not None:
                return cast(str, problem)
        return f"HDF5 reads a part of it for more than {_LIMIT_S:.0f} s"
    except (EOFError, ConnectionError):
        return "reading it crashes the HDF5 library"
    finally:
        child.kill()
        child.wait()


def try_to_read(parent: Parent) -> None:
    """Run a child process: read whatever HDF5 can read of an object and all below it."""
    path, place = parent.receive()
    problem = ""
    with suppress(ShardWriterError, *UNREADABLE):
        check_heaps(path, whole=True)
        file = h5py.File(open_published(path))
        with suppress(ShardWriterError, *UNREADABLE):
            last = time.monotonic()
            for _ in _parts(path, file, place):
                if time.monotonic() - last > _SIGN_OF_LIFE_S:
                    last = time.monotonic()
                    parent.link.send(None)
        try:
            file.close()
        except UNREADABLE as error:
            problem = f"HDF5 cannot close it: {error}"
    parent.link.send(problem)
    os._exit(0)  # HDF5 may hold files that crash at its own exit


def _parts(path: Path, file: h5py.File, place: str) -> Iterator[None]:
    """Read an object with all below it, and yield after every part."""
    step = file["/"]
    for name in place.split("/") if place else ():
        read_attributes_of(path, step.id)
        check_path(path, step.id, name)
        step = step[name]
    for node in _nodes(path, step.id):
        yield
        with suppress(ShardWriterError, *UNREADABLE):
            read_attributes_of(path, node)
            if isinstance(node, h5d.DatasetID):
                check_tree(path, node, may_be_virtual=True)
                yield from _data(h5py.Dataset(node))


def _nodes(path: Path, node: Node, depth: int = 0) -> Iterator[Node]:
    yield node
    if not isinstance(node, h5d.DatasetID) and depth <= DEEPEST:
        with suppress(ShardWriterError, *UNREADABLE):
            for name in entries(path, node):
                with suppress(ShardWriterError, *UNREADABLE):
                    yield from _nodes(path, open_child(path, node, name), depth + 1)


def _data(dataset: h5py.Dataset) -> Iterator[None]:
    if dataset.is_virtual:
        dataset.virtual_sources()
    elif dataset.chunks is None:
        dataset[()]
    else:
        origins: list[tuple[int, ...]] = []
        dataset.id.chunk_iter(lambda chunk: origins.append(chunk.chunk_offset))
        for origin in origins:
            yield
            with suppress(*UNREADABLE):
                ends = map(add, origin, dataset.chunks)
                dataset[tuple(map(slice, origin, ends))]
