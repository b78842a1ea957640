"""Giving a master that was moved its shards back."""

import json
from pathlib import Path

import pytest
from merging import master_content, record, shards_content

from merge import (
    relink,
)
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.errors import (
    EpisodeNotFound,
    ShardMissing,
    ShardOutside,
    ShardsNotFound,
)

MASTER = "experiment_data.h5"

EPISODES = 5  # of the experiment that each test has a copy of


def test_a_master_is_relinked_to_its_own_shards(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    alone = folder / MASTER
    (experiment / MASTER).rename(alone)
    expected = shards_content(experiment)
    assert main(["relink", str(alone), "--shards", str(experiment)]) == 0
    assert f"root={tmp_path}" in capsys.readouterr().out
    with ExperimentLoader(alone) as loader, pytest.raises(ShardOutside, match="root="):
        loader.get_episode(0).get_behavior()
    with ExperimentLoader(alone, root=tmp_path) as loader:
        assert len(loader.get_episode(0).get_behavior()["position"]) == 30
        assert len(loader.get_network_structure()["connections"]["targets"]) == 20_000
    content = master_content(alone)
    assert {k: v for k, v in content.items() if k.startswith("episodes/")} == expected


def test_relinking_tells_what_is_new_and_nothing_else(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / MASTER
    (experiment / MASTER).rename(alone)
    command = ["relink", str(alone), "--shards", str(experiment), "--json"]
    for added in ([], [], [9]):
        if added:
            with DataExporter.resume(experiment, progress=False) as exporter:
                exporter.start_episode(9).end()
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["added"], found["changed"], found["removed"]) == (added, [], [])


def test_a_lost_shard_names_the_whole_command(experiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    experiment.rename(folder)
    (folder / "shards" / "episode_0001.h5").unlink()
    command = f"`shardwriter relink '{folder / MASTER}' --shards DIR`"
    with ExperimentLoader(folder) as loader, pytest.raises(ShardMissing) as caught:
        loader.get_episode(1).get_behavior()
    assert str(caught.value).endswith(command)
    (folder / "shards" / "episode_0002.h5").rename(folder / "shards" / "episode_0009.h5")
    merge = f"`shardwriter merge '{folder}'`"
    with ExperimentLoader(folder) as loader, pytest.raises(EpisodeNotFound, match=merge):
        loader.get_episode(9)


def test_a_master_is_not_relinked_to_other_shards(experiment: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "other", range(5))
    before = (experiment / MASTER).read_bytes()
    with pytest.raises(ShardsNotFound, match="episodes 0-4"):
        relink(experiment / MASTER, [other])
    assert (experiment / MASTER).read_bytes() == before
