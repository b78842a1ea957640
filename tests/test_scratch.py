"""A scratch directory: episodes are written on a node's own disk, shards published by copy."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge import merge_experiment
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.config import RecorderConfig
from shardwriter.errors import ConfigError, EpisodeExists, ShardDamaged
from shardwriter.files import publication
from shardwriter.files.layout import EpisodePaths
from shardwriter.recording.recorder import Recorder
from shardwriter.recovery import exit_code, missing, recover
from shardwriter.system import file_systems
from shardwriter.system.file_systems import NetworkMappingWarning, default_buffer_directory

CHUNK = 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of an experiment, on a file system that stands for a shared one."""
    (tmp_path / "experiment" / "shards").mkdir(parents=True)
    return tmp_path / "experiment"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return a directory that is not there yet."""
    return tmp_path / "scratch"


def die(directory: Path, scratch: Path, rows: int, *, instant: str = "") -> None:
    """Record episode 0 until SIGKILL, at a named instant of its end or after so many rows."""
    script = f"""
        import os, signal
        from pathlib import Path
        from shardwriter.system import instants
        from shardwriter.config import RecorderConfig
        from shardwriter.recording.recorder import Recorder
        scratch = Path({str(scratch)!r})
        config = RecorderConfig(chunk_size={CHUNK}, scratch_dir=scratch)
        recorder = Recorder(Path({str(directory)!r}), config)
        episode = recorder.start_episode(0)
        for i in range({rows}):
            episode.log_timestep(i, behavior={{"x": float(i)}})
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        instants.install(lambda instant: die() if instant == {instant!r} else None)
        if {instant!r}:
            episode.end(summary={{"rows": {rows}}})
        die()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} if folder.exists() else set()


def read_x(directory: Path) -> np.ndarray[Any, Any]:
    with ExperimentLoader(merge_experiment(directory)) as loader:
        return loader.get_episode(0).get_behavior()["x"]


@pytest.mark.parametrize("async_write", [False, True])
def test_episodes_are_written_on_scratch_and_published(
    tmp_path: Path, scratch: Path, async_write: bool
) -> None:
    options: Any = {"scratch_dir": scratch, "chunk_size": CHUNK, "async_write": async_write}
    with DataExporter("maze", tmp_path / "shared", **options) as exporter:
        shards = exporter.output_dir / "shards"
        with exporter.start_episode(0) as episode:
            for i in range(250):
                episode.log_timestep(i, behavior={"x": float(i)})
            episode.flush()
            assert [path.name for path in shards.iterdir()] == ["episode_0000.buffer"]
            assert (shards / "episode_0000.buffer").is_symlink()
        episode.wait()
        with exporter.start_episode(1) as short:
            short.log_timestep(0, behavior={"x": 1.0})
    assert files(scratch) == set()
    assert files(shards) == {"episode_0000.h5", "episode_0001.h5"}
    np.testing.assert_array_equal(read_x(exporter.output_dir), np.arange(250))
    with DataExporter.resume(exporter.output_dir) as resumed:
        resumed.start_episode(2).log_timestep(0, reward=1)
        assert len(list(scratch.iterdir())) == 1  # the option is kept
    assert files(scratch) == set()


def test_workers_write_on_scratch(tmp_path: Path, scratch: Path) -> None:
    with DataExporter("maze", tmp_path, scratch_dir=scratch, chunk_size=CHUNK) as exporter:
        exporter.run_episodes(
            lambda episode: [episode.log_timestep(i, reward=1) for i in range(250)] and None,
            range(3),
            n_workers=2,
        )
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.episode_index["total_reward"].tolist() == [250.0] * 3
    assert files(scratch) == set()


@pytest.mark.parametrize("rows", [1, 250])
def test_recovery_finds_what_lies_on_scratch(directory: Path, scratch: Path, rows: int) -> None:
    die(directory, scratch, rows)
    paths = EpisodePaths(directory, 0)
    assert paths.scratch is not None
    assert paths.part.exists() == (rows > CHUNK)
    assert missing(directory, range(1)) == [0]
    [result] = recover(directory, dry_run=True)
    assert result.outcome == "recovered"
    [result] = recover(directory)
    assert (result.outcome, result.status, result.rows["behavior"]) == (
        "recovered",
        "interrupted",
        rows,
    )
    assert not result.has_loss
    assert files(scratch) == set()
    assert files(directory / "shards") == {"episode_0000.h5"}
    np.testing.assert_array_equal(read_x(directory), np.arange(rows))


@pytest.mark.parametrize(
    "instant", ["file closed", "file synced", "file renamed", "directory synced"]
)
@pytest.mark.parametrize("rows", [1, 250])
def test_a_kill_while_a_shard_is_published(
    directory: Path, scratch: Path, instant: str, rows: int
) -> None:
    die(directory, scratch, rows, instant=instant)
    [result] = recover(directory)
    assert (result.outcome, result.status) == ("recovered", "completed")
    assert not result.has_loss
    assert recover(directory) == []
    assert files(scratch) == set()
    assert files(directory / "shards") == {"episode_0000.h5"}
    np.testing.assert_array_equal(read_x(directory), np.arange(rows))


def test_a_scratch_directory_that_is_gone_is_a_loss(directory: Path, scratch: Path) -> None:
    die(directory, scratch, 250)
    scratch.rename(scratch.with_name("purged"))
    [result] = recover(directory)
    assert result.outcome == "removed"
    assert "is gone" in str(result)
    assert exit_code([result]) == 3
    assert missing(directory, range(1)) == [0]
    for path in scratch.with_name("purged").rglob("*"):
        if path.is_file():
            path.unlink()


def test_an_id_is_claimed_once(directory: Path, scratch: Path) -> None:
    config = RecorderConfig(scratch_dir=scratch)
    with Recorder(directory, config) as first, Recorder(directory, config) as second:
        first.start_episode(0).log_timestep(0, reward=1)
        with pytest.raises(EpisodeExists):
            second.start_episode(0)
        assert len(list(scratch.iterdir())) == 1


# -- publishing ---------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "shards").mkdir()
    source = tmp_path / "finished"
    source.write_bytes(os.urandom(9_000_000))
    return source, tmp_path / "shards" / "episode_0000.h5"


def failing(call: Callable[..., Any], *errors: int) -> Callable[..., Any]:
    """Return a function that fails at first."""
    left = list(errors)

    def instead(*arguments: Any, **options: Any) -> Any:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))
        return call(*arguments, **options)

    return instead


def test_a_stale_handle_is_asked_for_again(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "_PAUSES_S", (0.0, 0.0))
    stale = (errno.ESTALE, errno.ENOENT)
    monkeypatch.setattr(publication, "_copy", failing(publication._copy, *stale))
    monkeypatch.setattr(publication, "_rename", failing(publication._rename, *stale))
    sync = failing(publication.sync_directory, *stale)
    monkeypatch.setattr(publication, "sync_directory", sync)
    publication.publish(*finished)
    assert finished[1].read_bytes() == finished[0].read_bytes()
    assert files(finished[1].parent) == {"episode_0000.h5"}


def test_other_errors_and_lasting_ones_are_raised(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "_PAUSES_S", (0.0, 0.0))
    for numbers in ([errno.ENOSPC], [errno.ESTALE] * 3):
        monkeypatch.setattr(os, "fsync", failing(os.fsync, *numbers))
        with pytest.raises(OSError, match=os.strerror(numbers[0])):
            publication.publish(*finished)
        assert files(finished[1].parent) == set()


def test_a_copy_that_differs_is_not_published(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(fd: int) -> None:
        os.pwrite(fd, b"torn", 5_000_000)

    monkeypatch.setattr(os, "fsync", torn)
    with pytest.raises(ShardDamaged, match="CRC-32"):
        publication.publish(*finished)
    assert files(finished[1].parent) == set()


def test_nothing_is_overwritten(finished: tuple[Path, Path]) -> None:
    finished[1].write_bytes(b"another")
    with pytest.raises(FileExistsError):
        publication.publish(*finished)
    assert finished[1].read_bytes() == b"another"
    assert files(finished[1].parent) == {"episode_0000.h5"}


def test_a_rename_whose_answer_was_lost_is_done(finished: tuple[Path, Path]) -> None:
    source, final = finished
    source.rename(final)
    publication._rename(source, final, 9_000_000)
    with pytest.raises(FileNotFoundError):
        publication._rename(source, final, 1)


# -- file systems -------------------------------------------------------------------------


def test_buffers_go_to_memory_where_shards_are_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_systems.kind_of(Path("/proc/self")) == "proc"
    assert file_systems.kind_of(Path("/dev/shm/not/there")) == "tmpfs"
    kinds = {"ext4": None, "tmpfs": None, "fuse.mergerfs": None, "": None}
    kinds |= dict.fromkeys(["nfs4", "lustre", "gpfs", "fuse.sshfs"], Path("/dev/shm"))
    for kind, where in kinds.items():
        monkeypatch.setattr(file_systems, "kind_of", lambda folder, kind=kind: kind)
        assert default_buffer_directory(tmp_path) == where
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with DataExporter("quiet", tmp_path) as exporter:
                exporter.start_episode(0).log_timestep(0, reward=1)


@pytest.mark.parametrize("option", ["buffer_dir", "scratch_dir"])
def test_buffers_on_the_network_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(file_systems, "kind_of", lambda folder: "nfs4")
    options: Any = {option: tmp_path}
    with pytest.warns(NetworkMappingWarning, match=f"{option}.* on nfs4") as caught:
        exporter = DataExporter("maze", tmp_path, **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    exporter.close()
    with pytest.warns(NetworkMappingWarning, match="durability='power'"):
        DataExporter("maze", tmp_path, durability="power").close()


def test_scratch_holds_the_buffers_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="buffer_dir: expected None with scratch_dir"):
        DataExporter("maze", tmp_path, scratch_dir=tmp_path, buffer_dir=tmp_path)
