"""Opening files that nobody writes any more, also where a file system has no locks.

Invariant: a file is opened without HDF5's lock only where taking it is impossible. HDF5 refuses to
open a file twice in one process with different settings of the lock, so they differ only where
every other way of opening fails.
"""

import errno
import os
from pathlib import Path

import h5py
from h5py import h5f, h5p

__all__ = ["open_published", "published_file"]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # NFS without a lock daemon, Lustre, …


def open_published(path: Path) -> h5f.FileID:
    """Open a published shard or master to read.

    Raises
    ------
    OSError
        It cannot be opened.
    """
    try:
        return h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_file_locking(False, True)
    return h5f.open(os.fsencode(path), h5f.ACC_RDONLY, fapl=access)


def published_file(path: Path) -> h5py.File:
    """Open a published shard or master as an h5py file to read; raises as ``open_published``."""
    return h5py.File(open_published(path))
