"""Masters whose shards lie outside their folder, at the command line."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from merge import merge_experiments
from shardwriter import DataExporter
from shardwriter.cli import main


@pytest.fixture
def master(tmp_path: Path) -> Path:
    folder = tmp_path / "the results"
    folder.mkdir()
    with DataExporter("maze", tmp_path, progress=False) as exporter:
        exporter.save_units({}, dt=0.001)
        with exporter.start_episode(0) as episode:
            for t in range(3):
                episode.log_timestep(
                    t,
                    spikes=[t],
                    behavior={"observation": 1.0, "action": 1.0},
                    reward=1.0,
                )
    merge_experiments([exporter.output_dir], folder / "master.h5")
    return folder / "master.h5"


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "{master}"],
        ["plot", "{master}", "--episode", "0", "-o", "{folder}/episode.png"],
        ["export", "sonata", "{master}", "{folder}/sonata"],
        ["export", "nwb", "{master}", "{folder}/one.nwb"],
        ["export", "minari", "{master}", "maze/random-v0"],
    ],
    ids=lambda arguments: "-".join(arguments[:3]).replace("-{master}", ""),
)
def test_a_command_reads_shards_below_a_root(
    master: Path, arguments: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "export" in arguments:
        pytest.importorskip({"nwb": "pynwb", "minari": "minari"}.get(arguments[1], "h5py"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(master.parent / "minari"))
    given = [each.format(master=master, folder=master.parent) for each in arguments]
    assert main(given) == 1
    assert capsys.readouterr().err.endswith("(--root)\n")
    assert main([*given, "--root", str(master.parent.parent), "--quiet"]) == 0


def test_a_report_verifies_below_a_root(
    master: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = str(tmp_path / "report.html")
    assert main(["report", str(master), "-o", page, "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == 0


def test_a_report_names_the_command_that_names_the_problems(
    master: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = str(tmp_path / "report.html")
    (shard,) = tmp_path.glob("maze_*/shards/*.h5")
    shard.unlink()
    assert main(["report", str(master), "-o", page, "--root", str(tmp_path)]) == 0
    command = capsys.readouterr().err.split("`")[1]
    assert shlex.split(command)[0] == "shardwriter"
    assert main(shlex.split(command)[1:]) == 1
    assert "1 problem" in capsys.readouterr().out
