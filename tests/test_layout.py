"""Names on disk: what they are, and that nothing else is taken for them."""

from pathlib import Path

import pytest

from merge.pack import pack, unpack
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.files.layout import (
    EpisodePaths,
    episode_group,
    listed_episodes,
    unfinished_episodes,
)
from shardwriter.recovery import missing


@pytest.mark.parametrize(
    ("episode", "group"),
    [
        (0, "episodes/episode_0000"),
        (9999, "episodes/episode_9999"),
        (10_000, "episodes/episode_10000"),
        (2**63 - 1, "episodes/episode_9223372036854775807"),
    ],
)
def test_an_episodes_group_has_four_digits_or_more(episode: int, group: str) -> None:
    assert episode_group(episode) == group


def test_an_episodes_files_lie_in_one_folder() -> None:
    paths = EpisodePaths(Path("/data/maze"), 3)
    shards = Path("/data/maze/shards")
    assert paths.shard == shards / "episode_0003.h5"
    assert paths.part == shards / "episode_0003.h5.part"
    assert paths.journal == shards / "episode_0003.h5.journal"
    assert paths.buffer == shards / "episode_0003.buffer"
    assert paths.temporary == shards / ".episode_0003.h5.tmp"


@pytest.mark.leaves_unfinished
def test_episodes_are_listed_in_order_of_id(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for episode in (10_000, 3, 200):
        EpisodePaths(tmp_path, episode).make_folder()
        EpisodePaths(tmp_path, episode).shard.touch()
    EpisodePaths(tmp_path, 7).part.touch()
    listed = listed_episodes(tmp_path)
    assert list(listed) == [3, 200, 10_000]
    assert listed[3] == tmp_path / "shards" / "episode_0003.h5"


@pytest.mark.parametrize(
    "name", ["episode_3.h5", "episode_0003.h5.bak", "xepisode_0003.h5", "episode_-001.h5"]
)
def test_other_files_are_not_taken_for_shards(tmp_path: Path, name: str) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / name).touch()
    assert listed_episodes(tmp_path) == {}
    assert unfinished_episodes(tmp_path) == []


@pytest.mark.leaves_unfinished
def test_an_episode_is_unfinished_while_it_has_a_buffer_part_or_journal(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    EpisodePaths(tmp_path, 5).buffer.touch()
    EpisodePaths(tmp_path, 4).part.touch()
    EpisodePaths(tmp_path, 12).journal.touch()
    EpisodePaths(tmp_path, 1).shard.touch()
    assert unfinished_episodes(tmp_path) == [4, 5, 12]


def test_a_directory_without_shards_has_no_episodes(tmp_path: Path) -> None:
    assert listed_episodes(tmp_path) == {}
    assert unfinished_episodes(tmp_path) == []


@pytest.mark.leaves_unfinished
def test_large_ids_lie_in_folders_of_their_last_digits(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    assert EpisodePaths(tmp_path, 9_999).shard == shards / "episode_9999.h5"
    for episode in (7, 10_007, 123_456, 2**63 - 1):
        paths = EpisodePaths(tmp_path, episode)
        paths.make_folder()
        paths.shard.touch()
        paths.buffer.touch()
        assert paths.part.parent == paths.shard.parent
        assert paths.attempts == shards / "attempts"
    assert EpisodePaths(tmp_path, 123_456).shard == shards / "56" / "episode_123456.h5"
    assert list(listed_episodes(tmp_path)) == [7, 10_007, 123_456, 2**63 - 1]
    assert unfinished_episodes(tmp_path) == [7, 10_007, 123_456, 2**63 - 1]
    (shards / "attempts").mkdir()
    (shards / "attempts" / "episode_20000.1.h5").touch()
    assert len(listed_episodes(tmp_path)) == 4


def test_an_experiment_of_large_ids_is_merged_read_and_packed(tmp_path: Path) -> None:
    ids = [3, 9_999, 10_000, 10_001, 654_321]
    with DataExporter("maze", tmp_path, chunk_size=10) as exporter:
        exporter.run_episodes(
            lambda episode: episode.log_timesteps(range(25), reward=[episode.id] * 25),
            ids,
            n_workers=1,
        )
        with exporter.start_episode() as following:
            following.log_timestep(0, reward=1.0)
    assert following.id == 654_322
    directory = exporter.output_dir
    assert (directory / "shards" / "21" / "episode_654321.h5").exists()
    assert missing(directory, [*ids, 10_002]) == [10_002]
    unpacked = unpack(pack(directory, tmp_path / "all.h5"), tmp_path / "again")
    moved = directory.rename(tmp_path / "moved")
    for place in (moved, unpacked, tmp_path / "all.h5"):
        with ExperimentLoader(place) as loader:
            assert loader.list_episodes() == [*ids, 654_322]
            assert loader.get_episode(654_321).get_rewards()["values"].tolist() == [654_321.0] * 25
