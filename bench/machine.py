"""What the figures of a benchmark depend on: the machine, and what else runs on it."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = [
    "Machine",
    "busy_cpu_s",
    "descendants",
    "disk_folder",
    "memory_folder",
    "own_cpu_s",
    "reset_peak_rss",
    "rss_bytes",
    "tree_cpu_s",
    "usable_cores",
    "wait_until_quiet",
]

_MEMORY_BYTES = 4 << 30  # more than what one benchmark records at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Hardware and software that a figure belongs to."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    file_system: str
    python: str
    numpy: str
    h5py: str
    hdf5: str

    @classmethod
    def here(cls, folder: Path) -> Machine:
        """Describe this machine and the file system that holds `folder`."""
        import h5py
        import numpy as np

        return cls(
            cpu=_cpu_model(),
            cores=usable_cores(),
            memory_gb=round(_memory_bytes() / 1e9, 1),
            kernel=f"{platform.system()} {platform.release()}",
            file_system=_file_system(folder),
            python=platform.python_version(),
            numpy=np.__version__,
            h5py=h5py.__version__,
            hdf5=h5py.version.hdf5_version,
        )

    def as_dict(self) -> dict[str, str | int | float]:
        """Return the fields for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb} GB; {self.kernel}, "
            f"{self.file_system}; Python {self.python}, NumPy {self.numpy}, "
            f"h5py {self.h5py}, HDF5 {self.hdf5}"
        )


def usable_cores() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    """Name the type of the file system mounted nearest above `folder`."""
    place = folder.resolve()
    best, kind = -1, "unknown file system"
    for line in _lines(Path("/proc/mounts")):
        _, mount, file_system, *_ = line.split()
        if place.is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), file_system
    return kind


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:  # not Linux, or a process that has just ended
        return
    yield from text.splitlines()


def busy_cpu_s() -> float:
    """CPU seconds that all processes of the machine have used; 0 where that is not known."""
    for line in _lines(Path("/proc/stat")):
        user, nice, system, _idle, _wait, irq, soft, steal, *_ = map(int, line.split()[1:])
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def own_cpu_s() -> float:
    """CPU seconds of this process and of those of its children that have been reaped."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def tree_cpu_s() -> float:
    """CPU seconds of this process and of all processes below it, living or reaped."""
    tick = os.sysconf("SC_CLK_TCK")
    total = own_cpu_s()
    for pid in descendants():
        for line in _lines(Path(f"/proc/{pid}/stat")):
            times = line.rpartition(")")[2].split()[11:15]  # utime stime cutime cstime
            total += sum(map(int, times)) / tick
    return total


def wait_until_quiet(limit_s: float, *, busy_cores: float = 0.15) -> None:
    """Wait until other processes use little CPU, but no longer than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        before, start = busy_cpu_s() - own_cpu_s(), time.monotonic()
        time.sleep(0.25)
        foreign = busy_cpu_s() - own_cpu_s() - before
        if foreign / (time.monotonic() - start) < busy_cores:
            return


def descendants(pid: int | str = "self") -> list[int]:
    """List the living processes below one, Linux only (elsewhere the list is empty)."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, " ".join(_lines(children)).split()):
            found += [child, *descendants(child)]
    return found


def rss_bytes(pid: int | str = "self", *, peak: bool = False) -> int:
    """Resident memory of a process, now or at its peak; 0 if it is gone or not on Linux.

    Pages of a shared buffer count in every process that touched them.
    """
    key = "VmHWM:" if peak else "VmRSS:"
    for line in _lines(Path(f"/proc/{pid}/status")):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak_rss() -> None:
    """Start the peak of this process anew where the kernel allows it (see proc(5), clear_refs)."""
    with contextlib.suppress(OSError):  # else the peak is an over-estimate, never less
        Path("/proc/self/clear_refs").write_text("5")


def memory_folder() -> Path | None:
    """Return a folder in memory with room for the largest recordings, None where there is none."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or _file_system(folder) != "tmpfs":
        return None
    return folder if shutil.disk_usage(folder).free >= _MEMORY_BYTES else None


def disk_folder(given: Path | None) -> Path:
    """Return the folder given, else the temporary one, else (if that is in RAM) the current."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given
    temporary = Path(tempfile.gettempdir())
    return Path.cwd() if _file_system(temporary) in {"tmpfs", "ramfs"} else temporary
