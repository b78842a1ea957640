"""Locks between processes, on any number of nodes."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwriter.errors import LockUnavailable, not_opened
from shardwriter.system.file_systems import kind_of

__all__ = ["locked"]

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# What file systems without locks answer: Lustre mounted without them, NFS without its daemon, FUSE.
_NONE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, is_for_reading: bool = False) -> Iterator[None]:
    """Hold a lock, waiting until no other thread or process does; a dead one does not.

    Parameters
    ----------
    path
        A file that stands for what is locked. It is made, and stays. Not a directory: NFS locks
        those on one node alone.
    is_for_reading
        Do without where that may not be written, as then nobody like us changes what is locked:
        share the file, or lock nothing where there is none.

    Raises
    ------
    LockUnavailable
        The file system has no locks.
    ShardDamaged, NotPermitted, TooManyOpenFiles
        The file cannot be opened.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    kind = fcntl.LOCK_EX
    try:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if not is_for_reading or error.errno not in _READ_ONLY:
            raise not_opened(path, "lock", error) from error
        kind = fcntl.LOCK_SH
        try:
            fd = os.open(path, flags | os.O_RDONLY)
        except OSError:
            yield
            return
    try:
        try:
            fcntl.flock(fd, kind)
        except OSError as error:
            if error.errno not in _NONE:
                raise
            raise LockUnavailable(path, kind_of(path.parent), os.strerror(error.errno)) from error
        yield
    finally:
        os.close(fd)
