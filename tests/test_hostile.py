"""Files as hostile input: a typed error each, no crash, nothing read from elsewhere."""

import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile import adopt, secret_file
from merging import shard
from mutating import hostile_mutations, mutations

from merge import merge_experiment, pack, verify
from merge.describing import in_children
from shardwriter import ExperimentLoader
from shardwriter.errors import ShardDamaged, TooLarge
from shardwriter.files.layout import MASTER
from shardwriter.files.lookup3 import lookup3
from shardwriter.files.shard_description import describe
from shardwriter.files.structure import Structure
from shardwriter.files.untrusted import check_memory
from shardwriter.plot.recording import _chosen

TABLE = "episodes/episode_0001/behavior"
EPISODES = 2  # of the experiment that each test has a copy of


def external_storage(file: h5py.File, secret: Path) -> None:
    rows = len(file[TABLE]["timesteps"])
    del file[TABLE]["position"]
    file.create_dataset(
        f"{TABLE}/position", (rows,), np.uint8, external=[(os.fspath(secret), 0, rows)]
    )


def static_external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset(
        "episodes/episode_0001/notes/x", (16,), np.uint8, external=[(os.fspath(secret), 0, 16)]
    )


def soft_link(file: h5py.File, secret: Path) -> None:
    file[TABLE]["other"] = h5py.SoftLink("/episodes/episode_0001/rewards/values")


def external_link(file: h5py.File, secret: Path) -> None:
    del file[TABLE]["position"]
    file[TABLE]["position"] = h5py.ExternalLink(os.fspath(secret), "/data")


def external_table(file: h5py.File, secret: Path) -> None:
    del file[TABLE]
    file[TABLE] = h5py.ExternalLink(os.fspath(secret), "/")


def external_events(file: h5py.File, secret: Path) -> None:
    del file["episodes/episode_0001/events"]
    file["episodes/episode_0001/events"] = h5py.ExternalLink(os.fspath(secret), "/")


def virtual(file: h5py.File, secret: Path) -> None:
    shape = file[TABLE]["position"].shape
    del file[TABLE]["position"]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource("../../secret.h5", "data", shape, np.float32)
    file.create_virtual_dataset(f"{TABLE}/position", layout)


def virtual_cycle(file: h5py.File, secret: Path) -> None:
    shape = file[TABLE]["position"].shape
    del file[TABLE]["position"]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(".", f"{TABLE}/position", shape, np.float32)
    file.create_virtual_dataset(f"{TABLE}/position", layout)


def group_cycle(file: h5py.File, secret: Path) -> None:
    group = file.create_group("episodes/episode_0001/notes")
    group["again"] = group


def absurd_rows(file: h5py.File, secret: Path) -> None:
    table = file[TABLE]
    for name, dataset in list(table.items()):
        row_shape, dtype = dataset.shape[1:], dataset.dtype
        del table[name]
        table.create_dataset(name, (10**15, *row_shape), dtype, chunks=(1000, *row_shape))


def absurd_chunks(file: h5py.File, secret: Path) -> None:
    rows = len(file[TABLE]["timesteps"])
    file.create_dataset(f"{TABLE}/x", (rows, 2**31), np.uint8, chunks=(1, 2**31))


def uneven_columns(file: h5py.File, secret: Path) -> None:
    file[TABLE]["position"].resize(5, axis=0)


def unknown_filter(file: h5py.File, secret: Path) -> None:
    rows = len(file[TABLE]["timesteps"])
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((rows,))
    properties.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((rows,))
    group = file[TABLE].id
    h5py.h5d.create(group, b"x", h5py.h5t.STD_I8LE, space, properties)


def checksummed(file: h5py.File, secret: Path) -> None:
    """Use a filter that crashes HDF5 on a chunk of less than four bytes."""
    rows = len(file[TABLE]["timesteps"])
    file.create_dataset(f"{TABLE}/x", (rows,), "f4", chunks=(rows,), fletcher32=True)


def named_type(file: h5py.File, secret: Path) -> None:
    file[TABLE]["kind"] = np.dtype(np.float32)


def references(file: h5py.File, secret: Path) -> None:
    rows = len(file[TABLE]["timesteps"])
    file.create_dataset(f"{TABLE}/x", (rows,), h5py.ref_dtype, chunks=(rows,))


def text_of_any_length(file: h5py.File, secret: Path) -> None:
    rows = len(file[TABLE]["timesteps"])
    file.create_dataset(f"{TABLE}/x", (rows,), h5py.string_dtype(), chunks=(rows,))


SHARD_ATTACKS: list[Callable[[h5py.File, Path], None]] = [
    external_storage,
    external_link,
    external_table,
    external_events,
    soft_link,
    virtual,
    virtual_cycle,
    absurd_rows,
    absurd_chunks,
    uneven_columns,
    unknown_filter,
    checksummed,
    named_type,
    references,
    text_of_any_length,
]


@pytest.mark.parametrize("attack", SHARD_ATTACKS, ids=lambda one: one.__name__)
def test_a_hostile_shard_is_refused(
    experiment: Path, attack: Callable[[h5py.File, Path], None]
) -> None:
    secret = secret_file(experiment.parent)
    with h5py.File(shard(experiment, 1), "r+") as file:
        attack(file, secret)
    before = (experiment / MASTER).read_bytes()
    with pytest.raises(ShardDamaged, match="episode_0001"):
        merge_experiment(experiment)
    assert (experiment / MASTER).read_bytes() == before
    adopt(experiment)
    with (
        ExperimentLoader(experiment) as loader,
        pytest.raises((ShardDamaged, TooLarge), match="episode_0001"),
    ):
        loader.get_episode(1).get_behavior()
    report = verify(experiment, deep=True, workers=1)
    assert any("episode_0001" in each.where for each in report.problems)


@pytest.mark.parametrize(
    "attack",
    [soft_link, external_link, external_table, external_events],
    ids=lambda one: one.__name__,
)
def test_no_link_is_followed(experiment: Path, attack: Callable[[h5py.File, Path], None]) -> None:
    with h5py.File(shard(experiment, 1), "r+") as file:
        attack(file, secret_file(experiment.parent))
    adopt(experiment)
    with ExperimentLoader(experiment) as loader:
        found = dict(loader.describe())
        assert isinstance(found[1], ShardDamaged)
        assert not isinstance(found[0], ShardDamaged)
        episode = loader.get_episode(1)
        for read in (episode.get_events, episode.get_rewards, lambda: _chosen(episode, None)):
            with pytest.raises(ShardDamaged, match="expected an object, got a link"):
                read()


@pytest.mark.parametrize(
    "attack", [static_external_storage, group_cycle], ids=lambda one: one.__name__
)
def test_hostile_static_data_are_refused(
    experiment: Path, attack: Callable[[h5py.File, Path], None]
) -> None:
    secret = secret_file(experiment.parent)
    with h5py.File(shard(experiment, 1), "r+") as file:
        attack(file, secret)
    with pytest.raises(ShardDamaged, match="notes"):
        merge_experiment(experiment)
    adopt(experiment)
    with ExperimentLoader(experiment) as loader, pytest.raises(ShardDamaged, match="notes"):
        loader.get_episode(1).get_static_data("notes")


def test_a_plugin_path_is_never_searched(experiment: Path) -> None:
    """With a filter that is not known, HDF5 would load any library in that path."""
    with h5py.File(shard(experiment, 1), "r+") as file:
        unknown_filter(file, experiment)
    adopt(experiment)
    plugins = experiment.parent / "plugins"
    plugins.mkdir()
    (plugins / "libevil.so").write_bytes(b"\x7fELF")
    script = (
        "import sys; from shardwriter import ExperimentLoader; "
        "ExperimentLoader(sys.argv[1]).get_episode(1).get_behavior()"
    )
    trace = experiment.parent / "trace"
    command = ["strace", "-f", "-e", "trace=openat", "-o", os.fspath(trace)]
    command += [sys.executable, "-c", script, os.fspath(experiment)]
    environment = {**os.environ, "HDF5_PLUGIN_PATH": os.fspath(plugins)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no strace here: the refusal itself is all that can be seen
        done = subprocess.run(
            command[6:], env=environment, capture_output=True, text=True, check=False
        )
    assert "expected a filter of this package, got number 31999" in done.stderr
    if trace.exists():
        assert "plugins" not in trace.read_text()


def test_a_bomb_does_not_take_all_memory(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="start="):
        check_memory(tmp_path, "behavior", 2**60)


# -- mutated files ----------------------------------------------------------------------------


def test_a_shard_that_crashes_hdf5_is_named(experiment: Path) -> None:
    """A chunk of no dimensions, under a checksum that fits: HDF5 2.0 divides by zero."""
    path = shard(experiment, 1)
    data = bytearray(path.read_bytes())
    with Structure(path) as structure:
        start = structure.place("episodes/episode_0001/weight_changes/timesteps")
    assert start is not None
    end = start + 10 + int.from_bytes(data[start + 6 : start + 10], "little")
    layout = data.index(b"\x04\x02\x02\x02\x01\x01", start, end)
    data[layout + 3] = 0
    data[end : end + 4] = lookup3(bytes(data[start:end])).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ShardDamaged, match=r"episode_0001.h5.*crashed the HDF5 library"):
        merge_experiment(experiment)
    with pytest.raises(ShardDamaged, match=r"episode_0001.h5.*crashed the HDF5 library"):
        pack(experiment, experiment / "packed.h5")
    assert "crashed the HDF5 library" in str(verify(experiment, deep=True).problems)
    with ExperimentLoader(experiment) as loader:
        with pytest.raises(ShardDamaged, match=r"episode_0001.h5.*crashes the HDF5 library.*; put"):
            loader.get_episode(1).get_behavior()
        assert len(loader.get_episode(0).get_behavior()["timesteps"])


def test_a_table_without_its_column_is_damaged(experiment: Path) -> None:
    with h5py.File(shard(experiment, 1), "r+") as file:
        file.move("episodes/episode_0001/spikes/neuron_ids", "episodes/episode_0001/spikes/others")
    merge_experiment(experiment)
    with (
        ExperimentLoader(experiment) as loader,
        pytest.raises(ShardDamaged, match="0001/spikes: expected a column neuron_ids, got none"),
    ):
        loader.get_episode(1).get_spikes()


def crash(path: Path) -> None:
    """Die as a process does that HDF5 takes down, for one file."""
    if path.name == "episode_0001.h5":
        os.abort()


def test_a_crash_is_the_file_s_not_ours(experiment: Path) -> None:
    paths = [shard(experiment, 0), shard(experiment, 1), shard(experiment, 0)]
    with warnings.catch_warnings():
        results = list(in_children("test_hostile:crash", paths, 2, lambda n: None))
    assert [type(result) for result in results] == [type(None), ShardDamaged, type(None)]
    assert "crashed the HDF5 library" in str(results[1])


def sleep(path: Path) -> None:
    """Hang as HDF5 does over some damaged files, for one file."""
    if path.name == "episode_0001.h5":
        time.sleep(1000)


def test_a_hang_is_the_file_s_not_ours(experiment: Path) -> None:
    paths = [shard(experiment, 0), shard(experiment, 1)]
    results = list(in_children("test_hostile:sleep", paths, 1, lambda n: None, limit_s=10.0))
    assert [type(result) for result in results] == [type(None), ShardDamaged]
    assert "took more than 10 s" in str(results[1])


@pytest.mark.usefixtures("both_ways")
def test_a_heap_that_hangs_hdf5_is_refused(experiment: Path) -> None:
    path = shard(experiment, 1)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ShardDamaged, match="global heap"):
        describe(path)
    with ExperimentLoader(experiment) as loader, pytest.raises(ShardDamaged, match="global heap"):
        loader.get_episode(1).get_behavior()


@pytest.mark.parametrize("target", ["shard", "master"])
def test_mutated_files_give_typed_errors(experiment: Path, target: str) -> None:
    """A short form of ``python tests/fuzz.py``, which mutates 10,000 files."""
    from fuzz import outcome

    path = shard(experiment, 1) if target == "shard" else experiment / MASTER
    whole = path.read_bytes()
    rng = random.Random(7)
    seen = set()
    changed = [*mutations(whole, rng, 20), *hostile_mutations(path, rng, 10)]
    for data in changed:
        path.write_bytes(data)
        seen.add(outcome(experiment))
    path.write_bytes(whole)
    assert outcome(experiment) == "read"
    assert len(seen) > 1


def test_a_described_file_is_left_closed(experiment: Path) -> None:
    os.truncate(shard(experiment, 1), 3000)
    with pytest.raises(ShardDamaged):
        describe(shard(experiment, 1))
    held = [
        os.readlink(link)
        for link in map(str, Path("/proc/self/fd").iterdir())
        if os.path.islink(link)
    ]
    assert os.fspath(shard(experiment, 1)) not in held
