"""Keeping HDF5 from files that crash it or hang it, as some do though all their checksums fit.

Invariant: HDF5 opens an object in this process only once everything in the object that it will
decode was found to be as ``Structure`` knows it, or another process survived reading the object.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from h5py import h5f, h5g, h5i

from shardwriter.errors import ShardDamaged
from shardwriter.files.chunk_index import most_chunks
from shardwriter.files.encoding import mapping
from shardwriter.files.global_heap import check_heaps
from shardwriter.files.links import DEEPEST, MOST_NODES, check_links, is_there
from shardwriter.files.stored_episode import is_known
from shardwriter.files.stored_objects import Messages, is_group, stored_dataset, stored_form
from shardwriter.files.structure import UNCERTAIN, Inconsistent, Structure, Unfamiliar, are_sound
from shardwriter.files.trial import outcome
from shardwriter.files.untrusted import is_at_hand, opened

__all__ = ["Vetter", "vet", "vetted"]

_MOST_OUTCOMES = 4096
_MEND = "put an intact copy in its place, or move it away and merge again"
_NO_NAME = "\0"  # of no object: on the way to it is the root alone


class _Outcome:
    """What is wrong with an object, "" for nothing, None while nobody has tried."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.problem: str | None = None


_Identity: TypeAlias = tuple[int, int, int, int]  # device, inode, size, time of change
# By the file, when anything of it changed, which nobody can set back, and the place in it.
_outcomes: dict[tuple[_Identity, int, str], _Outcome] = {}
_trying = threading.Lock()  # guards that


def vet(path: Path, *places: str, whole: bool = False) -> None:
    """Make sure that HDF5 can open a file, and objects in it with all below; see ``Vetter``."""
    vetter = Vetter(path, whole=whole)
    for place in places:
        vetter.check(place)


@contextmanager
def vetted(path: Path, *places: str, whole: bool = False) -> Iterator[h5g.GroupID]:
    """Open a file as ``opened``, once objects in it were vetted, "" for all.

    Raises
    ------
    ShardDamaged
        As ``Vetter.check``; or the way to one of them is a link.
    """
    vetter = Vetter(path, whole=whole)
    for place in places:
        vetter.check(place)
    with vetter.opened() as root:
        for place in filter(None, places):
            is_there(path, root, place)
        yield root


class Vetter:
    """Makes sure that HDF5 can open objects of one file.

    Parameters
    ----------
    path
        The file.
    whole
        Search all of it for heaps; see ``check_heaps``.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._searches_whole = whole
        self._is_searched = False
        self._file: Path | int = path
        self._identity: _Identity | None = None
        self._changed_ns = 0
        self._links: dict[int, dict[bytes, int]] = {}  # of known groups on the way, by addresses
        self._vetted: set[str] = set()
        self._linkless: set[str] = set()  # of these
        self._lock = threading.Lock()

    def bind(self, file: h5f.FileID) -> None:
        """From now on look at a file that HDF5 has opened, whatever becomes of its path.

        Its heaps were searched before.

        Raises
        ------
        ShardDamaged
            It is another one than was looked at before.
        """
        self._file = file.get_vfd_handle()
        self._is_searched = True
        self._identify()

    @contextmanager
    def opened(self) -> Iterator[h5g.GroupID]:
        """Open the file as ``opened``; what is read in it has to be checked before.

        Raises
        ------
        ShardDamaged
            It is another file than was checked.
        """
        if not self._vetted:
            self.check(_NO_NAME)
        with opened(self._path) as root:
            self._identify(h5i.get_file_id(root).get_vfd_handle())
            yield root

    def check(self, place: str) -> None:
        """Make sure that HDF5 can open the file, an object in it, and all that is below.

        Several threads may ask at once.

        Raises
        ------
        ShardDamaged
            It crashes HDF5, or keeps it busy for ever.
        NotPermitted, TooManyOpenFiles
            The file cannot be opened for that reason.
        """
        with self._lock:
            if not self._is_searched:
                check_heaps(self._path, whole=self._searches_whole)
                self._is_searched = True
                self._identify()
            if place in self._vetted or "" in self._vetted:
                return
            if self._is_known(place):
                self._vetted.add(place)
                self._linkless.add(place)
            else:
                self._vetted.add(self._survive(place))

    def check_links(self, place: str, group: h5g.GroupID) -> None:
        """Make sure that a group, which was checked and is open now, has no link to elsewhere.

        Raises
        ------
        ShardDamaged
            It has one.
        """
        if place not in self._linkless:
            check_links(self._path, group)
            self._linkless.add(place)

    def _is_known(self, place: str) -> bool:
        with suppress(*UNCERTAIN), Structure(self._file, is_read_whole=False) as structure:
            if self._file == self._path:  # else it is the file that is open, whatever is there now
                self._identify(structure.fileno())
            if self._goes_through(structure, place) and are_sound([structure]) == [True]:
                return True
        self._links.clear()
        return False

    def _goes_through(self, structure: Structure, place: str) -> bool:
        """Read an object with all below it; tell whether all of it is known, if it is sound."""
        try:
            _Walk(structure, self._links).to(place)
        except Inconsistent as error:
            if are_sound([structure]) == [True]:  # else HDF5 looks at the checksums, too
                problem = f"{error}, under checksums that fit"
                raise ShardDamaged(
                    self._path, place.rstrip("\0") or "structure", problem, _MEND
                ) from error
            return False
        except UNCERTAIN:
            return False
        return True

    def _survive(self, place: str) -> str:
        """Have an object read by another process; return the place of what it read.

        That is all of the file where what leads to the object is not known.
        """
        scope = place if self._is_known(_NO_NAME) else ""
        problem = self._outcome(scope)
        if problem:
            raise ShardDamaged(self._path, scope or "structure", problem, _MEND)
        return scope

    def _outcome(self, place: str) -> str:
        key = self._identify(), self._changed_ns, place
        with _trying:
            if len(_outcomes) >= _MOST_OUTCOMES:
                _outcomes.clear()
            found = _outcomes.setdefault(key, _Outcome())
        with found.lock:  # several threads wait for one trial
            if found.problem is None:
                found.problem = outcome(self._path, place)
        return found.problem

    def _identify(self, *others: int) -> _Identity:
        """Return what tells the file from others, once it is the one that is open, here or there.

        Parameters
        ----------
        others
            Descriptors.
        """
        try:
            found = [os.stat(each) for each in {self._path, self._file, *others}]
        except OSError as error:
            raise ShardDamaged(self._path, "file", f"cannot be read: {error}") from error
        several = {(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found}
        if self._identity is not None:
            several.add(self._identity)
        if len(several) > 1:
            problem = "it was replaced after it was opened"
            raise ShardDamaged(self._path, "file", problem, "open it, or refresh the loader, again")
        (self._identity,) = several
        self._changed_ns = max(each.st_ctime_ns for each in found)
        return self._identity


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
                self._links[address] = structure.links(messages) if is_group(messages) else {}
            if name not in self._links[address]:
                return  # there is no such object; ``check_path`` lets HDF5 look for no other
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
        if not is_group(messages):
            self._dataset(messages)
            return
        for member in self._structure.links(messages).values():
            self._below(member, depth + 1)

    def _dataset(self, messages: Messages) -> None:
        shown = self._structure.virtual_mapping(messages)
        if shown is not None:
            stored_form(messages)
            source, place, *_ = shown[9:].replace(b"%%", b"%").split(b"\0", 2)
            if shown[:-4] != mapping(source, place):
                raise Unfamiliar
            return
        dataset = stored_dataset(messages)
        if not all(is_at_hand(number) for number in dataset.filters):
            raise Unfamiliar
        if dataset.chunk:
            most_chunks(self._structure, dataset)  # to count them is to go through all of it
        elif dataset.dtype is None and dataset.nbytes:
            texts = self._structure.read(dataset.address, dataset.nbytes)
            for at in range(0, len(texts), 16):
                self._structure.text(texts, at)
