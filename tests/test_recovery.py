"""Recovery: what is sealed, what is left alone, and what is said about damage."""

import json
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from merge import merge_experiment
from shardwriter import ExperimentLoader
from shardwriter.cli import main
from shardwriter.config import RecorderConfig
from shardwriter.errors import ConfigError, EpisodeNotFound, ExperimentNotFound
from shardwriter.files.buffer import Buffer
from shardwriter.files.layout import EpisodePaths, buffer_name
from shardwriter.loader import ShardWarning
from shardwriter.recording.recorder import Recorder
from shardwriter.recovery import exit_code, missing, recover
from shardwriter.system.process import Identity

CHUNK = 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    return tmp_path


def record_and_die(directory: Path, rows: int, *, options: str = "", after: str = "") -> None:
    """Log `rows` rows to episode 0 in a process that then dies by SIGKILL."""
    script = f"""
        import os, signal
        from pathlib import Path
        from shardwriter.config import RecorderConfig
        from shardwriter.recording.recorder import Recorder
        recorder = Recorder(Path({str(directory)!r}), RecorderConfig(chunk_size={CHUNK}, {options}))
        episode = recorder.start_episode(0)
        for i in range({rows}):
            episode.log_timestep(i, behavior={{"x": float(i)}}, reward=1.0)
        {after}
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL


def recovered_x(directory: Path, episode: int = 0) -> np.ndarray:
    with ExperimentLoader(merge_experiment(directory)) as loader:
        return loader.get_episode(episode).get_behavior()["x"]


def names(directory: Path) -> set[str]:
    return {path.name for path in (directory / "shards").iterdir()}


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 1234])
def test_every_row_of_a_killed_process_is_recovered(directory: Path, rows: int) -> None:
    record_and_die(directory, rows)
    [result] = recover(directory)
    assert (result.outcome, result.status) == ("recovered", "interrupted")
    assert result.rows["behavior"] == result.rows["rewards"] == rows
    assert not result.lost
    assert not result.reasons
    assert names(directory) == {"episode_0000.h5"}
    np.testing.assert_array_equal(recovered_x(directory), np.arange(rows))


def test_a_second_recovery_finds_nothing(directory: Path) -> None:
    record_and_die(directory, 250)
    recover(directory)
    shard = directory / "shards" / "episode_0000.h5"
    before = shard.read_bytes()
    assert recover(directory) == []
    assert shard.read_bytes() == before


@pytest.mark.leaves_unfinished
def test_dry_run_changes_nothing(directory: Path) -> None:
    record_and_die(directory, 250)
    before = {path.name: path.read_bytes() for path in (directory / "shards").iterdir()}
    [result] = recover(directory, dry_run=True)
    assert result.outcome == "recovered"
    assert result.rows == {"behavior": 250, "rewards": 250}
    assert {p.name: p.read_bytes() for p in (directory / "shards").iterdir()} == before


def test_an_episode_that_is_being_recorded_is_left_alone(directory: Path) -> None:
    record_and_die(directory, 250)
    with Recorder(directory, RecorderConfig(chunk_size=CHUNK)) as recorder:
        episode = recorder.start_episode(1)
        for i in range(150):
            episode.log_timestep(i, behavior={"x": float(i)})
        results = {result.episode: result for result in recover(directory)}
        assert results[0].outcome == "recovered"
        assert results[1].outcome == "recording"
        assert exit_code(list(results.values())) == 0
        for i in range(150, 300):
            episode.log_timestep(i, behavior={"x": float(i)})
        episode.end()
    np.testing.assert_array_equal(recovered_x(directory, 1), np.arange(300))


def test_a_buffer_that_is_just_being_created_is_left_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(instant: str) -> None:
        if instant == "buffer created":
            seen.extend(recover(directory))

    monkeypatch.setattr("shardwriter.system.instants._actions", [look])
    with Recorder(directory, RecorderConfig()) as recorder:
        episode = recorder.start_episode(0)
        episode.log_timestep(0, behavior={"x": 1.0})
        episode.end()
    assert [result.outcome for result in seen] == ["recording"]
    assert recovered_x(directory).tolist() == [1.0]


@pytest.mark.parametrize("size", [0, 4096, 8192])
def test_a_buffer_without_a_header_is_removed(directory: Path, size: int) -> None:
    paths = EpisodePaths(directory, 3)
    paths.buffer.write_bytes(bytes(size))
    paths.temporary.write_bytes(b"half a shard")
    [result] = recover(directory)
    assert (result.outcome, exit_code([result])) == ("removed", 0)
    assert names(directory) == set()


@pytest.mark.parametrize("suffix", ["h5.tmp", "h5.journal.tmp"])
def test_temporary_files_of_nobody_are_removed(directory: Path, suffix: str) -> None:
    (directory / "shards" / f".episode_0003.{suffix}").write_bytes(b"half")
    [result] = recover(directory)
    assert result.outcome == "removed"
    assert names(directory) == set()


def test_buffers_elsewhere_are_found_through_their_links(directory: Path) -> None:
    where = directory / "elsewhere"
    where.mkdir()
    record_and_die(directory, 250, options=f"buffer_dir=Path({str(where)!r})")
    assert (directory / "shards" / "episode_0000.buffer").is_symlink()
    [result] = recover(directory)
    assert result.rows["behavior"] == 250
    assert not list(where.iterdir())
    np.testing.assert_array_equal(recovered_x(directory), np.arange(250))


def dangling_link(directory: Path, owner: Identity) -> Path:
    link = EpisodePaths(directory, 0).buffer
    link.symlink_to(directory / buffer_name(owner.label, "00ff"))
    return link


def test_a_link_to_nothing_is_removed(directory: Path) -> None:
    own = Identity.own()
    dead = Identity(own.host, own.boot_id, own.pid_namespace, own.pid, own.start_ticks - 1)
    dangling_link(directory, dead)
    [result] = recover(directory)
    assert (result.outcome, exit_code([result])) == ("removed", 0)
    assert names(directory) == set()


@pytest.mark.leaves_unfinished
def test_a_link_of_a_living_process_is_left_alone(directory: Path) -> None:
    link = dangling_link(directory, Identity.own())
    [result] = recover(directory)
    assert result.outcome == "recording"
    assert link.is_symlink()


def test_a_buffer_that_went_with_a_reboot_is_a_loss(directory: Path) -> None:
    own = Identity.own()
    boot = "00000000-0000-4000-8000-000000000000"
    link = dangling_link(directory, Identity(own.host, boot, own.pid_namespace, 7, 7))
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert "reboot" in str(result)
    assert not link.is_symlink()


@pytest.mark.leaves_unfinished
def test_another_host_is_left_alone_unless_asked_for(directory: Path) -> None:
    record_and_die(directory, 50)
    buffer = EpisodePaths(directory, 0).buffer
    host = Identity.own().host.encode()
    buffer.write_bytes(_rewritten(buffer, host, b"x" * len(host)))
    [result] = recover(directory)
    assert (result.outcome, exit_code([result])) == ("elsewhere", 1)
    assert buffer.exists()
    [result] = recover(directory, force_hosts=["x" * len(host)])
    assert (result.outcome, result.rows["behavior"]) == ("recovered", 50)


def _rewritten(path: Path, old: bytes, new: bytes) -> bytes:
    """Return a buffer with other text in its start record, checksum included."""
    import zlib

    data = bytearray(path.read_bytes())
    at = data.index(b'{"episode"')
    size = int.from_bytes(data[at - 48 : at - 40], "little")
    data[at : at + size] = bytes(data[at : at + size]).replace(old, new)
    data[at - 32 : at - 24] = zlib.crc32(data[at : at + size]).to_bytes(8, "little")
    return bytes(data)


# -- damage: what was damaged is kept in shards/damaged, parts and buffers included ---------


def flip(path: Path, where: int) -> None:
    with path.open("r+b") as file:
        file.seek(where)
        byte = file.read(1)[0]
        file.seek(where)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.leaves_unfinished
def test_a_part_without_its_buffer_is_sealed_with_a_warning(directory: Path) -> None:
    record_and_die(directory, 1234)
    EpisodePaths(directory, 0).buffer.unlink()
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert result.lost == {"behavior": -1, "rewards": -1}
    rows = result.rows["behavior"]
    assert rows == 1200
    np.testing.assert_array_equal(recovered_x(directory), np.arange(rows))
    assert names(directory) == {"episode_0000.h5", "damaged"}
    assert recover(directory) == []


@pytest.mark.leaves_unfinished
def test_an_unreadable_part_loses_what_the_buffer_lacks(directory: Path) -> None:
    record_and_die(directory, 1234)
    part = EpisodePaths(directory, 0).part
    part.write_bytes(part.read_bytes()[:100])
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert result.lost == {"behavior": 1234, "rewards": 1234}
    assert {p.name for p in (directory / "shards" / "damaged").iterdir()} == {
        "episode_0000.buffer",
        "episode_0000.h5.part",
    }
    assert recover(directory) == []


@pytest.mark.leaves_unfinished
def test_an_unreadable_part_loses_nothing_that_the_buffer_has(directory: Path) -> None:
    record_and_die(directory, 250)
    EpisodePaths(directory, 0).part.write_bytes(b"not HDF5")
    [result] = recover(directory)
    assert not result.lost
    assert "cannot be opened" in str(result)
    np.testing.assert_array_equal(recovered_x(directory), np.arange(250))


@pytest.mark.leaves_unfinished
def test_a_flipped_byte_in_the_part_ends_the_prefix(directory: Path) -> None:
    record_and_die(directory, 1234)
    part = EpisodePaths(directory, 0).part
    with h5py.File(part, "r", libver="latest", swmr=True, locking=False) as file:
        dataset = file["episodes/episode_0000/behavior/x"]
        flip(part, dataset.id.get_chunk_info_by_coord((500,)).byte_offset + 40)
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert result.rows == {"behavior": 500, "rewards": 1234}
    assert result.lost == {"behavior": 734}
    np.testing.assert_array_equal(recovered_x(directory), np.arange(500))


@pytest.mark.leaves_unfinished
def flip_in_slot(buffer: Path, first: int) -> None:
    rows = np.arange(first, first + CHUNK, dtype=np.float64)
    flip(buffer, buffer.read_bytes().index(rows.tobytes()) + 8)


def test_a_flipped_byte_in_a_slot_is_mended_from_the_part(directory: Path) -> None:
    record_and_die(directory, 250)
    flip_in_slot(EpisodePaths(directory, 0).buffer, 100)
    [result] = recover(directory)
    assert exit_code([result]) == 0
    np.testing.assert_array_equal(recovered_x(directory), np.arange(250))


@pytest.mark.leaves_unfinished
def test_a_flipped_byte_in_a_full_slot_is_noticed(directory: Path) -> None:
    record_and_die(directory, 250)
    paths = EpisodePaths(directory, 0)
    paths.part.unlink()
    flip_in_slot(paths.buffer, 100)
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert "chunk 1 has changed" in str(result)
    np.testing.assert_array_equal(recovered_x(directory), np.arange(100))


@pytest.mark.leaves_unfinished
def test_a_damaged_record_keeps_what_the_part_has_of_its_table(directory: Path) -> None:
    record_and_die(directory, 1234)
    buffer = EpisodePaths(directory, 0).buffer
    flip(buffer, buffer.read_bytes().index(b'"rewards"'))
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert result.rows == {"behavior": 1234, "rewards": 1200}
    assert "checksum" in str(result)
    np.testing.assert_array_equal(recovered_x(directory), np.arange(1234))


@pytest.mark.leaves_unfinished
def test_a_damaged_start_record_falls_back_to_the_part(directory: Path) -> None:
    record_and_die(directory, 1234)
    buffer = EpisodePaths(directory, 0).buffer
    flip(buffer, buffer.read_bytes().index(b'"seed"'))
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert result.rows == {"behavior": 1200, "rewards": 1200}
    assert names(directory) == {"episode_0000.h5", "damaged"}


@pytest.mark.leaves_unfinished
def test_a_part_of_which_nothing_can_be_read_stays(directory: Path) -> None:
    part = EpisodePaths(directory, 0).part
    part.write_bytes(b"not HDF5")
    [result] = recover(directory)
    assert (result.outcome, exit_code([result])) == ("failed", 1)
    assert part.read_bytes() == b"not HDF5"


# -- the commands -------------------------------------------------------------------------


def test_the_command_prints_a_line_per_episode(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_and_die(directory, 250)
    assert main(["recover", str(directory)]) == 0
    out = capsys.readouterr().out
    assert out == ("episode 0: recovered as interrupted: behavior 250, rewards 250; lost: 0\n")
    assert main(["recover", str(directory)]) == 0
    assert capsys.readouterr().out == "nothing to recover\n"


def test_the_command_prints_json(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_and_die(directory, 5)
    assert main(["recover", "--json", str(directory)]) == 0
    [episode] = json.loads(capsys.readouterr().out)
    assert episode["rows"] == {"behavior": 5, "rewards": 5}


def test_a_directory_that_is_no_experiment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recover", str(tmp_path)]) == 1
    assert "expected an experiment" in capsys.readouterr().err


def test_missing_names_what_has_to_run_again(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recorder(directory, RecorderConfig()) as recorder:
        for episode in (0, 3):
            recorder.start_episode(episode).end()
        cut = recorder.start_episode(2)
        cut.log_timestep(0, reward=1.0)
        cut.interrupt()
    assert missing(directory, range(5)) == [1, 2, 4]
    assert main(["missing", str(directory), "--expected", "0:4,9"]) == 0
    assert capsys.readouterr().out.split() == ["1", "2", "9"]


def test_a_published_shard_is_not_touched_by_its_own_leftovers(directory: Path) -> None:
    with Recorder(directory, RecorderConfig()) as recorder:
        episode = recorder.start_episode(0)
        episode.log_timestep(0, behavior={"x": 1.0})
        episode.end()
    paths = EpisodePaths(directory, 0)
    own = Identity.own()
    dead = Identity(own.host, own.boot_id, own.pid_namespace, own.pid, own.start_ticks - 1)
    start = {"episode": 0, "owner": dead.to_json()}
    Buffer.create(paths.buffer, start)
    before = paths.shard.read_bytes()
    [result] = recover(directory)
    assert result.status == "completed"
    assert exit_code([result]) == 0
    assert paths.shard.read_bytes() == before
    assert names(directory) == {"episode_0000.h5"}


def test_a_recovery_waits_for_another(directory: Path) -> None:
    record_and_die(directory, 250)
    script = (
        "import sys; from pathlib import Path; from shardwriter.recovery import recover; "
        "print(len(recover(Path(sys.argv[1]))))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, directory], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    found = sorted(int(process.communicate()[0]) for process in both)
    assert found == [0, 1]
    np.testing.assert_array_equal(recovered_x(directory), np.arange(250))


@pytest.mark.leaves_unfinished
def test_merge_and_loader_name_unfinished_episodes_and_the_command(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_and_die(directory, 5)
    told = f"unfinished: episode 0; wait for its end, or run `shardwriter recover {directory}`"
    with pytest.raises(ExperimentNotFound) as caught:
        ExperimentLoader(directory)
    assert f"{told}, and then `shardwriter merge {directory}`" in str(caught.value)
    assert main(["merge", str(directory)]) == 0
    output = capsys.readouterr()
    assert output.out.endswith(": 0 episodes\n")
    assert output.err == f"not merged, as {told}\n"
    assert main(["pack", str(directory), "-o", str(directory / "all.h5")]) == 0
    assert capsys.readouterr().err == f"not packed, as {told}\n"
    with pytest.warns(ShardWarning, match="it lacks what is unfinished: episode 0; .*recover"):
        loader = ExperimentLoader(directory)
    with loader, pytest.raises(EpisodeNotFound, match=r"it is unfinished: .*shardwriter recover"):
        loader.get_episode(0)


@pytest.mark.leaves_unfinished
def test_the_loader_tells_of_unfinished_episodes_beside_finished_ones(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_and_die(directory, 5)
    with Recorder(directory, RecorderConfig()) as recorder, recorder.start_episode(1) as episode:
        episode.log_timestep(0, behavior={"x": 1.0})
    master = merge_experiment(directory)
    with pytest.warns(ShardWarning, match="it lacks what is unfinished: episode 0; .*recover"):
        loader = ExperimentLoader(master)
    with loader:
        assert loader.list_episodes() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a terminal
        assert main(["plot", str(directory), "--episode=1", "-o", str(directory / "1.png")]) == 0
    assert capsys.readouterr().err == (
        f"shardwriter: {master}: it lacks what is unfinished: episode 0; "
        f"wait for its end, or run `shardwriter recover {directory}`\n"
    )


def test_merge_recovers_on_request(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_and_die(directory, 5)
    assert main(["merge", "--recover", str(directory)]) == 0
    assert "episode 0: recovered as interrupted" in capsys.readouterr().out
    with ExperimentLoader(directory) as loader:
        assert loader.get_episode(0).get_behavior()["x"].tolist() == [0, 1, 2, 3, 4]


# -- power --------------------------------------------------------------------------------


def as_if_rebooted(buffer: Path) -> None:
    """Let a buffer's owner be of another boot."""
    boot = Identity.own().boot_id
    other = f"{int(boot[0], 16) ^ 1:x}{boot[1:]}"
    buffer.write_bytes(_rewritten(buffer, boot.encode(), other.encode()))


@pytest.mark.leaves_unfinished
def test_after_a_reboot_only_rows_with_a_checksum_count(directory: Path) -> None:
    record_and_die(directory, 250)
    as_if_rebooted(EpisodePaths(directory, 0).buffer)
    [result] = recover(directory)
    assert exit_code([result]) == 3
    assert result.rows["behavior"] == 200
    assert result.lost == {"behavior": 50, "rewards": 50}
    np.testing.assert_array_equal(recovered_x(directory), np.arange(200))


@pytest.mark.leaves_unfinished
def test_rows_that_were_synced_survive_a_reboot(directory: Path) -> None:
    flush = "recorder.flush(); episode.log_timestep(250, behavior={'x': 250.0}, reward=1.0)"
    record_and_die(directory, 250, options="durability='power'", after=flush)
    as_if_rebooted(EpisodePaths(directory, 0).buffer)
    [result] = recover(directory)
    assert result.rows == {"behavior": 250, "rewards": 250}
    assert result.lost == {"behavior": 1, "rewards": 1}
    np.testing.assert_array_equal(recovered_x(directory), np.arange(250))


@pytest.mark.leaves_unfinished
def test_rows_that_reached_the_disk_only_in_part_do_not_count(directory: Path) -> None:
    record_and_die(directory, 250, options="durability='power'", after="recorder.flush()")
    buffer = EpisodePaths(directory, 0).buffer
    rest = np.arange(200, 250, dtype=np.float64).tobytes()
    flip(buffer, buffer.read_bytes().index(rest) + 8)
    as_if_rebooted(buffer)
    [result] = recover(directory)
    assert result.rows == {"behavior": 200, "rewards": 250}
    np.testing.assert_array_equal(recovered_x(directory), np.arange(200))


def test_durability_is_one_of_two_and_power_keeps_buffers_beside_the_shards(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="'process' or 'power'"):
        RecorderConfig(durability="always")
    with pytest.raises(ConfigError, match="beside the shards"):
        RecorderConfig(durability="power", buffer_dir=tmp_path)
