"""Nothing that was recorded commands the terminal that it is shown on."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import pytest
from merging import shard

from shardwriter import DataExporter
from shardwriter.cli import main
from shardwriter.files.layout import MASTER
from shardwriter.printable import printable, printable_lines

COMMANDS = "\x1b]0;owned\x07\x1b[2J\n  status     all is well"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\n  status     all is well"


def said(output: Any) -> str:
    """Return what was printed, once it is known to command nothing."""
    text: str = output.out + output.err
    assert re.sub(r"\n", "", text).isprintable()
    return text


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    with DataExporter("maze", tmp_path, progress=False) as exporter:
        for episode_id in range(2):
            with exporter.start_episode(episode_id) as episode:
                episode.log_timestep(0, behavior={COMMANDS: 1.0 if episode_id else 1})
    return exporter.output_dir


def test_a_text_is_shown_as_it_is_but_for_what_is_not_printable() -> None:
    assert printable("µ-maze 3, “déjà vu” █ 脳 ok\\n") == "µ-maze 3, “déjà vu” █ 脳 ok\\n"
    assert printable(COMMANDS) == ESCAPED
    assert printable("\x9b2J\u202e\x7f\udcff\t") == r"\x9b2J\u202e\x7f\udcff\t"
    assert printable_lines(["a\nb", "c"]) == "a\\nb\nc"


def test_info_shows_names_and_values(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(experiment / MASTER, "r+") as file:
        file.attrs["experiment_name"] = COMMANDS
    assert main(["info", str(experiment)]) == 0
    text = said(capsys.readouterr())
    assert text.startswith(ESCAPED)
    assert f"behavior/{ESCAPED}" in text


def test_watch_shows_the_status_of_a_shard(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(shard(experiment, 0), "r+") as file:
        file["episodes/episode_0000"].attrs["status"] = COMMANDS
    assert main(["watch", str(experiment), "--once", "--interval", "0.05"]) == 0
    assert f"1 {ESCAPED}" in said(capsys.readouterr())


def test_merge_shows_fields_that_differ(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(experiment)]) == 0
    assert f"behavior/{ESCAPED}" in said(capsys.readouterr())


def test_verify_shows_what_is_wrong(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(shard(experiment, 0), "r+") as file:
        del file[f"episodes/episode_0000/behavior/{COMMANDS}"]
        file[f"episodes/episode_0000/behavior/{COMMANDS}"] = h5py.SoftLink("/nowhere")
    assert main(["verify", str(experiment)]) == 1
    assert r"\x1b]0;owned\x07\x1b[2J" in said(capsys.readouterr())


def test_an_error_and_a_warning_show_a_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tmp_path / COMMANDS)]) == 1
    (line,) = said(capsys.readouterr()).splitlines()
    assert r"\x1b]0;owned\x07\x1b[2J status all is well" in line
    with DataExporter("maze", tmp_path / COMMANDS, progress=False) as exporter:
        exporter.start_episode(0).end()
        exporter.merge()
        exporter.start_episode(1)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main(["info", str(exporter.output_dir)]) == 0
        assert "unfinished: episode 1" in said(capsys.readouterr())


def test_what_an_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    code = "import sys; from shardwriter.cli import main; sys.exit(main())"
    with DataExporter("Mäuse", tmp_path, progress=False) as exporter:
        exporter.start_episode(0).end()
    done = subprocess.run(
        [sys.executable, "-c", code, "info", str(exporter.output_dir)],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"M\xe4use")
