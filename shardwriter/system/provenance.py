"""Where an experiment came from: machine, software, code.

Invariant: what cannot be found out is left out, never guessed.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import psutil

from shardwriter.errors import ConfigError

__all__ = ["code_snapshot", "git_info", "runtime_info"]

_PACKAGES = ("shardwriter", "numpy", "h5py", "scipy", "jax", "torch", "gymnasium", "mujoco", "ray")
_GIT_TIMEOUT_S = 10


def runtime_info() -> dict[str, Any]:
    """Return the machine, the interpreter and the versions of what is installed."""
    return {
        "recorded_at": datetime.now(UTC).isoformat(),
        "hostname": platform.node(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu_count": os.cpu_count() or 0,
        "memory_bytes": int(psutil.virtual_memory().total),
        "python_version": platform.python_version(),
        "python_executable": sys.executable,
        "command_line": list(sys.argv),
        "working_directory": str(Path.cwd()),
        "hdf5_version": h5py.version.hdf5_version,
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    metadata = import_module("importlib.metadata")  # imports much, for a line in a file
    try:
        return str(metadata.version(package))
    except metadata.PackageNotFoundError:
        return None


def git_info(directory: Path) -> dict[str, Any]:
    """Return commit, branch, remote and uncommitted changes of the repository of a directory.

    Raises
    ------
    ConfigError
        The directory is in no git repository, or git is not installed.
    """
    root = _git(directory, "rev-parse", "--show-toplevel")
    if root is None:
        raise ConfigError("save_git_info", "a directory in a git repository", str(directory))
    status = _git(directory, "status", "--porcelain") or ""
    found = {
        "repository": root,
        "commit": _git(directory, "rev-parse", "HEAD"),
        "branch": _git(directory, "rev-parse", "--abbrev-ref", "HEAD"),
        "remote": _git(directory, "remote", "get-url", "origin"),
        "commit_time": _git(directory, "show", "-s", "--format=%cI", "HEAD"),
        "is_dirty": bool(status),
        "status": status,
        "diff": _git(directory, "diff", "HEAD") if status else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def code_snapshot(files: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """Return the text of source files by path, relative to the working directory where below it.

    Raises
    ------
    ConfigError
        A file cannot be read as UTF-8 text.
    """
    texts = {}
    for file in files:
        path = Path(file)
        absolute = path.absolute()
        name = absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute
        try:
            texts[name.as_posix()] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("save_code_snapshot", "readable text files", str(error)) from error
    return texts
