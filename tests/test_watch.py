"""Watching an experiment while it runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.errors import ExperimentNotFound
from shardwriter.watch import Watcher, is_over, snapshot_text


def test_what_runs_is_seen_row_by_row_and_loses_nothing(tmp_path: Path) -> None:
    with DataExporter("seen", tmp_path, chunk_size=10) as exporter:
        watcher = Watcher(exporter.output_dir, expected=3)
        done = exporter.start_episode(0)
        done.log_timestep(0, behavior={"x": 1.0})
        done.end()
        failed = exporter.start_episode(1)
        failed.end(success=False)
        episode = exporter.start_episode(2)
        before = watcher.snapshot()
        for t in range(55):
            episode.log_timestep(t, behavior={"x": np.float32(t)}, reward=1.0)
            if t % 10 == 5:
                (running,) = watcher.snapshot().running
                assert (running.episode, running.state) == (2, "running")
                assert (running.steps, running.rows) == (t + 1, 2 * (t + 1))
                assert running.fill == pytest.approx(0.6)
        after = watcher.snapshot()
        assert after.rows - before.rows == 110
        assert after.raw_bytes - before.raw_bytes == 55 * (12 + 16)
        assert sum(after.finished.values()) == 2
        assert not is_over(exporter.output_dir, after)
        text = snapshot_text(after)
        assert "2 of 3 done" in text
        assert "1 running" in text
        assert "rows/s" in text
        episode.end()
        last = watcher.snapshot()
        assert (last.running, last.done, last.eta_s) == ((), 3, 0.0)
        assert last.rows == after.rows
        assert is_over(exporter.output_dir, last)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert len(loader.get_episode(2).get_behavior()["x"]) == 55


def test_the_command_prints_lines_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataExporter("lines", tmp_path) as exporter:
        with exporter.start_episode(0) as episode:
            episode.log_timestep(0, reward=1.0)
        directory = str(exporter.output_dir)
        assert main(["watch", directory, "--once", "--interval", "0.05"]) == 0
        text = capsys.readouterr().out
        assert "1 done (1 completed)" in text
        assert "\x1b" not in text
        assert main(["watch", directory, "--expected", "1", "--json"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line)["finished"] == {"completed": 1}


def test_a_recording_is_over_once_all_of_it_is_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataExporter("over", tmp_path) as exporter:
        watcher = Watcher(exporter.output_dir)
        exporter.start_episode(0).end()
        assert not is_over(exporter.output_dir, watcher.snapshot())
        exporter.merge()
        assert is_over(exporter.output_dir, watcher.snapshot())
        second = exporter.start_episode(1)
        assert not is_over(exporter.output_dir, watcher.snapshot())
        second.end()
        assert not is_over(exporter.output_dir, watcher.snapshot())
    assert main(["watch", str(exporter.output_dir)]) == 0
    assert capsys.readouterr().out.count("2 done (2 empty)") == 1


def test_a_directory_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExperimentNotFound):
        Watcher(tmp_path)
