"""Clusters that were there before: processes of their own, in another directory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from running import PATIENCE_S

# Runs a command that does not see a directory, as on another node.
WITHOUT = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"')
_PACKAGES = Path(__file__).parent.parent


def may_hide(place: Path) -> bool:
    """Tell whether a process may have mounts of its own."""
    command = [*WITHOUT, place, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def living(
    place: Path,
    module: str,
    *arguments: object,
    is_there: Callable[[], bool] | None = None,
    within: Sequence[object] = (),
    **variables: str,
) -> Iterator[None]:
    """Run a Python module in a directory, with no more than packages on its path."""
    command = [*within, sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(_PACKAGES), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while is_there is not None and not is_there():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        parts = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(PATIENCE_S)
        psutil.wait_procs(parts, timeout=PATIENCE_S)
