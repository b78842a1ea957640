"""HDF5 files whose writes the system may refuse: a full disk, a quota, a limit on their size.

HDF5 crashes the process at its end where it could not write out what it closed. Invariant: a
refusal costs that one file, and is one error that names the cause.
"""

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from shardwriter.errors import NotWritten

__all__ = [
    "abandon",
    "abandoned_on_failure",
    "completed",
    "described",
    "hdf5_to_write",
    "named_refusals",
]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# HDF5 says it in its text, and h5py does not always give it as a number.
_NOT_WRITTEN = re.compile(r"(?:write failed|extend file).*?errno = (\d+)", re.DOTALL)


class _Accepting(io.FileIO):
    """A file that accepts every write; ``refusal`` is the first that the system did not."""

    refusal: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and self.refusal is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.refusal = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.refusal = self.refusal or error
            return size or 0


@contextmanager
def hdf5_to_write(path: Path, mode: str, **options: Any) -> Iterator[h5py.File]:
    """Open a file as ``h5py.File`` does, without SWMR.

    Raises
    ------
    OSError
        The system refused to write it; it is worth nothing.
    """
    with _Accepting(path, f"{mode.rstrip('+')}+") as raw:
        try:
            with h5py.File(raw, mode, **options) as file:
                yield file
        except (OSError, RuntimeError, KeyError, ValueError):
            if raw.refusal is None:  # else HDF5 misses what was not written
                raise
        if raw.refusal is not None:
            raise raw.refusal


@contextmanager
def completed(file: h5py.File) -> Iterator[h5py.File]:
    """Close a file that was opened otherwise; abandon it after an exception."""
    with abandoned_on_failure(file):
        yield file
        file.flush()
    file.close()


@contextmanager
def abandoned_on_failure(file: h5py.File) -> Iterator[None]:
    """Abandon a file after an exception."""
    try:
        yield
    except BaseException:
        abandon(file)
        raise


def abandon(file: h5py.File) -> None:
    """Close a file without writing what is not written yet: that goes nowhere."""
    with suppress(OSError, RuntimeError, ValueError):
        fd = file.id.get_vfd_handle()
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)
        file.close()


def described(error: BaseException) -> str:
    """Return in one line what went wrong: the system's own words where it refused."""
    return _cause(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"


def _cause(error: BaseException) -> str | None:
    """Return what the system said as it refused to write, None for another error."""
    found = _NOT_WRITTEN.search(str(error))
    if found:
        return os.strerror(int(found[1]))
    if not isinstance(error, OSError) or not error.errno:
        return None
    is_named = error.filename is not None and error.errno not in _NO_ROOM
    return None if is_named else os.strerror(error.errno)


@contextmanager
def named_refusals(path: Path) -> Iterator[None]:
    """Raise ``NotWritten`` where the system refuses to write; the outermost names its file."""
    try:
        yield
    except NotWritten as error:
        raise NotWritten(path, error.args[1]) from error
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        if cause is None:
            raise
        raise NotWritten(path, cause) from error
