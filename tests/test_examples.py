"""The examples run as they stand."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(script: Path, place: Path) -> str:
    """Run a script in an empty directory; return what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MPLBACKEND": "Agg",
    }
    done = subprocess.run(
        [sys.executable, script],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def imported(script: Path) -> set[str]:
    """Return the packages that a script imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


def test_there_are_examples() -> None:
    assert {"quickstart.py", "gymnasium_cartpole.py"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.name)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    lacking = [package for package in imported(script) if find_spec(package) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed")
    assert run(script, tmp_path).strip()
    masters = list(tmp_path.rglob("experiment_data.h5"))
    assert masters
    for master in masters:
        names = [path.name for path in (master.parent / "shards").iterdir()]
        assert names
        assert all(name.endswith(".h5") for name in names)
