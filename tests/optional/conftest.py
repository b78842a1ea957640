"""Tests of packages that `pip install '.[test]'` does not bring.

Each is named ``test_<package>_<topic>.py``, or without the topic. Where the package is absent the
file is not collected; CI installs all.
"""

from importlib.util import find_spec
from pathlib import Path

_TESTS = sorted(Path(__file__).parent.glob("test_*.py"))
collect_ignore = [each.name for each in _TESTS if find_spec(each.stem.split("_")[1]) is None]
