"""Directories that somebody else made, brought to an end or watched: nothing outside is touched."""

import shutil
from pathlib import Path

import pytest
from merging import record, shard

from merge import merge_experiment
from shardwriter.errors import ShardOutside
from shardwriter.files.layout import buffer_name, scratch_name
from shardwriter.recovery import RecoveredEpisode, recover
from shardwriter.system.process import Identity
from shardwriter.watch import Watcher

pytestmark = pytest.mark.leaves_unfinished

DEAD = Identity.own().label.rpartition("-")[0] + "-1"  # a process that never was


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"), range(3))


@pytest.fixture
def experiment(recorded: Path, tmp_path: Path) -> Path:
    target = tmp_path / "mine" / recorded.name
    shutil.copytree(recorded, target)
    return target


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


def one(experiment: Path) -> RecoveredEpisode:
    (result,) = recover(experiment)
    return result


# -- links --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_published", [True, False])
def test_only_a_buffer_is_removed_by_its_link(
    experiment: Path, victim: Path, is_published: bool
) -> None:
    link = experiment / "shards" / "episode_0001.buffer"
    link.symlink_to(victim)
    if not is_published:
        shard(experiment, 1).unlink()
    result = one(experiment)
    assert result.outcome == "failed"
    assert str(victim) in result.reasons[0]
    assert victim.read_bytes() == b"precious"
    assert link.is_symlink()
    Watcher(experiment).snapshot()


def test_a_buffer_elsewhere_is_removed_but_not_what_a_link_there_names(
    experiment: Path, victim: Path, tmp_path: Path
) -> None:
    link = experiment / "shards" / "episode_0001.buffer"
    there = tmp_path / buffer_name(DEAD, "ff")
    there.write_bytes(b"")
    link.symlink_to(there)
    assert one(experiment).outcome == "recovered"
    assert not there.exists()
    there.symlink_to(victim)
    link.symlink_to(there)
    assert one(experiment).outcome == "failed"
    assert victim.exists()
    assert there.is_symlink()


def test_a_scratch_folder_that_is_a_link_is_left_alone(experiment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "episode_0001.buffer").write_bytes(b"precious")
    scratch = experiment / scratch_name(DEAD, "ff")
    scratch.symlink_to(other)
    (experiment / "shards" / "episode_0001.buffer").symlink_to(scratch / "episode_0001.buffer")
    assert one(experiment).outcome == "failed"
    assert (other / "episode_0001.buffer").read_bytes() == b"precious"


def test_a_folder_of_shards_that_is_a_link_is_refused(experiment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "episode_10007.buffer").write_bytes(b"precious")
    (experiment / "shards" / "07").symlink_to(other)
    for work in (recover, merge_experiment):
        with pytest.raises(ShardOutside, match=r"shards/07.*put the folder itself"):
            work(experiment)
    assert (other / "episode_10007.buffer").exists()


def test_shards_as_a_whole_may_be_a_link(experiment: Path, tmp_path: Path) -> None:
    (experiment / "shards").rename(tmp_path / "elsewhere")
    (experiment / "shards").symlink_to(tmp_path / "elsewhere")
    (experiment / "shards" / "episode_0001.buffer").write_bytes(b"")
    assert one(experiment).outcome == "recovered"
    merge_experiment(experiment)
