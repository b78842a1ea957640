"""The command line: what it prints, and how it fails."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_episode import KnownEpisode

from merge import pack
from shardwriter import DataExporter
from shardwriter.cli import main
from shardwriter.cli.main import parser


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with DataExporter("maze", tmp_path_factory.mktemp("cli"), progress=False) as exporter:
        for episode_id in range(3):
            with exporter.start_episode(episode_id) as episode:
                KnownEpisode(episode_id).log(episode)
        exporter.start_episode(7)
    return exporter.output_dir


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from shardwriter.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_merge_builds_the_master_anew(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    master = directory / "experiment_data.h5"
    master.unlink()
    assert main(["merge", str(directory)]) == 0
    assert master.exists()
    output = capsys.readouterr()
    assert str(master) in output.out
    assert "4 episodes" in output.out


def test_merge_writes_where_it_is_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    master = directory / "again.h5"
    assert main(["merge", str(directory), "--output", str(master)]) == 0
    assert str(master) in capsys.readouterr().out
    assert main(["info", str(master)]) == 0


def test_info_says_what_is_there(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(directory)]) == 0
    text = capsys.readouterr().out
    for part in ("maze", "4: 0-2, 7", "3 completed, 1 empty", "behavior/position", "float32 (3,)"):
        assert part in text


def test_info_says_when_it_was_recorded_not_when_packed(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time.sleep(1)
    pack(directory, tmp_path / "packed.h5")
    said = []
    for place in (directory, tmp_path / "packed.h5"):
        assert main(["info", str(place)]) == 0
        said += [line for line in capsys.readouterr().out.splitlines() if "recorded" in line]
    assert said[0] == said[1]
    assert re.fullmatch(r"  recorded   [\d-]+ [\d:]+ to [\d-]+ [\d:]+ UTC", said[0])


def test_info_for_programs(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(directory), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert [episode["episode_id"] for episode in info["episodes"]] == [0, 1, 2, 7]
    assert [episode["status"] for episode in info["episodes"]] == ["completed"] * 3 + ["empty"]
    assert info["metadata"]["experiment_name"] == "maze"
    position = info["fields"]["behavior/position"]
    assert (position["dtype"], position["shape"], position["rows"]) == ("float32", [3], 180)
    assert position["raw_bytes"] == 180 * 12


@pytest.mark.parametrize("command", ["merge", "info"])
def test_an_error_is_one_line_and_exit_code_1(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / "gone")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith(f"shardwriter: {tmp_path / 'gone'}: expected an experiment")


def test_errors_of_the_system_are_one_line_too(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "no" / "page.html"
    assert main(["report", str(directory), "-o", str(page)]) == 1
    error = "No such file or directory; check the path"
    assert capsys.readouterr().err == f"shardwriter: {page}: {error}\n"
    assert main(["merge", str(directory), "-o", str(tmp_path / "no" / "place.h5")]) == 1
    assert "expected a path in an existing directory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["watch", "--once"]])
def test_output_that_cannot_be_written_is_named(directory: Path, arguments: list[str]) -> None:
    code = "import sys; from shardwriter.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments, str(directory)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    problem = "standard output: cannot be written: No space left on device"
    assert (done.returncode, done.stderr) == (1, f"shardwriter: {problem}\n")


def test_output_may_be_closed(directory: Path) -> None:
    code = "import sys; from shardwriter.cli import main; sys.exit(main())"
    command = f'exec "{sys.executable}" -c "{code}" info "{directory}" >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_directory_of_experiments_names_the_newest(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("info", "verify", "merge", "recover", "watch"):
        assert main([command, str(directory.parent)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"; give the directory of one, such as {directory}")


def test_two_experiments_for_a_command_of_one_are_told_apart_from_an_unknown_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, text in (
        (["info", "a", "b"], "shardwriter info: error: expected nothing more, got b; "),
        (["export", "nwb", "a", "b", "-x"], "shardwriter export nwb: error: unrecognized "),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert text in capsys.readouterr().err


def test_verify_names_a_file_that_is_not_hdf5_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not HDF5")
    assert main(["verify", str(path)]) == 1
    (problem,) = capsys.readouterr().out.splitlines()[1:]
    assert problem.count(str(path)) == 1
    assert "check the path" in problem


def test_report_says_that_there_are_problems(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, copy = tmp_path / "report.html", tmp_path / "copy"
    shutil.copytree(directory, copy)
    os.truncate(copy / "shards" / "episode_0001.h5", 1000)
    assert main(["report", str(copy), "-o", str(page)]) == 0
    output = capsys.readouterr()
    assert output.out == f"{page}\n"
    assert output.err.startswith("problems: 1; ")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    plain = run("info", tmp_path)
    assert (plain.returncode, plain.stdout) == (1, "")
    assert len(plain.stderr.splitlines()) == 1
    debug = run("info", tmp_path, "--debug")
    assert debug.returncode == 1
    assert "Traceback (most recent call last)" in debug.stderr
    assert plain.stderr.removeprefix("shardwriter: ").strip() in debug.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["merge"], ["info", "a", "b"], ["demo", "--episodes", "0"], ["info", "-x"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: shardwriter" in capsys.readouterr().err


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("merge", "info", "demo"))


def test_the_command_is_installed_with_the_package() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "shardwriter", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("shardwriter ")


@pytest.mark.parametrize("arguments", [["missing", "--expected", "4"], ["merge"], ["verify"]])
def test_reports_for_programs_are_json(
    directory: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, *others = arguments
    assert main([command, str(directory), *others, "--json", "--quiet"]) in (0, 1)
    output = capsys.readouterr()
    assert json.loads(output.out) is not None
    assert output.err == ""


def test_packing_for_programs_says_where_and_how_much(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed.h5"
    assert main(["pack", str(directory), "-o", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(packed),
        "bytes": packed.stat().st_size,
        "unfinished": {str(directory): []},
    }
    assert main(["unpack", str(packed), "-o", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "again")


def test_packing_and_unpacking_name_unfinished_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataExporter("maze", tmp_path, progress=False) as exporter:
        exporter.start_episode(0).end()
        exporter.start_episode(1)
        exporter.merge()
        directory = str(exporter.output_dir)
        for command, done in (("pack", "packed"), ("unpack", "unpacked")):
            output = str(tmp_path / done)
            assert main([command, directory, "-o", output]) == 0
            error = capsys.readouterr().err
            assert f"not {done}, as unfinished: episode 1; " in error
            assert main([command, directory, "-o", f"{output}_again", "--json"]) == 0
            said = capsys.readouterr()
            assert json.loads(said.out)["unfinished"] == {directory: [1]}
            assert said.err == ""


def commands_of(whole: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in whole._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield command
                yield from commands_of(command)


def test_every_command_explains_itself_and_can_be_quiet() -> None:
    commands = list(commands_of(parser()))
    assert len(commands) >= 19
    for command in commands:
        text = command.format_help()
        assert f"examples:\n  {command.prog}" in text
        assert "\n\nexit codes: 0 " in text
        assert "--quiet" in text
        assert max(map(len, (command.description or "").splitlines())) < 80
        for action in command._actions:
            assert action.help or isinstance(action.choices, dict), (command.prog, action.dest)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ("merge", "watch", "--renumber"))
    assert {"bash": "_shtab_compgen_files", "zsh": ":_files"}[shell] in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_help_does_not_load_the_libraries() -> None:
    code = "import sys; from shardwriter.cli.main import parser; parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"h5py", "numpy", "matplotlib", "tqdm", "shtab"} & set(done.stdout.split())
