"""Masters that were made to do harm: nothing outside the experiment is read or written."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile import SECRET, secret_file
from merging import shard
from mutating import repaired, spans

from merge import (
    MergeOptions,
    merge_experiment,
    merge_experiments,
    pack,
    pack_shards,
    unpack,
    verify,
)
from shardwriter import ExperimentLoader
from shardwriter.errors import (
    FormatError,
    ShardDamaged,
    ShardMissing,
    ShardOutside,
    ShardWriterError,
    TooLarge,
)
from shardwriter.files.layout import MASTER, temporary_path
from shardwriter.system.process import Identity
from shardwriter.watch import Watcher

EPISODES = 2  # of the experiment that each test has a copy of


def index_elsewhere(file: h5py.File, secret: Path) -> None:
    del file["episode_index"]
    file["episode_index"] = h5py.ExternalLink(os.fspath(secret), "/data")


def index_in_other_file(file: h5py.File, secret: Path) -> None:
    dtype = file["episode_index"].dtype
    del file["episode_index"]
    file.create_dataset("episode_index", (1,), dtype, external=[(os.fspath(secret), 0, 500)])


def no_index(file: h5py.File, secret: Path) -> None:
    del file["episode_index"]


def index_of_other_fields(file: h5py.File, secret: Path) -> None:
    del file["episode_index"]
    file["episode_index"] = np.arange(4)


def index_of_other_kinds(file: h5py.File, secret: Path) -> None:
    index = file["episode_index"][()]
    kinds = [(name, "<i8" if name == "shard" else index.dtype[name]) for name in index.dtype.names]
    del file["episode_index"]
    file["episode_index"] = np.zeros(len(index), kinds)


def absurd_index(file: h5py.File, secret: Path) -> None:
    file["episode_index"].resize(10**14, axis=0)


def next_format(file: h5py.File, secret: Path) -> None:
    file.attrs["format_version"] = "2.0"


def other_format(file: h5py.File, secret: Path) -> None:
    file.attrs["format"] = "another"


@pytest.mark.parametrize(
    "attack",
    [
        index_elsewhere,
        index_in_other_file,
        no_index,
        index_of_other_fields,
        index_of_other_kinds,
        absurd_index,
        next_format,
        other_format,
    ],
    ids=lambda one: one.__name__,
)
def test_a_hostile_master_is_refused(
    experiment: Path, attack: Callable[[h5py.File, Path], None]
) -> None:
    secret = secret_file(experiment.parent)
    before = secret.read_bytes()
    with h5py.File(experiment / MASTER, "r+") as file:
        attack(file, secret)
    with pytest.raises((FormatError, TooLarge)):
        ExperimentLoader(experiment)
    assert not verify(experiment, workers=1).is_sound
    with suppress(FormatError):
        merge_experiment(experiment)
        with ExperimentLoader(experiment) as loader:
            assert len(loader) == EPISODES
    assert secret.read_bytes() == before


def notes_elsewhere(file: h5py.File, secret: Path) -> None:
    del file["merge/schema_of"]
    file["merge/schema_of"] = h5py.ExternalLink(os.fspath(secret), "/data")


def notes_in_other_file(file: h5py.File, secret: Path) -> None:
    del file["merge/schema_of"]
    file.create_dataset("merge/schema_of", (1,), np.uint32, external=[(os.fspath(secret), 0, 4)])


def notes_of_other_kinds(file: h5py.File, secret: Path) -> None:
    del file["merge/schemas"]
    file["merge/schemas"] = '["[1]"]'


@pytest.mark.parametrize(
    "attack",
    [notes_elsewhere, notes_in_other_file, notes_of_other_kinds],
    ids=lambda one: one.__name__,
)
def test_what_a_hostile_master_notes_is_not_used(
    experiment: Path, attack: Callable[[h5py.File, Path], None]
) -> None:
    later = shard(experiment, 1).rename(experiment / "later.h5")
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    secret = secret_file(experiment.parent)
    before = secret.read_bytes()
    with h5py.File(experiment / MASTER, "r+") as file:
        attack(file, secret)
    later.rename(shard(experiment, 1))
    merge_experiment(experiment)
    assert verify(experiment, workers=1).is_sound
    assert secret.read_bytes() == before


def test_a_group_elsewhere_is_not_read(experiment: Path) -> None:
    secret = secret_file(experiment.parent)
    with h5py.File(experiment / MASTER, "r+") as file:
        for name in ("config", "checkpoints"):
            del file[name]
            file[name] = h5py.ExternalLink(os.fspath(secret), "/")
    with ExperimentLoader(experiment) as loader:
        for read in (loader.get_config, loader.list_checkpoints):
            with pytest.raises(ShardDamaged, match="expected an object, got a link"):
                read()
        assert loader.get_network_structure("neurons/ids/none") == {}


def unlimited(file: h5py.File, place: str, source: Path) -> None:
    """Add a virtual dataset whose source HDF5 opens as soon as its shape is asked for."""
    spaces = []
    for _ in range(2):
        space = h5py.h5s.create_simple((1,), (h5py.h5s.UNLIMITED,))
        space.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (1,), (1,))
        spaces.append(space)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(spaces[0], os.fsencode(source), b"/data", spaces[1])
    name = os.fsencode(place)
    shown = h5py.h5s.create_simple((0,), (h5py.h5s.UNLIMITED,))
    h5py.h5d.create(file.id, name, h5py.h5t.NATIVE_UINT8, shown, properties)


def test_a_virtual_dataset_without_a_size_is_not_opened(experiment: Path) -> None:
    pipe = experiment / "pipe.h5"
    os.mkfifo(pipe)  # whoever opens it waits for ever
    with h5py.File(experiment / MASTER, "r+") as file:
        unlimited(file, "checkpoints/best/x", pipe)
    with h5py.File(shard(experiment, 1), "r+") as file:
        unlimited(file, "episodes/episode_0001/behavior/x", pipe)
    with ExperimentLoader(experiment) as loader:
        with pytest.raises(ShardDamaged, match="a size of its own"):
            loader.get_checkpoint("best")
        assert len(loader.get_episode(0).get_behavior()["position"]) == 30
    assert Watcher(experiment).snapshot().finished == {"completed": 1, "unreadable": 1}


def test_a_pipe_is_no_file(experiment: Path) -> None:
    shard(experiment, 1).unlink()
    os.mkfifo(shard(experiment, 1))
    with pytest.raises(ShardDamaged, match="expected a regular file"):
        merge_experiment(experiment)
    assert Watcher(experiment).snapshot().finished == {"completed": 1, "unreadable": 1}


def test_a_link_among_an_experiment_s_own_files_is_not_followed(
    experiment: Path, tmp_path: Path
) -> None:
    secret = secret_file(tmp_path)
    for name in ("notes.txt", "zz.h5"):
        (experiment / "experiment" / name).symlink_to(secret)
        with pytest.raises(ShardOutside, match="put a copy"):
            pack_shards(experiment, tmp_path / "packed", 1)
    with pytest.raises(ShardOutside, match="put a copy"):
        merge_experiment(experiment)
    with pytest.raises(ShardOutside, match="put a copy"):
        pack(experiment, tmp_path / "packed.h5")


def test_a_link_of_a_temporary_name_is_not_followed(experiment: Path) -> None:
    secret = secret_file(experiment.parent)
    before = secret.read_bytes()
    temporary_path(experiment / MASTER, Identity.own().label).symlink_to(secret)
    merge_experiments([experiment], None, MergeOptions(rebuild=True))
    assert secret.read_bytes() == before
    assert verify(experiment, workers=1).is_sound


def test_a_name_that_is_a_path_leads_nowhere(experiment: Path, tmp_path: Path) -> None:
    packed = pack(experiment, tmp_path / "packed.h5")
    with h5py.File(packed, "r+", libver="v110") as file:
        file.create_group("xx_xx_victim/group")
    blocks = spans(packed)
    data = packed.read_bytes().replace(b"xx_xx_victim", b"../../victim")
    packed.write_bytes(repaired(bytearray(data), blocks))
    with pytest.raises(ShardDamaged, match="a name that is a path"):
        unpack(packed, tmp_path / "unpacked")
    assert not list(tmp_path.parent.glob("victim*"))


def test_texts_that_are_one_text_many_times_are_not_read(experiment: Path) -> None:
    path = experiment / "experiment" / "network_structure.h5"
    with h5py.File(path, "r+") as file:
        file["texts"] = np.array(["x" * 200_000, *["y"] * 999], object)
        at = file["texts"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[at : at + 16_000] = data[at : at + 16] * 1000
    path.write_bytes(data)
    with pytest.raises(ShardDamaged, match="texts of no more bytes than the file has"):
        merge_experiment(experiment)


def test_an_index_that_lies_about_a_shard_is_of_no_use(experiment: Path) -> None:
    with h5py.File(experiment / MASTER, "r+") as file:
        index = file["episode_index"][()]
        index["shard_episode_id"][0] = 77
        file["episode_index"][...] = index
    os.utime(shard(experiment, 1))  # more than a tenth is new, so that all is read again
    assert merge_experiments([experiment]).episodes == EPISODES
    assert verify(experiment, workers=1).is_sound


def test_data_in_the_place_of_groups(experiment: Path) -> None:
    with h5py.File(experiment / MASTER, "r+") as file:
        for name in ("checkpoints", "network_structure"):
            del file[name]
        for name in ("checkpoints", "network_structure", "code_snapshot"):
            file[name] = np.arange(3)
    with ExperimentLoader(experiment) as loader:
        for read in (
            loader.list_checkpoints,
            lambda: loader.get_checkpoint("best"),
            loader.get_network_structure,
            loader.get_code_snapshot,
        ):
            with pytest.raises(ShardDamaged, match="expected a group"):
                read()


def test_a_new_major_version_names_both(experiment: Path) -> None:
    with h5py.File(experiment / MASTER, "r+") as file:
        file.attrs["format_version"] = "2.0"
    with pytest.raises(FormatError, match=r"1\.x.*got shardwriter 2\.0"):
        ExperimentLoader(experiment)


@pytest.mark.parametrize("name", ["../outside.h5", "/etc/passwd", "shards/../../outside.h5"])
def test_a_master_reads_nothing_outside_its_root(experiment: Path, name: str) -> None:
    outside = experiment.parent / "outside.h5"
    outside.write_bytes(shard(experiment, 1).read_bytes())
    with h5py.File(experiment / MASTER, "r+") as file:
        index = file["episode_index"][()]
        index["shard"][1] = name.encode()
        file["episode_index"][...] = index
    with ExperimentLoader(experiment) as loader, pytest.raises(ShardWriterError, match="outside"):
        loader.get_episode(1).get_behavior()


def test_a_name_that_no_file_can_have_is_a_missing_shard(experiment: Path) -> None:
    with h5py.File(experiment / MASTER, "r+") as file:
        index = file["episode_index"][()]
        index["shard"][1] = b"shards\0pisode_0001.h5"
        file["episode_index"][...] = index
    with ExperimentLoader(experiment) as loader, pytest.raises(ShardMissing, match="episode 1"):
        loader.get_episode(1).get_behavior()
    assert "missing" in str(verify(experiment, workers=1))


def test_a_virtual_network_reads_nothing_outside(experiment: Path) -> None:
    secret = secret_file(experiment.parent)
    with h5py.File(experiment / MASTER, "r+") as file:
        layout = h5py.VirtualLayout((len(SECRET),), np.uint8)
        layout[...] = h5py.VirtualSource(f"../{secret.name}", "data", (len(SECRET),), np.uint8)
        del file["network_structure/neurons/ids"]
        file.create_virtual_dataset("network_structure/neurons/ids", layout)
    with ExperimentLoader(experiment) as loader, pytest.raises(ShardWriterError, match="outside"):
        loader.get_network_structure()


@pytest.mark.usefixtures("both_ways")
def test_a_heap_in_the_middle_of_a_master_is_refused(experiment: Path) -> None:
    master = experiment / MASTER
    data = bytearray(master.read_bytes())
    heap = data.index(b"GCOL\x01")
    data[heap + 6] = 0x5A  # a reserved byte, which HDF5 ignores
    data[heap + 16 : heap + 32] = bytes(16)
    far = 200 * 1024
    assert len(data) - heap > far  # neither of both ends
    master.write_bytes(data)
    with pytest.raises(FormatError, match="global heap"):
        ExperimentLoader(experiment)
    report = merge_experiment(experiment)  # the old master is of no use, and in nobody's way
    with ExperimentLoader(report) as loader:
        assert len(loader) == 2
