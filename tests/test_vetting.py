"""HDF5 sees, in the reader's process, only what is known not to harm it."""

import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
import pytest
from merging import record_long, shard
from mutating import hostile_mutations, repaired, spans

from merge import merge_experiment, merge_experiments, pack
from merge.options import MergeOptions
from shardwriter import ExperimentLoader
from shardwriter.errors import ShardDamaged
from shardwriter.files import stored_episode, trial, vetting
from shardwriter.files.chunk_index import chunks_of
from shardwriter.files.layout import MASTER
from shardwriter.files.links import check_path
from shardwriter.files.lookup3 import lookup3
from shardwriter.files.stored_episode import is_known
from shardwriter.files.stored_objects import stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar
from shardwriter.files.vetting import Vetter, _Walk, vet, vetted

EPISODES = 2  # of the experiment that each test has a copy of
GROUP = "episodes/episode_0001"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_long(tmp_path_factory.mktemp("long"))


@pytest.fixture
def here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where another process would have to try."""

    def refuse(target: str) -> NoReturn:
        pytest.fail(f"a process was started for {target}")

    monkeypatch.setattr(trial, "Child", refuse)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is tried in other processes from now on; nothing was before."""
    tried: list[str] = []

    def counted(path: Path, place: str) -> str:
        tried.append(place)
        return real(path, place)

    real = trial.outcome
    monkeypatch.setattr(vetting, "outcome", counted)
    monkeypatch.setattr(vetting, "_outcomes", {})
    return tried


def own_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*.h5") if path.name[0] != "."]


@pytest.mark.usefixtures("both_ways", "here_alone")
def test_every_file_of_this_package_is_known(experiment: Path, long: Path, tmp_path: Path) -> None:
    pack(experiment, tmp_path / "packed.h5")
    pack(long, tmp_path / "long.h5")
    files = [*own_files(experiment), *own_files(long), *tmp_path.glob("*.h5")]
    assert len(files) > 12
    for path in files:
        vet(path, "")


@pytest.mark.usefixtures("here_alone")
@pytest.mark.parametrize("compression", [None, "lzf"])
def test_every_compression_of_hdf5_is_known(tmp_path: Path, compression: str | None) -> None:
    vet(shard(record_long(tmp_path, compression=compression), 1), "")


def is_vetted_here(path: Path, place: str) -> bool:
    """Tell whether an object is known, so that no child process is asked."""
    with suppress(ShardDamaged):
        return Vetter(path)._is_known(place)
    return False


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("kind", ["short", "long"])
def test_hdf5_survives_what_is_known(experiment: Path, long: Path, kind: str) -> None:
    """Fields are changed and checksums made to fit; what is still known is read by HDF5."""
    path = shard(experiment if kind == "short" else long, 1)
    changed = path.with_name("changed.h5")
    outcomes = []
    for data in hostile_mutations(path, random.Random(5), 100):
        changed.write_bytes(data)
        if not is_vetted_here(changed, GROUP):
            outcomes.append("not known")
        elif outcomes.count("") < 12:
            outcomes.append(trial.outcome(changed, GROUP))
    changed.unlink()
    assert set(outcomes) == {"", "not known"}


@pytest.mark.skipif(stored_episode.compiled is None, reason="built without a compiler")
def test_compiled_code_knows_no_more_than_python(experiment: Path, tmp_path: Path) -> None:
    path = shutil.copy(shard(experiment, 1), tmp_path / "x.h5")
    known = 0
    for data in hostile_mutations(path, random.Random(6), 200):
        path.write_bytes(data)
        with suppress(*UNCERTAIN), Structure(path) as structure:
            place = structure.place(GROUP)
            if place is not None and is_known(structure, place):
                known += 1
                slowly = _Walk(structure, {})
                try:
                    slowly._below(place, 0)
                except UNCERTAIN as error:
                    pytest.fail(f"compiled code knows what Python does not: {error!r}")
    assert known


def endless(path: Path) -> None:
    """Say that a column has 2**40 chunks, under a checksum that fits: HDF5 looks for them all."""
    data = bytearray(path.read_bytes())
    blocks = spans(path)
    index = data.index(b"EAHD")
    data[index + 44 : index + 52] = (2**40).to_bytes(8, "little")
    path.write_bytes(repaired(data, blocks))


def test_a_shard_that_keeps_hdf5_busy_is_named(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: list[str]
) -> None:
    directory = tmp_path / "long"
    shutil.copytree(long, directory)
    endless(shard(directory, 1))
    monkeypatch.setattr(trial, "_LIMIT_S", 2.0)
    with ExperimentLoader(directory) as loader:
        for _ in range(2):
            with pytest.raises(ShardDamaged, match=r"episode_0001.h5.*for more than 2 s; put"):
                loader.get_episode(1).get_rewards()
    assert trials == [GROUP]


def test_a_shard_with_no_end_of_attributes_is_named(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is not there takes HDF5 its time, so that there are signs of life all along."""
    path = shutil.copy(shard(long, 1), tmp_path / "x.h5")
    data = bytearray(path.read_bytes())
    blocks = spans(path)
    tree = data.index(b"BTHD\x00\x08")  # of attributes
    data[tree + 26 : tree + 34] = (2**24).to_bytes(8, "little")
    path.write_bytes(repaired(data, blocks))
    monkeypatch.setattr(trial, "_LIMIT_S", 3.0)
    assert "more than 3 s" in trial.outcome(path, "")
    with pytest.raises(ShardDamaged, match="another number of them than it says, under checksums"):
        vet(path, "")


def test_what_is_not_known_is_tried_once(experiment: Path, trials: list[str]) -> None:
    path = shard(experiment, 1)
    add_unknown(path)
    merge_experiment(experiment)
    assert trials == []
    for _ in range(2):
        with ExperimentLoader(experiment) as loader:
            assert loader.get_episode(1).get_static_data("other")[3] == 3 + 2j
            loader.get_episode(0).get_behavior()
    assert trials == [GROUP]


def test_a_file_that_hdf5_cannot_close_is_refused(long: Path, tmp_path: Path) -> None:
    """It would stay open, and be in the way, until the process ends."""
    path = shutil.copy(shard(long, 1), tmp_path / "x.h5")
    data = bytearray(path.read_bytes())
    blocks = spans(path)
    heap = data.index(b"FRHP")
    assert data[heap + 22 : heap + 30] == b"\xff" * 8  # there is no tree of its large objects
    data[heap + 25] = 1
    path.write_bytes(repaired(data, blocks))
    with pytest.raises(ShardDamaged, match="HDF5 cannot close it"):
        vet(path, GROUP)


@pytest.mark.skipif(not trial._allocator_checks(), reason="glibc comes without its checks")
def test_a_file_that_damages_the_heap_is_refused(long: Path, tmp_path: Path) -> None:
    """What reads it goes on; what is closed next, or much later, ends the process."""
    path = shutil.copy(shard(long, 1), tmp_path / "x.h5")
    data = bytearray(path.read_bytes())
    blocks = spans(path)
    tree = data.index(b"BTHD\x00\x08")  # of attributes
    records, total = struct.unpack_from("<HQ", data, tree + 24)
    assert records == total > 8
    data[tree + 26] -= 7  # HDF5 makes room for so many, and puts all there
    path.write_bytes(repaired(data, blocks))
    assert "crashes the HDF5 library" in trial.outcome(path, "")
    with pytest.raises(ShardDamaged, match="another number of them than it says, under checksums"):
        vet(path, "")


def test_a_master_that_crashes_hdf5_is_named(experiment: Path, trials: list[str]) -> None:
    """Only what is read of a master has to be known, and that is vetted when it is."""
    path = experiment / MASTER
    with Structure(path) as structure:
        place = structure.place("config") or 0
    data = bytearray(path.read_bytes())
    assert data[place : place + 4] == b"OHDR"
    data[place + 4] = 9  # a version of object headers that nobody knows
    path.write_bytes(repaired(data, spans(path)))
    with ExperimentLoader(experiment) as loader:
        assert len(loader.get_episode(1).get_rewards()["timesteps"])
        assert trials == []
        with pytest.raises(ShardDamaged):
            loader.get_config()
    assert trials == ["config"]


def test_concatenated_datasets_are_tried(experiment: Path, trials: list[str]) -> None:
    merge_experiments([experiment], None, MergeOptions(concat=True))
    vet(experiment / MASTER, "concatenated")
    assert trials == ["concatenated"]


def test_many_values_are_found_in_two_levels_of_a_tree(long: Path) -> None:
    with Structure(shard(long, 1)) as structure:
        found = structure.place(f"{GROUP}/maze/deep")
        assert found is not None
        names = structure.links(structure.messages(found))
        assert sorted(names) == sorted(b"key %d" % i for i in range(130))
        column = structure.find(f"{GROUP}/rewards/values")
        assert column is not None
        dataset = stored_dataset(column)
        assert None not in chunks_of(structure, dataset, -(-dataset.shape[0] // dataset.chunk[0]))
    with ExperimentLoader(long) as loader:
        assert loader.get_episode(1).get_static_data("maze")["deep"]["key 129"] == 129


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    ("found", "at", "value"),
    [
        (b"\x05\x0e\x00\x01\x03\x2b\x08", 6, 1),  # a fill value of one byte, of eight
        (b"\x15\x12\x00", 0, 8),  # attribute info becomes a second layout; HDF5 takes the first
    ],
)
def test_fields_that_hdf5_trusts_are_looked_at(
    experiment: Path, found: bytes, at: int, value: int
) -> None:
    path = shard(experiment, 1)
    data = bytearray(path.read_bytes())
    blocks = spans(path)
    with Structure(path) as structure:
        start = structure.place(f"{GROUP}/behavior/timesteps") or 0
    data[data.index(found, start) + at] = value
    path.write_bytes(repaired(data, blocks))
    assert not is_vetted_here(path, GROUP)


@pytest.mark.usefixtures("both_ways")
def test_free_space_that_does_not_end_its_heap_is_not_known(experiment: Path) -> None:
    path = shard(experiment, 1)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL\x01")
    end = heap + int.from_bytes(data[heap + 8 : heap + 16], "little")
    at = heap + 16
    while data[at : at + 2] != b"\0\0":
        at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
    assert int.from_bytes(data[at + 8 : at + 16], "little") == end - at
    data[at + 8] ^= 8
    path.write_bytes(data)
    assert not is_vetted_here(path, GROUP)


def test_a_name_without_letters_is_never_looked_for(experiment: Path) -> None:
    """HDF5 takes a//b and a/./b for a/b, of which nothing would have been vetted."""
    path = shard(experiment, 1)
    with h5py.File(path) as file:
        for place in ("episodes//episode_0001", "episodes/./episode_0001"):
            with pytest.raises(ShardDamaged, match="expected an object"):
                check_path(path, file.id, place)


@pytest.mark.usefixtures("both_ways", "here_alone")
def test_what_h5py_adds_to_a_shard_is_known(experiment: Path) -> None:
    path = shard(experiment, 1)
    with h5py.File(path, "r+") as file:
        group = file[GROUP]
        group.attrs["reviewed"], group.attrs["by"], group.attrs["at"] = True, "Ada", np.arange(3.0)
    vet(path, GROUP)


def add_unknown(path: Path) -> None:
    """Add what HDF5 alone spells so, as another program may have."""
    with h5py.File(path, "r+", libver="latest") as file:
        file[GROUP].create_dataset("other", data=np.arange(5) + 2j)


def test_nobody_waits_for_a_file_that_is_tried(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_unknown(shard(experiment, 1))
    merge_experiment(experiment)
    is_tried, may_end = threading.Event(), threading.Event()

    def slow(path: Path, place: str) -> str:
        is_tried.set()
        assert may_end.wait(60)
        return ""

    monkeypatch.setattr(vetting, "outcome", slow)
    monkeypatch.setattr(vetting, "_outcomes", {})
    with ExperimentLoader(experiment) as loader, ThreadPoolExecutor(1) as pool:
        other = pool.submit(loader.get_episode(1).get_rewards)
        assert is_tried.wait(60)
        assert len(loader.get_episode(0).get_rewards()["values"])
        assert not other.done()
        may_end.set()
        assert len(other.result()["values"])


@pytest.mark.usefixtures("trials")
def test_a_trial_that_could_not_be_held_says_nothing_of_the_file(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(experiment, 1)
    add_unknown(path)
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        with pytest.raises(ShardDamaged, match="ended with exit code 1; try again"):
            vet(path, GROUP)
    vet(path, GROUP)


def test_a_trial_keeps_to_the_limits_of_its_user(experiment: Path) -> None:
    path = shard(experiment, 1)
    add_unknown(path)
    script = f"""if True:
        import resource
        from pathlib import Path
        from shardwriter.files.vetting import vet
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        vet(Path({str(path)!r}), {GROUP!r})
    """
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.usefixtures("here_alone")
def test_a_loader_reads_on_in_the_master_that_it_opened(experiment: Path) -> None:
    with ExperimentLoader(experiment) as loader:
        merge_experiments([experiment], None, MergeOptions(rebuild=True))
        assert loader.get_config()["rate"] == 0.5
        assert loader.get_network_structure()["neurons"]["ids"][3] == 3


def test_a_file_that_is_exchanged_after_its_trial_is_not_read(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = shard(experiment, 1), tmp_path / "other.h5"
    add_unknown(path)
    shutil.copy(path, other)

    def exchanging(tried: Path, place: str) -> str:
        other.replace(tried)
        return ""

    monkeypatch.setattr(vetting, "outcome", exchanging)
    with pytest.raises(ShardDamaged, match="it was replaced"), vetted(path, GROUP):
        pass


@pytest.mark.usefixtures("here_alone")
def test_a_known_file_that_is_exchanged_is_not_read(experiment: Path, tmp_path: Path) -> None:
    path = shard(experiment, 1)
    vetter = Vetter(path)
    vetter.check(GROUP)
    shutil.copy(path, tmp_path / "other.h5")
    (tmp_path / "other.h5").replace(path)
    with pytest.raises(ShardDamaged, match="it was replaced"), vetter.opened():
        pass


def test_a_file_is_tried_again_when_it_changed_and_says_that_it_did_not(
    experiment: Path, trials: list[str]
) -> None:
    path = shard(experiment, 1)
    add_unknown(path)
    before = path.stat()
    vet(path, GROUP)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    vet(path, GROUP)
    assert len(trials) == 2


def test_one_block_that_is_read_many_times_takes_little_memory(tmp_path: Path) -> None:
    """Thousands of links lead to one object with a large header."""

    def summed(block: bytes) -> bytes:
        return block + lookup3(block).to_bytes(4, "little")

    def message(kind: int, body: bytes) -> bytes:
        return struct.pack("<BHB", kind, len(body), 0) + body

    def header(messages: bytes) -> bytes:
        return summed(b"OHDR\2\2" + struct.pack("<I", len(messages)) + messages)

    group = message(2, b"\0\0" + b"\xff" * 16) + message(10, b"\0\0")
    large = header(group + message(0, bytes(65531)) * 13)
    links = [b"\1\0\5%05d" % i + struct.pack("<Q", 48) for i in range(100)]
    root = header(group + b"".join(message(6, link) for link in links))
    end = 48 + len(large) + len(root)
    head = b"\x89HDF\r\n\x1a\n\2\10\10\0" + bytes(8) + b"\xff" * 8
    path = tmp_path / "links.h5"
    path.write_bytes(summed(head + struct.pack("<QQ", end, 48 + len(large))) + large + root)
    with Structure(path) as structure:
        members = structure.links(structure.messages(structure.root))
        with pytest.raises(Unfamiliar):
            list(map(structure.messages, members.values()))
        assert sum(map(len, structure.checksummed)) < 10 * end


def test_who_reads_for_another_is_limited_and_then_no_more(experiment: Path) -> None:
    """A child whose parent was killed cannot run for ever."""
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU)
    before = [resource.getrlimit(kind) for kind in kinds]
    with trial.limited(shard(experiment, 1)):
        memory, seconds = (resource.getrlimit(kind)[0] for kind in kinds)
    assert 0 < memory <= 8 << 30
    assert 0 < seconds < time.process_time() + 130
    assert [resource.getrlimit(kind) for kind in kinds] == before
