"""Tests of packages that `pip install '.[test]'` does not bring, each named for its package.

Where one is absent its file is not collected; CI installs all.
"""

from importlib.util import find_spec
from pathlib import Path

_TESTS = sorted(Path(__file__).parent.glob("test_*.py"))
collect_ignore = [
    each.name for each in _TESTS if find_spec(each.stem.removeprefix("test_")) is None
]
