"""The examples and the README's Python blocks run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OPTIONAL = ("jax", "torch")  # not part of the extra `test`


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


def test_there_are_examples() -> None:
    assert {"quickstart.py", "gymnasium_cartpole.py"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.name)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    for package in OPTIONAL:
        if re.search(rf"^\s*(import|from) {package}\b", script.read_text(), re.MULTILINE):
            pytest.importorskip(package)
    assert run(script, tmp_path).strip()
    masters = list(tmp_path.rglob("experiment_data.h5"))
    assert masters
    for master in masters:
        names = [path.name for path in (master.parent / "shards").iterdir()]
        assert names
        assert all(name.endswith(".h5") for name in names)


def test_the_readmes_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    """As one script, whose line numbers are the README's."""
    lines = []
    inside = False
    for line in (ROOT / "README.md").read_text().splitlines():
        starts, ends = line == "```python", line == "```"
        lines.append(line if inside and not ends else "")
        inside = starts or (inside and not ends)
    assert "".join(lines)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(lines))
    run(script, tmp_path)
