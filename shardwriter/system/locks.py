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

# What file systems without locks answer: Lustre mounted without them, NFS without its daemon, FUSE.
_NONE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, waiting until no other thread or process does; a dead one does not.

    Parameters
    ----------
    path
        A file that stands for what is locked. It is made, and stays. Not a directory: NFS locks
        those on one node alone.

    Raises
    ------
    LockUnavailable
        The file system has no locks.
    ShardDamaged, TooManyOpenFiles
        The file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o666)
    except OSError as error:
        raise not_opened(path, "lock", error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NONE:
                raise
            raise LockUnavailable(path, kind_of(path.parent), os.strerror(error.errno)) from error
        yield
    finally:
        os.close(fd)
