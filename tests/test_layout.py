"""Names on disk: what they are, and that nothing else is taken for them."""

from pathlib import Path

import pytest

from shardwriter.layout import (
    EpisodePaths,
    episode_group,
    listed_episodes,
    unfinished_episodes,
)


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
