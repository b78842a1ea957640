"""Making a finished file visible under its final name, whole and durable.

Invariant: whoever sees the final name sees every byte. From another file system a file is copied
to a hidden name beside the final one, compared, and renamed there.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TypeVar

from isal import isal_zlib

from shardwriter.errors import ShardDamaged
from shardwriter.files.journal import sync_directory, sync_file
from shardwriter.system.instants import reached

__all__ = ["patiently", "publish", "remove"]

T = TypeVar("T")

_BLOCK_BYTES = 4 << 20
# A network file system may forget a name, or a handle, that its server still has (NFS: "stale file
# handle"), until it asks again.
_PASSING = (errno.ENOENT, errno.ESTALE)
_PAUSES_S = (0.05, 0.2, 0.8, 2.0)


def remove(path: Path) -> None:
    """Remove what has a name, a directory with all below it, if there is anything."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(finished: Path, final: Path, *, replace: bool = False) -> None:
    """Make a closed file durable, and visible under its final name.

    In the same folder it is renamed. From elsewhere it is copied, and stays where it is.

    Raises
    ------
    FileExistsError
        The final name exists and `replace` is not set; nothing was overwritten.
    ShardDamaged
        A copy did not hold what was copied; it was removed.
    """
    reached("file closed")
    if finished.parent == final.parent:
        hidden = finished
        sync_file(finished)
    else:
        hidden = final.with_name(f".{final.name}.tmp")
        patiently(lambda: _copy(finished, hidden))
    reached("file synced")
    if not replace and final.exists():
        if hidden is not finished:
            hidden.unlink()
        raise FileExistsError(final)
    size = hidden.stat().st_size
    patiently(lambda: _rename(hidden, final, size))
    reached("file renamed")
    patiently(lambda: sync_directory(final.parent))
    reached("directory synced")


def patiently(action: Callable[[], T]) -> T:
    """Do something again where a network file system's memory was out of date."""
    for pause_s in _PAUSES_S:
        try:
            return action()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
        time.sleep(pause_s)
    return action()


def _rename(hidden: Path, final: Path, size: int) -> None:
    try:
        hidden.replace(final)
    except FileNotFoundError:
        # An answer that was lost is asked for again, and then there is nothing left to rename.
        if hidden.exists() or not final.exists() or final.stat().st_size != size:
            raise


def _copy(source: Path, target: Path) -> None:
    """Copy a file, write it to stable storage, and compare what can be read of it."""
    target.unlink(missing_ok=True)
    try:
        with source.open("rb", buffering=0) as origin, target.open("xb", buffering=0) as copy:
            given = _digest(origin, copy)
            os.fsync(copy.fileno())
            os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read
        with target.open("rb", buffering=0) as copy:
            found = _digest(copy)
        if found != given:
            expected = f"{given[0]} bytes with CRC-32 {given[1]:08x}"
            problem = f"expected {expected}, got {found[0]} with {found[1]:08x}"
            raise ShardDamaged(target, "copy", problem)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _digest(origin: FileIO, copy: FileIO | None = None) -> tuple[int, int]:
    """Return a file's size and CRC-32; write what is read to a copy."""
    size = crc = 0
    while block := origin.read(_BLOCK_BYTES):
        size += len(block)
        crc = isal_zlib.crc32(block, crc)
        rest = memoryview(block)
        while copy is not None and rest:
            rest = rest[copy.write(rest) :]
    return size, crc
