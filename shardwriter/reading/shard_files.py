"""The shards behind a master, open while they are needed.

Invariant: a shard is lent out only after it was found to be the one that the master was built
from, inside the master's root, and no more than a bounded number of idle ones stay open.
"""

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5f, h5g

from shardwriter.errors import MasterStale, ShardMissing, ShardOutside, command, not_opened
from shardwriter.files.layout import episode_group
from shardwriter.files.links import check_path
from shardwriter.files.published import open_published
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar
from shardwriter.files.untrusted import read_text_attribute, readable
from shardwriter.files.vetting import Vetter

__all__ = ["ShardFiles"]

_MOST_OPEN = 64
_SHARE = 4  # of the descriptors that the process may have, one in so many


class _OpenShard:
    __slots__ = ("file", "users", "vetter")

    def __init__(self, file: h5f.FileID, vetter: Vetter) -> None:
        self.file = file
        self.vetter = vetter
        self.users = 0


class ShardFiles:
    """Opens shards by the rows of a master's index; any number of threads may use it.

    Parameters
    ----------
    master
        The master's path.
    root
        The directory that no shard may lie outside of.
    index
        The master's index.
    file
        The master, open: a packed one holds its episodes itself. None where there is none.

    Attributes
    ----------
    most_open
        How many shards are kept open for the next time.
    """

    def __init__(
        self, master: Path, root: Path, index: np.ndarray[Any, Any], file: h5py.File | None
    ) -> None:
        self._master = master
        self._root = os.path.realpath(root)
        self._file = file
        self._vetter = Vetter(master)
        if file is not None:
            self._vetter.bind(file.id)
        self._folder = os.fspath(master.parent)
        # Of ten thousand rows one may be all that is asked for, so none is converted in advance.
        self._names, self._sizes, self._uuids = (index[key] for key in ("shard", "size", "uuid"))
        self._ids, self._shard_ids = index["episode_id"], index["shard_episode_id"]
        self._open: OrderedDict[str, _OpenShard] = OrderedDict()
        self._folders: dict[str, bool] = {}
        self._lock = threading.Lock()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most_open = max(1, min(_MOST_OPEN, limit // _SHARE))

    @contextmanager
    def group(self, row: int) -> Iterator[h5py.Group]:
        """Lend out an episode's group in its shard, which stays open meanwhile.

        Raises
        ------
        ShardMissing, MasterStale, ShardDamaged, ShardOutside, NotPermitted
            The shard is not there, not the one of the master, not readable, elsewhere, or closed
            to this user.
        """
        name = self._name(row)
        place = episode_group(self._shard_ids.item(row))
        if not name and self._file is not None:
            yield self._episode(self._vetter, self._master, self._file.id, place)
            return
        shard = self._lent(name, row)
        try:
            yield self._episode(shard.vetter, self.path(row), shard.file, place)
        finally:
            with self._lock:
                shard.users -= 1

    def _lent(self, name: str, row: int) -> _OpenShard:
        """Return a shard, which the caller has to give back; no thread waits for another's."""
        with self._lock:
            shard = self._open.get(name)
            if shard is not None:
                self._open.move_to_end(name)
                shard.users += 1
                return shard
        fresh = self._checked(row)
        with self._lock:
            shard = self._open.setdefault(name, fresh)
            shard.users += 1
            self._close_idle()
        if shard is not fresh:
            fresh.file.close()
        return shard

    @staticmethod
    def _episode(vetter: Vetter, path: Path, file: h5f.FileID, place: str) -> h5py.Group:
        vetter.check(place)
        with readable(path, place):
            check_path(path, file, place)
            group = h5g.open(file, place.encode())
            vetter.check_links(place, group)
            return h5py.Group(group)

    def path(self, row: int) -> Path:
        """Return the path of an episode's shard."""
        name = self._name(row)
        return self._master.parent / name if name else self._master

    def _name(self, row: int) -> str:
        """Return the path from the master's folder, "" for an episode in the master itself."""
        name: bytes = self._names.item(row)
        return name.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Close every shard."""
        with self._lock:
            for shard in self._open.values():
                shard.file.close()
            self._open.clear()

    def _close_idle(self) -> None:
        surplus = len(self._open) - self.most_open
        if surplus > 0:
            idle = [name for name, shard in self._open.items() if shard.users == 0]
            for name in idle[:surplus]:
                self._open.pop(name).file.close()

    def check(self, row: int) -> None:
        """Check an episode's shard, as ``group`` does, without lending it out.

        Raises
        ------
        ShardMissing, MasterStale, ShardDamaged, ShardOutside, NotPermitted
            As ``group``.
        """
        name = self._name(row)
        with self._lock:
            is_open = name in self._open
        if not name or is_open:
            return
        try:
            self.structure(row, is_read_whole=False).close()
        except UNCERTAIN:
            self._checked(row).file.close()

    def stored(self, row: int) -> tuple[Structure, str]:
        """Open an episode's shard to be read from its bytes; return it and the episode's group.

        Raises
        ------
        Unfamiliar, OSError, ValueError
            As ``structure``.
        """
        return self.structure(row), episode_group(self._shard_ids.item(row))

    def structure(self, row: int, *, is_read_whole: bool = True) -> Structure:
        """Open an episode's shard to be read from its bytes, once it is known to be the right one.

        Raises
        ------
        Unfamiliar, OSError, ValueError
            Something is wrong, or unknown here; ``group`` finds out what.
        """
        name = self._name(row)
        path = f"{self._folder}/{name}"
        if not name or not self._is_below_root(os.path.dirname(path)):
            raise Unfamiliar
        structure = Structure(path, is_read_whole=is_read_whole)
        try:
            attributes = structure.attributes(
                structure.messages(structure.root), ("format", "format_version")
            )
            uuid = attributes.get("uuid", "").encode()
            if structure.size != self._sizes.item(row) or uuid != self._uuids.item(row):
                raise Unfamiliar
        except BaseException:
            structure.close()
            raise
        return structure

    def _checked(self, row: int) -> _OpenShard:
        """Open a shard, once it is known to be the one that the master was built from."""
        path = self.path(row)
        relink = command("relink", self._master, "--shards", "DIR")
        advice = f"put it back, merge again, or say where it is: {relink}"
        try:
            size = path.stat().st_size
        except PermissionError as error:
            raise not_opened(path, "structure", error) from error
        except (OSError, ValueError) as error:  # ValueError: a name with NUL in it
            raise ShardMissing(path, self._ids.item(row), advice) from error
        self._check_inside(path)
        if size != self._sizes.item(row):
            expected = f"{self._sizes.item(row)} bytes"
            raise MasterStale(self._master, path, expected, f"{size}", advice)
        vetter = Vetter(path)
        vetter.check(episode_group(self._shard_ids.item(row)))
        try:
            opened = open_published(path)
        except OSError as error:
            raise not_opened(path, "structure", error) from error
        try:
            with readable(path):
                found = read_text_attribute(path, h5g.open(opened, b"/"), "uuid")
            vetter.bind(opened)
            expected = self._uuids.item(row).decode("ascii", "replace")
            if found != expected:
                stale = f"shard {found}"
                raise MasterStale(self._master, path, f"shard {expected}", stale, advice)
        except BaseException:
            opened.close()
            raise
        return _OpenShard(opened, vetter)

    def _check_inside(self, path: Path) -> None:
        if self._is_below_root(os.path.dirname(path)) and not path.is_symlink():
            return
        if not _is_below(os.path.realpath(path), self._root):
            raise ShardOutside(path, Path(self._root))

    def _is_below_root(self, folder: str) -> bool:
        if folder not in self._folders:
            self._folders[folder] = _is_below(os.path.realpath(folder), self._root)
        return self._folders[folder]


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
