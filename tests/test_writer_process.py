"""Writer processes: killed ones are replaced and nothing is lost; a bad episode costs itself."""

import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from known_episode import KnownEpisode, assert_same, tables_by_loader

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import EpisodeBusy, WriterFailed
from shardwriter.files.buffer import Buffer
from shardwriter.files.layout import EpisodePaths
from shardwriter.loader import ShardWarning
from shardwriter.recording import writer_process
from shardwriter.recording.writer import EpisodeWriter
from shardwriter.recording.writer_process import WriterProcess
from shardwriter.system.process import Identity


def kill_writers() -> int:
    """Kill every writer process of this one; return how many there were."""
    writers = [
        child
        for child in psutil.Process().children()
        if "shardwriter.recording.writer_server" in " ".join(child.cmdline())
    ]
    for writer in writers:
        writer.kill()
    return len(writers)


@pytest.mark.parametrize("steps", [60, 400], ids=["short", "of many slots"])
def test_a_killed_writer_is_replaced_and_nothing_is_lost(tmp_path: Path, steps: int) -> None:
    known = [KnownEpisode(i, steps=steps) for i in range(2)]
    with DataExporter(
        "test",
        tmp_path,
        progress=False,
        neural_sampling_rate=3,
        chunk_size=16,
        async_write=True,
        n_async_workers=1,
    ) as exporter:
        episodes = [exporter.start_episode() for _ in known]
        for each, episode in zip(known, episodes, strict=True):
            episode.log_static_data("maze", each.static())
        killed = 0
        for t in range(steps):
            if t in (steps // 3, 2 * steps // 3):
                killed += kill_writers()
            for each, episode in zip(known, episodes, strict=True):
                each.log_step(episode, t)
        episodes[0].end()
        killed += kill_writers()
        episodes[1].end()
        assert killed == 3
    with ExperimentLoader(exporter.output_dir) as loader:
        for each in known:
            found = tables_by_loader(loader, each.id)
            del found["weight_changes/deltas"]
            assert_same(found, each.tables)
            assert loader.get_episode(each.id).get_metadata()["status"] == "completed"


@pytest.mark.leaves_unfinished
def test_a_writer_that_cannot_be_replaced_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    options = {"chunk_size": 4, "async_write": True, "n_async_workers": 1, "progress": False}
    exporter = DataExporter("test", tmp_path, **options)  # type: ignore[arg-type]
    episode = exporter.start_episode(0)
    episode.log_timestep(0, behavior={"x": 0.0})
    monkeypatch.setattr(writer_process, "Child", refused)
    kill_writers()
    episode.end()
    for call in (episode.wait, exporter.close):
        with pytest.raises(WriterFailed, match=r"no other could be started: .*no more processes"):
            call()


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_hand_over_that_ctrl_c_cuts_short_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    interrupted = []
    send = WriterProcess.send

    def cut_short(process: WriterProcess, message: tuple[object, ...]) -> None:
        is_cut = message[0] == "drain" and len(interrupted) < 2 * (message[4] // 10)
        if is_sent or not is_cut:
            send(process, message)
        if is_cut:
            interrupted.append(message)
            raise KeyboardInterrupt

    monkeypatch.setattr(WriterProcess, "send", cut_short)
    options = {"chunk_size": 4, "async_write": True, "n_async_workers": 1, "progress": False}
    with DataExporter("test", tmp_path, **options) as exporter:  # type: ignore[arg-type]
        episode = exporter.start_episode()
        for t in range(200):
            with suppress(KeyboardInterrupt):
                episode.log_timestep(t, behavior={"x": float(t)})
            if t in (90, 130):
                kill_writers()
        episode.end()
    assert len(interrupted) == 8
    with ExperimentLoader(exporter.output_dir) as loader:
        behavior = loader.get_episode(0).get_behavior()
        assert behavior["timesteps"].tolist() == list(range(200))
        assert behavior["x"].tolist() == list(range(200))


def test_a_slot_that_is_done_is_not_written_again(tmp_path: Path) -> None:
    with (
        DataExporter("again", tmp_path, progress=False, chunk_size=4) as exporter,
        exporter.start_episode(0) as episode,
    ):
        for t in range(6):
            episode.log_timestep(t, behavior={"x": float(t)})
        writer = episode._drain._writer  # type: ignore[attr-defined]
        slots = writer._tables["behavior"]
        slots.slots[0][1][:] = -1  # as if other rows lay there by now
        writer.drain("behavior", 0, writer.begin("behavior", 0))
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_behavior()["x"].tolist() == list(range(6))


@pytest.mark.leaves_unfinished
def test_an_episode_that_cannot_be_written_costs_no_other(tmp_path: Path) -> None:
    exporter = DataExporter(
        "test", tmp_path, progress=False, chunk_size=16, async_write=True, n_async_workers=1
    )
    episodes = [exporter.start_episode(i) for i in range(3)]
    in_the_way = exporter.output_dir / "shards" / ".episode_0001.h5.tmp"
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    for t in range(10):
        for episode in episodes:
            episode.log_timestep(t, behavior={"x": float(t)})
    for episode in episodes:
        episode.end()
    with pytest.raises(WriterFailed, match=r"episode 1: its shard .* could not be written"):
        episodes[1].wait()
    assert [episodes[i].wait().status for i in (0, 2)] == ["completed"] * 2
    later = exporter.start_episode(3)
    later.log_timestep(0, behavior={"x": 0.0})
    with pytest.raises(WriterFailed):
        exporter.close()
    with pytest.warns(ShardWarning, match="unfinished: episode 1;"):
        loader = ExperimentLoader(exporter.output_dir)
    with loader:
        assert loader.list_episodes() == [0, 2, 3]


def test_a_writer_that_outlived_its_process_leaves_the_next_attempt_alone(tmp_path: Path) -> None:
    """As after a killed worker, whose writer comes to its messages when the retry runs already."""
    with (
        DataExporter("stale", tmp_path, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_timestep(0, behavior={"x": 0.0})
        paths = EpisodePaths(exporter.output_dir, 0)
        dead = replace(Identity.own(), start_ticks=1)
        with pytest.raises(EpisodeBusy):
            EpisodeWriter(paths, {}, owner=dead)
        EpisodeWriter(paths, {}, owner=Identity.own()).close()  # nobody holds its lock
        episode.log_timestep(1, behavior={"x": 1.0})
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_behavior()["x"].tolist() == [0.0, 1.0]
        assert loader.get_episode(0).get_metadata()["status"] == "completed"


def test_a_buffer_whose_shard_was_published_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DataExporter("gone", tmp_path, progress=False) as exporter:
        episode = exporter.start_episode(0)
        episode.log_timestep(0, behavior={"x": 0.0})
        lock = Buffer.lock

        def after_the_end(buffer: Buffer, *, wait: bool = False) -> bool:
            monkeypatch.setattr(Buffer, "lock", lock)
            episode.end()
            return lock(buffer, wait=wait)

        monkeypatch.setattr(Buffer, "lock", after_the_end)
        with pytest.raises(FileNotFoundError):
            EpisodeWriter(EpisodePaths(exporter.output_dir, 0), {})
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_metadata()["status"] == "completed"
