"""What a process may have open at a time."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwriter.errors import TooManyOpenFiles

__all__ = ["descriptors_for"]


@contextmanager
def descriptors_for(path: Path) -> Iterator[None]:
    """Say of a file, or program, that it cannot be opened because too many files are open.

    Raises
    ------
    TooManyOpenFiles
        In place of what the system raises for that.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise TooManyOpenFiles(path) from error
        raise
