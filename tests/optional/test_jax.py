"""Runs the tests that import JAX, in a process of their own.

JAX rightly warns of every fork in its process, and tests of PyTorch and Ray fork.
"""

import subprocess
import sys
from pathlib import Path


def test_jax_in_a_process_of_its_own() -> None:
    tests = Path(__file__).with_name("alone_jax.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", tests],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
