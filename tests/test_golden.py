"""Files of every version of the format stay readable, value by value."""

from pathlib import Path

import h5py
import pytest
from known_episode import (
    KnownEpisode,
    assert_same,
    assert_same_tree,
    tables_by_h5py,
    tables_by_loader,
)

from shardwriter import ExperimentLoader
from shardwriter.files.layout import FORMAT_VERSION

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name.removeprefix("format_") for path in GOLDEN.glob("format_*"))
KNOWN = KnownEpisode(3)


def test_the_present_version_is_among_them() -> None:
    assert FORMAT_VERSION in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_the_loader_reads_every_value(version: str) -> None:
    with ExperimentLoader(GOLDEN / f"format_{version}") as loader:
        metadata = loader.get_metadata()
        assert metadata["format_version"] == version
        assert (metadata["experiment_name"], metadata["animal"]) == ("golden", "mouse")
        config = {"learning_rate": 1e-3, "layers": [1, 2], "name": "grün"}
        assert loader.get_config() == config
        structure = loader.get_network_structure()
        assert structure["neurons"] == {"ids": list(range(12))}
        assert structure["connections"] == {"sources": [0, 1], "targets": [1, 2]}
        assert loader.list_episodes() == [3]
        found = tables_by_loader(loader, 3)
        del found["weight_changes/deltas"]
        assert_same(found, KNOWN.tables)
        episode = loader.get_episode(3)
        assert_same_tree(episode.get_static_data("maze"), KNOWN.static())
        assert_same_tree(episode.get_final_state(), KNOWN.static())
        details = episode.get_metadata()
        assert_same_tree(details["summary"], {"id": 3, "score": 0.5})
        assert (details["status"], details["success"]) == ("completed", False)
        assert (details["total_timesteps"], details["episode_id"]) == (60, 3)
        assert details["total_spikes"] == KNOWN.arrays["spikes"].sum()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["experiment_data.h5", "shards/episode_0003.h5"])
def test_plain_h5py_reads_every_value(version: str, name: str) -> None:
    path = GOLDEN / f"format_{version}" / name
    assert_same(tables_by_h5py(path, 3), KNOWN.tables)
    with h5py.File(path, "r") as file:
        assert file.attrs["format"] == "shardwriter"
        assert file.attrs["format_version"] == version
        group = file["episodes/episode_0003"]
        assert group.attrs["status"] == "completed"
        assert group["maze/walls"][()].tolist() == KNOWN.static()["walls"].tolist()
        assert group["maze/name"].asstr()[()] == KNOWN.static()["name"]
        assert group["summary/score"][()] == 0.5
