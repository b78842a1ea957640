"""Tests of packages that `pip install '.[test]'` does not bring: JAX and PyTorch are huge.

Where one is absent its file is not collected; CI installs both.
"""

from importlib.util import find_spec

collect_ignore = [
    f"test_{package}.py" for package in ("jax", "torch") if find_spec(package) is None
]
