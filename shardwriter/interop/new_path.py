"""Writing something under a hidden name until it is complete.

Invariant: under its final name there is all of it or nothing, and what fails leaves nothing.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwriter.errors import ConfigError
from shardwriter.files.publication import publish

__all__ = ["new_path"]


@contextmanager
def new_path(output: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend out a hidden path beside `output`, for a file or a directory that then gets its name.

    Raises
    ------
    ConfigError
        `output` exists, or is in no existing directory.
    """
    target = Path(os.path.abspath(output))
    if target.exists():
        raise ConfigError("output", "a path that does not exist", str(target))
    if not target.parent.is_dir():
        raise ConfigError("output", "a path in an existing directory", str(target))
    hidden = target.with_name(f".{target.stem}.tmp{target.suffix}")
    _remove(hidden)  # what an attempt that was killed left
    try:
        yield hidden
        if hidden.is_dir():
            hidden.rename(target)
        else:
            publish(hidden, target)
    except BaseException:
        _remove(hidden)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
