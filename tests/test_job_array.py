"""Jobs that record into one directory, and the array of docs/how-to/slurm.md."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import h5py
import psutil
import pytest
from running import DOCS, environment, run, started, steps, wait_for, written

from shardwriter import DataExporter
from shardwriter.cli import main
from shardwriter.cli.share import share
from shardwriter.recovery import missing

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
            env = environment(SCRATCH=str(self.place), SLURM_CPUS_PER_TASK="1")
            env |= {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
            # The last job of an array has the number of the whole.
            env |= {"SLURM_ARRAY_JOB_ID": "70", "SLURM_JOB_ID": "71" if i == 0 else "70"}
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
    assert sorted(log) == ["requeue 70_0", "requeue 70_1"]
    array.complete()
