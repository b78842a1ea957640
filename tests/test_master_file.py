"""A master's groups and datasets, written as bytes, are what HDF5 reads."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from merging import content, record, shard

from merge.master_file import MasterWriter, link_episodes, open_master
from merge.plan import plan
from shardwriter.files import symbol_table
from shardwriter.files.encoding import AttributeTooLarge, Encoder
from shardwriter.files.shard_description import describe
from shardwriter.files.structure import Structure, Unfamiliar


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("master"), [0])


@pytest.mark.parametrize("count", [0, 1, 8, 9, 300, 3000])
def test_hdf5_finds_every_episode(experiment: Path, count: int) -> None:
    (shown,) = describe(shard(experiment, 0))
    shards = [replace(shown, episode=i) for i in range(count)]
    path = experiment / f"of_{count}.h5"
    with open_master(str(path), "w") as file:
        MasterWriter(file).group(file.id, "episodes")
    done: list[int] = []
    link_episodes(path, plan(shards, ["shards/episode_0000.h5"] * count).episodes, {}, done.append)
    assert sum(done) == count
    with h5py.File(path) as file:
        assert list(file["episodes"]) == [f"episode_{i:04d}" for i in range(count)]
        with h5py.File(shown.path) as source:
            expected = content(source[shown.group])
        for i in {0, count // 2, count - 1} if count else ():
            assert content(file[f"episodes/episode_{i:04d}"]) == expected
        assert "episode_9999" not in file["episodes"]
    with Structure(path) as structure:
        place = structure.links(structure.messages(structure.root))[b"episodes"]
        assert len(structure.links(structure.messages(place))) == count


def test_a_master_can_be_changed_by_hdf5_afterwards(experiment: Path) -> None:
    path = experiment / "changed.h5"
    path.write_bytes((experiment / "experiment_data.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["episodes/note"] = np.arange(5)
        file["episodes/episode_0000"].attrs["seen"] = True
        file["episodes/episode_0000/behavior"].attrs.update({f"a{i}": i for i in range(20)})
        before = content(file["episodes"])
    with h5py.File(path) as file:
        assert content(file["episodes"]) == before


def test_another_group_is_no_symbol_table(experiment: Path) -> None:
    with Structure(shard(experiment, 0)) as structure, pytest.raises(Unfamiliar):
        symbol_table.members(structure.read, structure.root, structure.root)


def test_attributes_that_no_header_holds_are_refused() -> None:
    with pytest.raises(AttributeTooLarge):
        Encoder(0).group({}, {"large": np.zeros(10_000)})
