"""The code in README.md and docs/ runs, and the bytes that docs/format.md describes are those.

The examples have a stage of their own in .ci/run.
"""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardwriter import DataExporter

ROOT = Path(__file__).parent.parent


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "_build" not in page.parts and commands(page.read_text())]


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(text: str) -> str:
    """Return a page as one script, whose line numbers are the page's.

    What it is made of: every block of Python, and every block of bash that calls shardwriter.
    ``<!-- not run: REASON -->`` before a block leaves it out.
    """
    lines: list[str] = []
    flags = re.MULTILINE | re.DOTALL
    block = re.compile(r"(<!-- not run: .+ -->\n)?^```(python|bash)\n(.*?)^```$", flags)
    for found in block.finditer(text):
        left_out, language, code = found.groups()
        lines += [""] * (text.count("\n", 0, found.start(3)) - len(lines))
        if left_out:
            continue
        if language == "python":
            lines += code.splitlines()
        elif code.startswith("shardwriter "):
            lines.append(f"__import__('subprocess').run(['bash', '-ec', {code!r}], check=True)")
    return "\n".join(lines) if any(lines) else ""


def lacking(text: str) -> list[str]:
    """Return what is not installed of the packages that a page imports or says it needs."""
    imported = re.findall(r"^\s*(?:import|from) (\w+)", commands(text), re.MULTILINE)
    said = re.findall(r"^<!-- needs: (.+) -->$", text, re.MULTILINE)
    return [name for name in sorted({*imported, *" ".join(said).split()}) if not find_spec(name)]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    if missing := lacking(text):
        text = text.partition("<!-- needs: ")[0]  # what comes before can run
        if lacking(text) or not commands(text):
            pytest.skip(f"{', '.join(missing)} not installed")
    script = tmp_path / "page.py"
    script.write_text(commands(text))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "MPLBACKEND": "Agg",
        "MINARI_DATASETS_PATH": str(tmp_path / "minari"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_reader_of_the_format_page_reads_and_notices_damage(tmp_path: Path) -> None:
    (reader,) = python_blocks(ROOT / "docs" / "format.md")
    page: dict[str, Any] = {}
    exec(compile(reader, "format.md", "exec"), page)
    positions = np.random.default_rng(0).normal(size=(250, 3)).astype(np.float32)
    with (
        DataExporter("read", tmp_path, chunk_size=100, compression=None) as exporter,
        exporter.start_episode(7) as episode,
    ):
        for t, position in enumerate(positions):
            late = {"late": t / 2} if t >= 150 else {}
            episode.log_timestep(t, behavior={"position": position, **late})
    master = exporter.output_dir / "experiment_data.h5"
    read = page["read_column"](master, 7, "behavior/position")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, positions)
    late = page["read_column"](master, 7, "behavior/late")
    np.testing.assert_array_equal(late, [np.nan] * 150 + [t / 2 for t in range(150, 250)])

    shard = exporter.output_dir / "shards" / "episode_0007.h5"
    content = shard.read_bytes()
    assert content.count(positions[40].tobytes()) == 1
    shard.write_bytes(content.replace(positions[40].tobytes(), positions[41].tobytes()))
    with pytest.raises(ValueError, match="damaged"):
        page["read_column"](master, 7, "behavior/position")


def aligned(n: int) -> int:
    return -(-n // 64) * 64


def tables_by_the_page(data: bytes) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Read the tables of a buffer as docs/format.md says, while all its rows are in the slots."""
    assert data[:8] == b"SWBUF\0\0\1"
    (offset,) = struct.unpack_from("<Q", data, 8)
    tables: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    while offset:
        following, kind, length, _, crc = struct.unpack_from("<5Q", data, offset)
        payload = data[offset + 64 : offset + 64 + length]
        assert zlib.crc32(payload) == crc
        position = offset + aligned(64 + length)
        for table in json.loads(payload) if kind == 1 else ():
            slots, rows_per_chunk = table["slots"], table["rows_per_chunk"]
            rows, *digests = struct.unpack_from(f"<{1 + slots}Q", data, position)
            position += aligned(8 * (3 + slots))
            columns: dict[str, list[np.ndarray[Any, Any]]] = {}
            for slot in range(slots):
                start = position
                held = min(max(rows - slot * rows_per_chunk, 0), rows_per_chunk)
                for name, dtype, shape, _ in table["columns"]:
                    count = rows_per_chunk * int(np.prod(shape))
                    block = np.frombuffer(data, dtype, count, position)
                    columns.setdefault(name, []).append(block.reshape(-1, *shape)[:held])
                    position += aligned(block.nbytes)
                if held == rows_per_chunk:
                    assert digests[slot] == (slot + 1) << 32 | zlib.crc32(data[start:position])
            tables[table["name"]] = {key: np.concatenate(each) for key, each in columns.items()}
        offset = following
    return tables


def test_buffer_is_as_the_format_page_says(tmp_path: Path) -> None:
    with (
        DataExporter("bytes", tmp_path, chunk_size=10, seed=1) as exporter,
        exporter.start_episode(3) as episode,
    ):
        for t in range(25):
            position = np.full(3, t, np.float32)
            episode.log_timestep(t, behavior={"position": position}, reward=t % 2)
        buffer = (exporter.output_dir / "shards" / "episode_0003.buffer").read_bytes()
    tables = tables_by_the_page(buffer)
    assert set(tables) == {"behavior", "rewards"}
    assert tables["behavior"]["timesteps"].tolist() == list(range(25))
    expected = np.repeat(np.arange(25, dtype=np.float32), 3).reshape(25, 3)
    np.testing.assert_array_equal(tables["behavior"]["position"], expected)
    assert tables["rewards"]["timesteps"].tolist() == list(range(1, 25, 2))
    assert tables["rewards"]["values"].tolist() == [1.0] * 12
