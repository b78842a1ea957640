"""Where a merge, pack or unpack writes: beside what it will be, and hidden until it is whole.

Invariant: each process has a path of its own, which is gone when the block is left; what dead
processes left is removed first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwriter.errors import ConfigError, NotWritten
from shardwriter.files.layout import temporaries_of, temporary_path
from shardwriter.files.publication import remove
from shardwriter.files.refusal import named_refusals
from shardwriter.system.process import Identity

__all__ = ["hidden", "new_output"]

_LONGEST_NAME = 255  # bytes, of every common file system


def new_output(output: Path) -> Path:
    """Return the absolute path of a file or directory that is to be made.

    Raises
    ------
    ConfigError
        It exists, or is in no directory.
    """
    target = Path(os.path.abspath(output))
    if os.path.lexists(target):
        raise ConfigError("output", "a path that does not exist", str(target))
    if not target.parent.is_dir():
        raise ConfigError("output", "a path in an existing directory", str(target))
    return target


@contextmanager
def hidden(target: Path) -> Iterator[Path]:
    """Give a hidden path beside a target, on which nothing is yet.

    Raises
    ------
    NotWritten
        The system refuses to write there.
    ConfigError
        The target's name is too long.
    """
    own = temporary_path(target, Identity.own().label)
    surplus = len(os.fsencode(own.name)) - _LONGEST_NAME
    if surplus > 0:
        raise ConfigError("output", f"a name shorter by {surplus} bytes", target.name)
    with named_refusals(target):
        for path, label in temporaries_of(target).items():
            owner = Identity.from_label(label)
            if path == own or (owner is not None and owner.state == "dead"):
                remove(path)
        try:
            yield own
        except OSError as error:
            if error.filename is None or Path(error.filename) != own:
                raise
            raise NotWritten(target, error.strerror or str(error)) from error
        finally:
            remove(own)
