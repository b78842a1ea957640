"""Runs the tests whose process forks, as PyTorch's loaders do by default.

JAX, which other tests import, rightly warns of every fork in its process.
"""

import subprocess
import sys
from pathlib import Path


def test_windows_in_workers_of_every_kind() -> None:
    tests = Path(__file__).with_name("forking_torch_windows.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", tests],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
