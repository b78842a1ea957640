"""Watching an experiment while it runs."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from running import started, steps, wait_for

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.engines import EpisodeResult
from shardwriter.errors import ExperimentNotFound
from shardwriter.files.layout import run_note_path, unfinished_episodes
from shardwriter.files.run_note import note_run
from shardwriter.recording.episode import Episode
from shardwriter.recovery import recover
from shardwriter.system.process import Identity
from shardwriter.watch import Run, Snapshot, Watcher
from shardwriter.watch_text import snapshot_text


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
        assert not after.is_over
        text = snapshot_text(after)
        assert "2 of 3 done" in text
        assert "1 running" in text
        assert "rows/s" in text
        episode.end()
        last = watcher.snapshot()
        assert (last.running, last.done, last.eta_s) == ((), 3, 0.0)
        assert last.rows == after.rows
        assert last.is_over
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
        assert not watcher.snapshot().is_over
        exporter.merge()
        assert watcher.snapshot().is_over
        second = exporter.start_episode(1)
        assert not watcher.snapshot().is_over
        second.end()
        assert not watcher.snapshot().is_over
    assert main(["watch", str(exporter.output_dir)]) == 0
    assert capsys.readouterr().out.count("2 done (2 empty)") == 1


def test_a_directory_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExperimentNotFound):
        Watcher(tmp_path)


# -- what the processes that run episodes leave word of -----------------------------------------


def one_row(episode: Episode) -> None:
    episode.log_timestep(0, reward=1.0)


def seen_meanwhile(
    exporter: DataExporter, episodes: Iterable[int], *, expected: int | None = None
) -> list[Snapshot]:
    """Run episodes, and take a snapshot at the end of each."""
    seen: list[Snapshot] = []

    def look(_: EpisodeResult) -> None:
        seen.append(Watcher(exporter.output_dir, expected).snapshot())

    exporter.run_episodes(one_row, episodes, 1, on_result=look, skip_existing=True)
    return seen


def notes(exporter: DataExporter) -> list[Path]:
    return list((exporter.output_dir / "experiment").glob("*.run"))


def test_a_run_leaves_word_of_how_many_episodes_there_will_be(tmp_path: Path) -> None:
    with DataExporter("word", tmp_path) as exporter:
        seen = seen_meanwhile(exporter, [7, 0, 1, 2])
        assert [each.expected for each in seen] == [4] * 4
        assert seen[0].runs == (Run(Identity.own().host, os.getpid(), "running"),)
        assert not notes(exporter)
        assert Watcher(exporter.output_dir).snapshot().expected is None
        # A further run adds to what there is; one that goes on has the whole.
        assert {each.expected for each in seen_meanwhile(exporter, range(8, 10))} == {6}
        assert {each.expected for each in seen_meanwhile(exporter, range(12))} == {12}
        assert {each.expected for each in seen_meanwhile(exporter, [20], expected=99)} == {99}


def test_an_iterator_leaves_no_number(tmp_path: Path) -> None:
    with DataExporter("iterator", tmp_path) as exporter:
        with note_run(exporter.output_dir, range(2)):
            for each in seen_meanwhile(exporter, iter(range(3))):
                assert (each.expected, each.eta_s, len(each.runs)) == (None, None, 1)
        assert not notes(exporter)


def test_a_watcher_remembers_what_it_has_read(tmp_path: Path) -> None:
    with DataExporter("stopped", tmp_path) as exporter:
        watcher = Watcher(exporter.output_dir)
        with note_run(exporter.output_dir, range(3)):
            exporter.start_episode(0).end()
            watcher.snapshot()
        assert not notes(exporter)
        stopped = watcher.snapshot()
        assert (stopped.left, stopped.eta_s) == (2, None)
        assert "1 of 3 done" in snapshot_text(stopped)
        assert "2 episodes, which nobody records now" in snapshot_text(stopped)


def test_what_is_left_is_estimated_by_rows(tmp_path: Path) -> None:
    with DataExporter("pace", tmp_path) as exporter, note_run(exporter.output_dir, range(4)):
        [note] = notes(exporter)
        os.utime(note, (time.time() - 10_000,) * 2)
        first = Watcher(exporter.output_dir).snapshot()
        assert first.eta_s is None
        assert "known once one has ended" in snapshot_text(first)
        for episode_id in range(2):
            with exporter.start_episode(episode_id) as episode:
                for t in range(9):
                    episode.log_timestep(t, reward=1.0)
        assert Watcher(exporter.output_dir).snapshot().eta_s == pytest.approx(10_000, rel=0.02)
        with exporter.start_episode(2) as episode:
            for t in range(5):
                episode.log_timestep(t, reward=1.0)
            halfway = Watcher(exporter.output_dir).snapshot()
        assert halfway.eta_s == pytest.approx(10_000 * (20 - 5) / (20 + 5), rel=0.02)
        assert "2 episodes, about 1 h 40 min" in snapshot_text(halfway)


def test_a_merge_meanwhile_is_not_the_end(tmp_path: Path) -> None:
    with DataExporter("meanwhile", tmp_path) as exporter:
        with note_run(exporter.output_dir, range(2)):
            exporter.start_episode(0).end()
            exporter.merge()
            assert not Watcher(exporter.output_dir).snapshot().is_over
        assert Watcher(exporter.output_dir).snapshot().is_over


def test_an_episode_that_is_run_again_is_read_again(tmp_path: Path) -> None:
    with DataExporter("again", tmp_path) as exporter:
        watcher = Watcher(exporter.output_dir)
        exporter.start_episode(0).end(success=False)
        before = watcher.snapshot()
        exporter.run_episodes(one_row, [0], 1, skip_existing=True)
        assert (before.rows, watcher.snapshot().rows) == (0, 1)


def test_a_job_of_an_array_knows_the_whole_and_its_death_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = place / "all"
    arguments = ("--episodes", "0:6", "--workers", 1, "--shard-of", "0/2", "--into", where)
    job = started("maze:waits_once", *arguments)
    wait_for(place / "marks" / "2")
    alive = Watcher(where).snapshot()
    assert alive.expected == 6
    job.send_signal(signal.SIGKILL)
    job.communicate()
    while unfinished_episodes(where):  # until its writer, which outlives it, has sealed them
        time.sleep(0.01)
    assert main(["watch", str(where), "--once", "--interval", "0.05"]) == 0
    text = capsys.readouterr().out
    assert "2 of 6 done (1 completed, 1 interrupted)" in text
    assert "4 episodes, which nobody records now" in text
    assert f"died      process {job.pid} of {Identity.own().host}, which ran episodes" in text
    assert f"go on     with `shardwriter run … --resume {where}`" in text
    job = started("maze:waits_once", *arguments)  # it goes on
    job.communicate()
    assert not list((where / "experiment").glob("*.run"))
    assert main(["merge", str(where)]) == 0
    assert steps(where) == {0: 50, 2: 50, 4: 50}


def test_notes_disturb_nobody(tmp_path: Path) -> None:
    with DataExporter("disturbed", tmp_path) as exporter:
        exporter.start_episode(0).end()
    own = Identity.own()
    far = Identity("far-away", own.boot_id, own.pid_namespace, own.pid, own.start_ticks)
    place = exporter.output_dir / "experiment"
    (place / f"{far.label}-01.run").write_text('{"episodes": [[0, 3]], "more": 1}')
    for i, content in enumerate(("", "[1", "{}", '{"episodes": [[0, 1, 0]]}', "\0", "[]")):
        (place / f"{own.label}-a{i}.run").write_text(content)
    (place / "something.run").touch()
    directory = str(exporter.output_dir)
    seen = Watcher(exporter.output_dir).snapshot()
    assert (seen.expected, seen.runs) == (3, (Run("far-away", own.pid, "elsewhere"),))
    few = tmp_path / "few"
    for command in ("info", "merge", "verify --deep", f"pack -o {few} --shards 1", "recover"):
        name, *options = command.split()
        assert main([name, directory, *options]) == 0, command
    assert not list(few.rglob("*.run"))
    recover(exporter.output_dir, force_hosts=["far-away"])
    assert "far-away" not in str(notes(exporter))


def test_a_look_takes_the_place_of_the_last_one_in_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with DataExporter("narrow", tmp_path, progress=False) as exporter:
        exporter.start_episode(0).end()
        first = snapshot_text(Watcher(exporter.output_dir).snapshot())
        monkeypatch.setattr("shardwriter.cli.watch.time.sleep", lambda _: exporter.merge())
        assert main(["watch", str(exporter.output_dir)]) == 0
    wrapped = sum(-(-len(line) // 20) for line in first.splitlines())
    assert capsys.readouterr().out.startswith(f"{first}\n\x1b[{wrapped}A\x1b[J")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"episodes": [[0, 100000000000]]}', b'{"episodes": 5}', None]
)
def test_a_note_that_is_none_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    with DataExporter("w", tmp_path, progress=False) as exporter:
        exporter.start_episode(0).end()
    note = run_note_path(exporter.output_dir, Identity.own().label, "abcd1234")
    if content is None:
        os.mkfifo(note)
    else:
        note.write_bytes(content)
    (exporter.output_dir / "shards" / "episode_0001.h5").symlink_to("episode_0001.h5")
    snapshot = Watcher(exporter.output_dir).snapshot()
    assert snapshot.finished == {"empty": 1, "unreadable": 1}
    assert snapshot.runs == ()
