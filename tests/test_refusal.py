"""Where the system refuses to write: one error that names the file, and a process that lives on.

A limit on the size of files stands for a full disk: it fails the same calls. Each case has a
process of its own, as HDF5 crashes one at its end.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from merging import stamps

from merge import pack
from shardwriter.recovery import exit_code, recover

EPISODES = 5  # of the experiment that each test has a copy of


def limited(limit: int, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a script that can write files of so many bytes."""
    head = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


COMMAND = "from shardwriter.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("limit", [1, 2_000, 20_000])
@pytest.mark.parametrize("command", ["merge", "pack", "pack --shards", "unpack", "report"])
def test_a_command_that_finds_no_room_says_so(
    experiment: Path, tmp_path: Path, command: str, limit: int
) -> None:
    output = tmp_path / "output"
    packed = pack(experiment, tmp_path / "all.h5")
    before, names = stamps(experiment), sorted(path.name for path in tmp_path.iterdir())
    arguments = {
        "merge": ["merge", str(experiment), "--rebuild"],
        "pack": ["pack", str(experiment), "-o", str(output)],
        "pack --shards": ["pack", str(experiment), "--shards", "2", "-o", str(output)],
        "unpack": ["unpack", str(packed), "-o", str(output)],
        "report": ["report", str(experiment), "-o", str(output), "--no-verify"],
    }[command]
    done = limited(limit, COMMAND, *arguments)
    named = str(experiment / "experiment_data.h5") if command == "merge" else str(output)
    expected = f"shardwriter: {named}: expected to write it, got: File too large; nothing was"
    assert done.stderr.startswith(expected), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 1
    output.unlink(missing_ok=True)  # of a report
    assert stamps(experiment) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("chunk", [17, 100, 1000])
def test_a_program_whose_shard_found_no_room_ends_in_order(tmp_path: Path, chunk: int) -> None:
    script = f"""
        import numpy as np
        from shardwriter import DataExporter
        from shardwriter.errors import NotWritten, WriterFailed

        exporter = DataExporter("full", {str(tmp_path)!r}, chunk_size={chunk}, progress=False)
        episode = exporter.start_episode(0)
        noise = np.random.default_rng(0).random((20_000, 8))
        try:
            for t, row in enumerate(noise):
                episode.log_timestep(t, behavior={{"x": row}})
        except WriterFailed as error:
            print(error)
        try:
            exporter.close()
        except (NotWritten, WriterFailed) as error:
            print(error)
        print("the end")
    """
    done = limited(400_000, script)
    lines = done.stdout.splitlines()
    assert "episode_0000.h5 could not be written: File too large; nothing" in lines[0]
    assert lines[-1] == "the end"
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    [directory] = tmp_path.iterdir()
    assert exit_code(recover(directory)) == 0


def test_metadata_that_find_no_room_leave_those_before(tmp_path: Path) -> None:
    script = f"""
        from shardwriter import DataExporter, ExperimentLoader
        from shardwriter.errors import NotWritten

        exporter = DataExporter("full", {str(tmp_path)!r}, progress=False)
        exporter.save_metadata({{"subject": "mouse"}})
        exporter.start_episode(0).end()
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 10_000_000))
        try:
            exporter.save_metadata({{"subject": "rat"}})
        except NotWritten as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
        exporter.close()
        with ExperimentLoader(exporter.output_dir) as loader:
            print(loader.get_metadata()["subject"])
    """
    done = limited(10_000_000, script)
    refused, subject = done.stdout.splitlines()
    assert "experiment/attributes.h5: expected to write it, got: File too large" in refused
    assert subject == "mouse"
    assert done.returncode == 0
