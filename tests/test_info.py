"""What `info` says, of experiments of others too."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.files.layout import MASTER
from shardwriter.progress import progress_bar


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with DataExporter("maze", tmp_path, progress=False) as exporter:
        for number in range(3):
            with exporter.start_episode(number) as episode:
                for t in range(number and 1200):
                    episode.log_timestep(t, behavior={"x": t})
                episode.log_timestep(1200, reward=1.0)
                if number:
                    episode.log_event("goal", 0, {"zone": "north" * 20})
    return exporter.output_dir


def nameless(file: h5py.File) -> None:
    del file.attrs["experiment_name"]


def status_of_no_text(file: h5py.File) -> None:
    index = file["episode_index"][()]
    index["status"][1] = b"\xff"
    file["episode_index"][...] = index


def other_performance(file: h5py.File) -> None:
    file.create_group("performance").attrs["overall"] = 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nameless, "without a name  ("),
        (status_of_no_text, r"status     1 \xff, 2 completed"),
        (other_performance, "performance that was saved by something else"),
    ],
)
def test_a_master_of_others_is_told_of(
    directory: Path,
    change: Callable[[h5py.File], None],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with h5py.File(directory / MASTER, "r+") as file:
        change(file)
    assert main(["info", str(directory), "--performance"]) == 0
    assert expected in capsys.readouterr().out
    assert main(["info", str(directory), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["episodes"]) == 3
    assert main(["report", str(directory), "-o", str(tmp_path / "report.html")]) == 0
    assert main(["plot", str(directory), "-o", str(tmp_path / "episodes.png")]) == 0
    with ExperimentLoader(directory) as loader:
        assert "3 episodes" in repr(loader)
        assert "episodes" in loader._repr_html_()
        assert "status" in loader.get_episode(1)._repr_html_()


def test_columns_of_fields_are_straight(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(directory)]) == 0
    fields = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert any("text, at most 256 bytes ()" in line for line in fields)
    assert len({len(line) for line in fields}) == 1
    assert len({line.rindex(" row") for line in fields}) == 1


def test_one_row_is_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        DataExporter("maze", tmp_path, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_timestep(0, reward=1.0)
    assert main(["info", str(exporter.output_dir)]) == 0
    text = capsys.readouterr().out
    assert " 1 row " in text
    assert "1 rows" not in text


def test_an_experiment_without_episodes_was_recorded_at_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataExporter("maze", tmp_path, progress=False) as exporter:
        pass
    assert main(["merge", str(exporter.output_dir)]) == 0
    assert main(["info", str(exporter.output_dir)]) == 0
    assert "  recorded   nothing\n" in capsys.readouterr().out


def test_a_bar_of_nothing_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for total, is_shown in ((0, False), (1, True), (None, True)):
        with progress_bar("read", "shard", total, shown=True):
            pass
        assert bool(capsys.readouterr().err) == is_shown
