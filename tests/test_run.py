"""The command `run`: here, in one directory from many jobs, and stopped by force."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.cli.main import parser
from shardwriter.cli.share import share
from shardwriter.recovery import missing

DOCS = Path(__file__).parent.parent / "docs"
PATIENCE_S = 60.0

MAZE = """
import os, time
from pathlib import Path

def rollout(episode, steps=20, fails=()):
    for t in range(steps):
        episode.log_timestep(t, behavior={"x": t / 2}, reward=1.0)
    if episode.id in fails:
        raise ValueError("the maze\\nis closed")
    return {"last": t}

def waits_once(episode):
    mark = Path(os.environ["MARKS"]) / f"{episode.id}"
    is_first = not mark.exists()
    for t in range(50):
        episode.log_timestep(t, behavior={"x": t / 2}, reward=1.0)
    mark.touch()
    while is_first and episode.id in (2, 3):
        time.sleep(0.01)

def needs(episode, steps):
    rollout(episode, steps)

def of_two(episode, /, other, another):
    pass

number = 3

class Namespace:
    rollout = staticmethod(rollout)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working directory with a module `maze`."""
    (tmp_path / "maze.py").write_text(MAZE)
    (tmp_path / "marks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))
    yield tmp_path
    for name in ("maze", "broken"):
        sys.modules.pop(name, None)


def run(*arguments: object, rollout: str = "maze:rollout", episodes: str = "0:4") -> int:
    return main(["run", rollout, "--episodes", episodes, *map(str, arguments)])


def written(place: Path, content: object, name: str = "config.json") -> Path:
    (place / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return place / name


def only(folder: Path) -> Path:
    [directory] = folder.iterdir()
    return directory


def steps(directory: Path) -> dict[int, int]:
    with ExperimentLoader(directory) as loader:
        return {episode.id: len(episode.get_behavior()["x"]) for episode in loader}


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": paths, "PATH": binaries, **more}


def test_records_merges_and_says_where(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--workers", 2) == 0
    directory = only(place / "experiments")
    assert directory.name.startswith("maze_")
    assert steps(directory) == dict.fromkeys(range(4), 20)
    output = capsys.readouterr()
    assert output.out.splitlines()[:2] == [str(directory), "  episodes   4: 4 completed"]
    assert f"shardwriter info {directory}" in output.out
    assert output.err == ""


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
    assert f"install shardwriter[{engine}]" in capsys.readouterr().err
    assert not (place / "experiments").exists()


# -- one directory, many jobs --------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_the_shares_of_an_array_are_the_whole(first: int) -> None:
    ids = range(100, 111)
    shares = [share(f"{i}/4").of(ids) for i in range(first, first + 4)]
    assert sorted(chain(*shares)) == list(ids)
    assert {len(each) for each in shares} == {2, 3}


@pytest.mark.parametrize("low", [0, 1, 5])
def test_slurm_says_which_share(low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for job in range(low, low + 3):
        for name, value in {"ID": job, "MIN": low, "MAX": low + 2, "COUNT": 3}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        found.append(str(share("slurm")))
    assert found == ["0/3", "1/3", "2/3"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "17")
    with pytest.raises(Exception, match="without gaps.*--shard-of 7/18" if low == 5 else "gaps"):
        share("slurm")


def started(*arguments: object, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shardwriter", "run", *map(str, arguments)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_jobs_that_start_at_once_record_one_experiment(place: Path) -> None:
    where, config = place / "deep" / "er" / "all", written(place, {"steps": 5, "chunk_size": 7})
    options = ("--into", where, "--config", config, "--workers", 1, "--episodes", "0:7")
    jobs = [started("maze:rollout", *options, "--shard-of", f"{i}/5") for i in range(5)]
    ended = [(*job.communicate(), job.returncode) for job in jobs]
    assert [code for _, _, code in ended] == [0] * 5, ended
    assert sum(int(re.findall(r"episodes +(\d+)", out)[0]) for out, _, _ in ended) == 7
    assert f"shardwriter merge {where} --expected 0:7" in ended[0][0]
    assert not (where / "experiment_data.h5").exists()
    assert [path.name for path in where.parent.iterdir()] == ["all"]
    assert main(["merge", str(where), "--expected", "0:7"]) == 0
    assert steps(where) == dict.fromkeys(range(7), 5)


def test_who_joins_has_to_agree(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(place, {"steps": 5, "seed": 3})
    assert run("--into", "all", "--config", config, episodes="0:2") == 0
    assert run("--into", "all", episodes="2:3") == 0  # as it was begun
    assert steps(place / "all") == dict.fromkeys(range(3), 5)
    for other, named in (({"steps": 6, "seed": 3}, "steps=5"), ({"steps": 5, "seed": 4}, "seed=3")):
        capsys.readouterr()
        assert run("--into", "all", "--config", written(place, other)) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert f"config: expected {named}, with which " in line
    assert run("--into", "all", "--config", written(place, {"steps": 5})) == 0  # any seed


def test_the_directory_has_to_be_new_or_an_experiment(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir()
    assert run("--into", "empty", episodes="0") == 0
    written(place, {}, "marks/something.json")
    for path in ("marks", "maze.py"):
        assert run("--into", path) == 1
        assert "expected a new directory, or an experiment's" in capsys.readouterr().err


def test_what_a_killed_maker_left_is_removed(place: Path) -> None:
    code = """
import os, signal
from pathlib import Path
from shardwriter import joining
joining.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
joining.joined_experiment(Path("all"), "maze", None, progress=False)
"""
    subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert list(place.glob(".all~*.tmp"))
    assert not (place / "all").exists()
    assert run("--into", "all", episodes="0") == 0
    assert not list(place.glob(".all~*.tmp"))


def test_an_episode_that_another_job_records_is_left_to_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--into", "all", episodes="0") == 0
    with DataExporter.resume(place / "all") as other, other.start_episode(2) as episode:
        episode.log_timestep(0, reward=1.0)
        capsys.readouterr()
        assert run("--into", "all") == 1
        assert f"episode 2: recording; pid {os.getpid()}" in capsys.readouterr().out
    assert missing(place / "all", range(4)) == []


# -- told to stop ---------------------------------------------------------------------------


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} did not appear"
        time.sleep(0.01)


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


# -- the array of docs/how-to/slurm.md --------------------------------------------------------


class Array:
    """Two jobs of the documented array; `srun` and `scontrol` are stand-ins."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "maze"
        [script] = re.findall(
            r"^```bash\n(#!/bin/bash\n.*?)^```$",
            (DOCS / "how-to" / "slurm.md").read_text(),
            re.MULTILINE | re.DOTALL,
        )
        assert script.count("maze:rollout --episodes 0:10000 ") == 1
        script = script.replace(
            "maze:rollout --episodes 0:10000 ", "maze:waits_once --episodes 0:6 "
        )
        written(place, script, "record.sbatch")
        written(place, {"chunk_size": 20})
        tools = {"srun": 'shift\nexec "$@"\n', "scontrol": f'echo "$@" >> {place}/scontrol.log\n'}
        (place / "bin").mkdir()
        for name, text in tools.items():
            written(place, f"#!/bin/bash\n{text}", f"bin/{name}").chmod(0o755)

    def submit(self) -> list[subprocess.Popen[bytes]]:
        jobs = []
        for i in range(2):
            array = {"ID": i, "MIN": 0, "MAX": 1, "COUNT": 2}
            env = environment(
                SCRATCH=str(self.place), SLURM_CPUS_PER_TASK="1", SLURM_JOB_ID=f"70{i}"
            )
            env |= {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
            env["PATH"] = f"{self.place / 'bin'}{os.pathsep}{env['PATH']}"
            command = ["bash", "record.sbatch"]
            jobs.append(subprocess.Popen(command, cwd=self.place, env=env, start_new_session=True))
        return jobs

    def complete(self) -> None:
        """Submit it again, merge, and make sure that all is there."""
        assert [job.wait() for job in self.submit()] == [0, 0]
        assert main(["merge", "--recover", "--expected", "0:6", str(self.directory)]) == 0
        assert missing(self.directory, range(6)) == []
        assert steps(self.directory) == dict.fromkeys(range(6), 50)
        kept = sorted((self.directory / "shards" / "attempts").iterdir())
        assert [path.name for path in kept] == ["episode_0002.1.h5", "episode_0003.1.h5"]
        for path in kept:
            with h5py.File(path) as file:
                assert len(file[f"episodes/{path.name[:12]}/behavior/x"]) == 50


@pytest.fixture
def array(place: Path) -> Array:
    return Array(place)


@pytest.mark.parametrize("grace_s", [0.0, 0.1, 0.5])
def test_a_preempted_array_goes_on_where_it_was(array: Array, grace_s: float) -> None:
    jobs = array.submit()
    wait_for(array.place / "marks" / "2", array.place / "marks" / "3")
    for job in jobs:
        os.killpg(job.pid, signal.SIGTERM)
    time.sleep(grace_s)
    for job in jobs:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        assert job.wait() < 0
    array.complete()


def test_an_array_that_is_told_of_its_time_limit_asks_for_another_turn(array: Array) -> None:
    jobs = array.submit()
    wait_for(array.place / "marks" / "2", array.place / "marks" / "3")
    for job in jobs:  # the steps, not the shell
        for process in psutil.Process(job.pid).children(recursive=True):
            process.terminate()
    assert [job.wait() for job in jobs] == [143, 143]
    log = (array.place / "scontrol.log").read_text().splitlines()
    assert sorted(log) == ["requeue 700", "requeue 701"]
    array.complete()


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
