"""Letting another process read a file first, as HDF5 may not survive it.

Invariant: what passes was read in every way in which a reader of this package may read it.
"""

import itertools
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from operator import add
from pathlib import Path
from typing import cast

import h5py
from h5py import h5a, h5l, h5s

from shardwriter.errors import ShardDamaged, ShardWriterError
from shardwriter.files.global_heap import check_heaps
from shardwriter.files.links import DEEPEST, MOST_NODES, is_there, open_child
from shardwriter.files.published import open_published
from shardwriter.files.untrusted import UNREADABLE, as_object, check_filters
from shardwriter.system.process import Child, Parent

__all__ = ["limited", "outcome", "time_limit_s"]

_LIMIT_S = 60.0  # without a sign of life
_LEAST_BYTES_PER_S = 1e6
_LONGEST_S = 3600.0  # a file may be larger than what is in it
_SIGN_OF_LIFE_S = 1.0
_MOST_MEMORY = 8 << 30  # addresses of the process that tries
_PART_ITEMS = 1 << 20
_OF_MEMORY = ("memory allocation", "unable to allocate", "can't allocate", "no space available")
_CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGABRT}


def outcome(path: Path, place: str) -> str:
    """Have an object read by another process; return what is wrong with that, "" for nothing.

    Raises
    ------
    ShardDamaged
        The process could not do that, for a reason that may be another one than the file.
    """
    child = Child(f"{__name__}:try_to_read", _allocator_checks())
    try:
        child.link.send((path, place))
        end = time.monotonic() + time_limit_s(path)
        while child.link.poll(min(_LIMIT_S, max(0.0, end - time.monotonic()))):
            problem = child.link.recv()
            if problem is not None:
                return cast(str, problem)
        return f"HDF5 reads it, or a part of it, for more than {_LIMIT_S:.0f} s"
    except (EOFError, ConnectionError):
        code = child.wait()
        if code in _CRASHES:
            return f"reading it crashes the HDF5 library ({signal.Signals(-code).name})"
        problem = f"the process that was to try it ended with exit code {code}"
        raise ShardDamaged(path, place or "structure", problem, "try again") from None
    finally:
        child.kill()
        child.wait()


def time_limit_s(path: Path) -> float:
    """Return after how many seconds a process that does something with a file counts as hung."""
    size = path.stat().st_size if path.exists() else 0  # it is gone, as the process will say
    return min(_LIMIT_S + size / _LEAST_BYTES_PER_S, _LONGEST_S)


@cache
def _allocator_checks() -> dict[str, str]:
    """Return the environment in which glibc ends a process that damages its heap, {} without one.

    Such damage may pass in the child, and be the end of the process that reads next.
    """
    libraries = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    libc = next((Path(name) for name in libraries if name.endswith("/libc.so.6")), None)
    checks = libc.with_name("libc_malloc_debug.so.0") if libc else None  # since glibc 2.34
    if checks is None or not checks.exists():
        return {}
    preloaded = filter(None, (os.environ.get("LD_PRELOAD"), os.fspath(checks)))
    return {"MALLOC_CHECK_": "3", "LD_PRELOAD": ":".join(preloaded)}


def try_to_read(parent: Parent) -> None:
    """Run a child process: do with an object, and all below it, whatever a reader may do."""
    path, place = parent.receive()
    sys.excepthook = sys.unraisablehook = _say_nothing  # objects of a broken file end badly
    try:
        with limited(path):
            problem = _Trial(path, lambda: parent.link.send(None)).problem(place)
    except MemoryError:
        problem = "reading it takes too much memory"
    except Exception as error:  # noqa: BLE001  (whatever it is, a reader would meet it too)
        problem = f"reading it fails: {type(error).__name__}: {error}"
    parent.link.send(problem)
    os._exit(0)  # HDF5 may hold files that crash at its own exit


@contextmanager
def limited(path: Path) -> Iterator[None]:
    """Bound what this process may take while it does something with a file.

    It fails where it would take too much memory, and ends after twice its time on the processor:
    the parent, which would have ended it before, is gone.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    most_s = math.ceil(used.ru_utime + used.ru_stime + 2 * time_limit_s(path))
    with _limit(resource.RLIMIT_AS, _MOST_MEMORY), _limit(resource.RLIMIT_CPU, most_s):
        yield


@contextmanager
def _limit(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    least = min(each for each in (most, soft, hard) if each != resource.RLIM_INFINITY)
    resource.setrlimit(kind, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def _virtual_spaces(dataset: h5py.Dataset) -> Iterator[h5s.SpaceID]:
    """Yield what a virtual dataset selects of itself, and of its sources."""
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_virtual_count()):
        yield properties.get_virtual_vspace(i)
        yield properties.get_virtual_srcspace(i)


def _is_unlimited(space: h5s.SpaceID) -> bool:
    """Tell whether HDF5 has to open a source to know how large a selection is."""
    is_regular = space.get_select_type() == h5s.SEL_HYPERSLABS and space.is_regular_hyperslab()
    return is_regular and h5s.UNLIMITED in {
        number for numbers in space.get_regular_hyperslab() for number in numbers
    }


def _say_nothing(*_: object) -> None:
    """Take the place of a hook that prints an exception."""


class _Trial:
    """Reads objects by HDF5, each part for itself, as a damaged part does not keep a reader off.

    Invariant: what raises here raises in a reader, so that it is no problem; unless that
    is for want of memory, of which a reader may take more.
    """

    def __init__(self, path: Path, show_life: Callable[[], object]) -> None:
        self._path = path
        self._show_life = show_life
        self._last = time.monotonic()
        self._problem = ""

    def problem(self, place: str) -> str:
        try:
            check_heaps(self._path, whole=True)
            file = h5py.File(open_published(self._path))
        except ShardDamaged as damage:
            return str(damage.args[2])
        except OSError:
            return ""  # nobody can open it
        with self._tried():
            self._read(file["/"], place)
        try:
            file.close()
        except UNREADABLE as error:
            return f"HDF5 cannot close it: {error}"
        return self._problem

    @contextmanager
    def _tried(self) -> Iterator[None]:
        if time.monotonic() - self._last > _SIGN_OF_LIFE_S:
            self._show_life()
            self._last = time.monotonic()
        try:
            yield
        except (*UNREADABLE, ShardWriterError) as error:
            text = str(error).lower()
            if isinstance(error, MemoryError) or any(words in text for words in _OF_MEMORY):
                self._problem = f"reading it takes too much memory: {error}"

    def _read(self, group: h5py.Group, place: str) -> None:
        for name in place.split("/") if place else ():
            self._attributes(group)
            if not is_there(self._path, group.id, name):
                return
            group = group[name]
        self._below(group, 0)

    def _below(self, node: h5py.Group | h5py.Dataset, depth: int) -> None:
        self._attributes(node)
        if isinstance(node, h5py.Dataset):
            with self._tried():
                self._data(node)
        elif depth <= DEEPEST:
            for name in self._members(node):
                with self._tried():
                    self._below(as_object(open_child(self._path, node.id, name)), depth + 1)

    def _attributes(self, node: h5py.Group | h5py.Dataset) -> None:
        count = 0
        with self._tried():
            count = h5a.get_num_attrs(node.id)
        for i in range(min(count, MOST_NODES)):
            with self._tried():
                name = h5a.open(node.id, index=i).name
                node.attrs[os.fsdecode(name)]

    def _members(self, group: h5py.Group) -> list[bytes]:
        """Return the names of what is no link to elsewhere."""
        names: list[bytes] = []

        def visit(name: bytes, info: h5l.LinkInfo) -> bool | None:
            if info.type == h5l.TYPE_HARD:
                names.append(name)
            return True if len(names) > MOST_NODES else None

        with self._tried():
            group.id.links.iterate(visit, info=True)
        return names

    def _data(self, dataset: h5py.Dataset) -> None:
        if dataset.is_virtual:
            dataset.virtual_sources()
            if any(map(_is_unlimited, _virtual_spaces(dataset))):
                self._problem = f"{dataset.name}: expected a virtual dataset of a size of its own"
        elif dataset.external is None and dataset.shape is not None:
            check_filters(self._path, dataset.id, dataset.id.get_create_plist())
            for part in self._parts(dataset):
                with self._tried():
                    dataset[part]

    def _parts(self, dataset: h5py.Dataset) -> Iterator[tuple[slice, ...]]:
        """Yield every chunk that is stored, and one that is not; or parts of what has no chunks."""
        shape, chunk = dataset.shape, dataset.chunks
        if chunk is None:
            rows = max(1, _PART_ITEMS // max(1, math.prod(shape[1:])))
            for start in range(0, shape[0] if shape else 1, rows):
                yield (slice(start, start + rows),) if shape else ()
            return
        stored: list[tuple[int, ...]] = []
        with self._tried():
            dataset.id.get_num_chunks()
            dataset.id.chunk_iter(lambda each: stored.append(each.chunk_offset))
        known = set(stored)
        grid = itertools.product(*map(range, itertools.repeat(0), shape, chunk))
        others = (origin for origin in grid if origin not in known)
        for origin in (*stored, *itertools.islice(others, 1)):
            yield tuple(map(slice, origin, map(add, origin, chunk)))
