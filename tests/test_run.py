"""The command `run` on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import DOCS, MAZE, environment, only, run, started, steps, wait_for, written

from shardwriter import ExperimentLoader
from shardwriter.cli import main
from shardwriter.cli.main import parser
from shardwriter.recovery import missing


def test_records_merges_and_says_where(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--workers", 2) == 0
    directory = only(place / "experiments")
    assert directory.name.startswith("maze_")
    assert steps(directory) == dict.fromkeys(range(4), 20)
    output = capsys.readouterr()
    assert output.out.splitlines()[:2] == [str(directory), "  episodes   4: 4 completed"]
    assert f"shardwriter info {directory}" in output.out
    assert output.err == ""


def test_a_rollout_may_belong_to_a_class(place: Path) -> None:
    assert run(rollout="maze:Namespace.rollout", episodes="7") == 0
    assert steps(only(place / "experiments")) == {7: 20}


def test_tells_programs_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(place, {"fails": [1]})
    assert run("--json", "--config", config, "-o", place / "out", "--name", "m") == 1
    told = json.loads(capsys.readouterr().out)
    directory = only(place / "out")
    assert directory.name.startswith("m_")
    assert told["directory"] == str(directory)
    assert told["master"] == str(directory / "experiment_data.h5")
    assert told["statuses"] == {"completed": 3, "failed": 1}
    assert told["failed"] == {"1": "ValueError: the maze\nis closed"}


def test_failed_episodes_are_named_with_the_command_that_runs_them_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(place, {"fails": [1, 3]})
    assert run("--config", config, "--workers", 1, "--retries", 1) == 1
    output = capsys.readouterr()
    assert "4: 2 completed, 2 failed" in output.out
    assert "episode 3: ValueError: the maze is closed" in output.out
    [line] = output.err.splitlines()
    assert line.startswith("shardwriter: 2 of 4 episodes failed")
    directory = only(place / "experiments")
    attempts = directory / "shards" / "attempts"
    assert len(list(attempts.iterdir())) == 2
    (place / "maze.py").write_text(MAZE.replace("raise ValueError", "ValueError"))
    again = line.rpartition("run them again: ")[2]
    assert again.endswith(f"--workers 1 --retries 1 --resume {directory}")
    done = subprocess.run(again, shell=True, env=environment(), check=False)
    assert done.returncode == 0
    assert missing(directory, range(4)) == []
    assert len(list(attempts.iterdir())) == 4


def test_options_record_and_the_rest_is_the_configuration(place: Path) -> None:
    config = {"neural_sampling_rate": 3, "seed": 11, "steps": 7, "layers": [1, 2]}
    assert run("--config", written(place, config), episodes="0,5") == 0
    directory = only(place / "experiments")
    assert steps(directory) == {0: 7, 5: 7}
    with ExperimentLoader(directory) as loader:
        assert loader.get_metadata()["neural_sampling_rate"] == 3
        assert loader.get_metadata()["seed"] == 11
    saved = json.loads((directory / "config.json").read_text())
    assert saved["config"] == {"steps": 7, "layers": [1, 2]}
    # An experiment's own does as well: it records again as that did.
    assert run("--config", directory / "config.json", "-o", "again", episodes="0") == 0
    assert json.loads((only(place / "again") / "config.json").read_text()) == saved


def test_resuming_runs_what_is_missing_as_it_was_begun(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(place, {"steps": 7, "chunk_size": 5})
    assert run("--config", config, episodes="0:2") == 0
    directory = only(place / "experiments")
    before = (directory / "shards" / "episode_0000.h5").read_bytes()
    assert run("--resume", directory) == 0
    assert steps(directory) == dict.fromkeys(range(4), 7)
    assert (directory / "shards" / "episode_0000.h5").read_bytes() == before
    capsys.readouterr()
    assert run("--resume", directory, "--config", written(place, {"steps": 7})) == 1
    assert "expected chunk_size=5" in capsys.readouterr().err
    assert run("--resume", place / "marks") == 1
    assert "give the directory that a DataExporter made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rollout", "text"),
    [
        ("gone:rollout", "a module that can be imported"),
        ("maze.inner:rollout", "maze.inner"),
        ("maze:rolout", "is it rollout?"),
        ("maze:number", "a function of an episode, got 3"),
        ("maze:needs", "missing a required argument: 'steps'"),
        ("maze:of_two", "missing a required argument: 'other'"),
        ("broken:rollout", "RuntimeError: no luck"),
    ],
)
def test_a_wrong_rollout_is_one_line_and_makes_nothing(
    place: Path, rollout: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(place, "raise RuntimeError('no luck')", "broken.py")
    assert run(rollout=rollout) == 1
    output = capsys.readouterr()
    [line] = output.err.splitlines()
    assert line.startswith(f"shardwriter: rollout {rollout}: expected ")
    assert text in line
    assert output.out == ""
    assert not (place / "experiments").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "expected JSON"),
        ([1], "expected a JSON object"),
        ({"chunk_size": 0}, "chunk_size: expected an int, at least 1"),
        ({"precision": "bf16"}, "precision: expected errors by field"),
        ({"scratch_dir": 5}, "scratch_dir: expected a path"),
        ({"recorder": {"chunk": 5}, "config": {}}, "expected options of DataExporter, got 'chunk'"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_makes_nothing(
    place: Path, content: object, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--config", written(place, content)) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert text in line
    assert not (place / "experiments").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["maze", "--episodes", "0:4"],
        ["maze:rollout"],
        ["maze:rollout", "--episodes", "4:4"],
        ["maze:rollout", "--episodes", "0:4,2"],
        ["maze:rollout", "--episodes", "0:4", "--shard-of", "0/2"],
        ["maze:rollout", "--episodes", "0:4", "--shard-of", "3/2", "--into", "x"],
        ["maze:rollout", "--episodes", "0:4", "--shard-of", "0/0", "--into", "x"],
        ["maze:rollout", "--episodes", "0:4", "--shard-of", "slurm", "--into", "x"],
        ["maze:rollout", "--episodes", "0:4", "--into", "x", "--resume", "y"],
        ["maze:rollout", "--episodes", "0:4", "--name", "x", "--resume", "y"],
        ["maze:rollout", "--episodes", "0:4", "--address", "auto"],
        ["maze:rollout", "--episodes", "0:4", "--retries", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage(
    place: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(["run", *arguments])
    assert caught.value.code == 2
    assert "shardwriter run: error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("engine", ["ray", "dask", "mpi", "loky"])
def test_an_engine_that_is_not_installed(
    place: Path,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("ray", "distributed", "mpi4py", "mpi4py.futures", "loky"):
        monkeypatch.setitem(sys.modules, package, None)
    assert run("--engine", engine) == 1
    assert f"pip install 'shardwriter[{engine}]'" in capsys.readouterr().err
    assert not (place / "experiments").exists()


def test_buffers_on_the_network_are_warned_of_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from shardwriter.system import file_systems as f; f.kind_of = lambda folder: 'nfs4'"
    written(place, code, "sitecustomize.py")
    monkeypatch.syspath_prepend(place)
    (place / "buffers").mkdir()
    config = written(place, {"buffer_dir": str(place / "buffers")})
    options = ("--episodes", "0:2", "--workers", 2, "--into", "all", "--config", config)
    job = started("maze:rollout", *options)
    _, errors = job.communicate()
    assert job.returncode == 0, errors
    assert errors.count("buffer_dir: expected a local file system") == 1, errors


# -- told to stop ---------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_it_says_how_to_go_on(
    place: Path, number: signal.Signals, code: int
) -> None:
    job = started("maze:waits_once", "--episodes", "0:4", "--workers", 2)
    wait_for(place / "marks" / "2", place / "marks" / "3")
    os.killpg(job.pid, number)
    _, errors = job.communicate()
    assert job.returncode == code, errors
    directory = only(place / "experiments")
    assert steps(directory) == dict.fromkeys(range(4), 50)
    again = re.findall("go on with: (.*)", errors)
    assert again == [
        f"shardwriter run maze:waits_once --episodes 0:4 --workers 2 --resume {directory}"
    ]
    done = subprocess.run(again[0], shell=True, env=environment(), check=False)
    assert done.returncode == 0
    assert missing(directory, range(4)) == []


def test_workers_that_are_told_to_stop_again_and_again_end_in_order(place: Path) -> None:
    job = started("maze:waits_once", "--episodes", "2:4", "--workers", 2)
    wait_for(place / "marks" / "2", place / "marks" / "3")
    os.killpg(job.pid, signal.SIGTERM)
    workers = psutil.Process(job.pid).children(recursive=True)
    while job.poll() is None:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.terminate()
        time.sleep(0.001)
    _, errors = job.communicate()
    assert job.returncode == 143, errors
    assert len(errors.splitlines()) == 1, errors
    assert steps(only(place / "experiments")) == dict.fromkeys((2, 3), 50)


# -- docs/from-laptop-to-cluster.md -----------------------------------------------------------


def test_the_commands_of_the_page_run(place: Path) -> None:
    page = (DOCS / "from-laptop-to-cluster.md").read_text()
    code: dict[str, Any] = {}
    for language in ("python", "json", "bash"):
        code[language] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    written(place, code["python"][0], "maze.py")
    config = written(place, code["json"][0])
    first, resuming, _ = (" ".join(each.split()) for each in code["bash"])
    first = first.replace("0:1000", "0:3").replace("--workers 8", f"--workers 2 --config {config}")
    subprocess.run(first, shell=True, env=environment(), check=True)
    directory = only(place / "experiments")
    resuming = resuming.replace("0:1000", "0:4").replace(
        "experiments/maze_20250601_120000", str(directory)
    )
    subprocess.run(resuming, shell=True, env=environment(), check=True)
    with ExperimentLoader(directory) as loader:
        assert [len(each.get_behavior()["position"]) for each in loader] == [500] * 4


def test_every_engine_of_the_help_is_documented() -> None:
    [commands] = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
    text = (DOCS / "from-laptop-to-cluster.md").read_text()
    [engines] = (a.choices for a in commands["run"]._actions if a.dest == "engine")
    assert all(f"--engine {engine}" in text for engine in engines if engine != "local")
