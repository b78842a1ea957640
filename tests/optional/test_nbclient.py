"""The notebook in examples/ runs, and what its handles show."""

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def run(cells: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run a notebook in a folder; return what its cells put out."""
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    resources = {"metadata": {"path": str(folder)}}
    done = NotebookClient(cells, timeout=90, kernel_name="python3", resources=resources).execute()
    return [output for cell in done.cells for output in cell.get("outputs", [])]


def test_it_is_kept_without_outputs() -> None:
    assert all(not cell.get("outputs") for cell in notebook().cells)
    assert all(cell.get("execution_count") is None for cell in notebook().cells)


def test_it_runs_and_shows_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(notebook(), tmp_path, monkeypatch)
    warned = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in warned  # there are only bars
    shown = [
        output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})
    ]
    exporter, loader, episode = shown
    assert "DataExporter notebook" in exporter
    assert "finished episodes" in exporter
    assert loader.count("<td>completed</td>") == 4
    assert "RecordedEpisode 2" in episode
    assert "rows of neural_states" in episode
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_bars_are_shown_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "from shardwriter import DataExporter\n"
                "exporter = DataExporter('bars', 'here')\n"
                "exporter.start_episode(0).end()\n"
                "path = exporter.merge()\n"
                "exporter.close(merge=False)"
            )
        ]
    )
    outputs = run(cells, tmp_path, monkeypatch)
    bars = "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs
    )
    assert "merge" in bars
    assert "Warning" not in bars
