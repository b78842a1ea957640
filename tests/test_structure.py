"""Files read from their bytes say what HDF5 says of them, or are left to HDF5."""

import random
from pathlib import Path

import h5py
import pytest
from h5py import h5d, h5s, h5t
from merging import record, shard

from shardwriter import DataExporter
from shardwriter.errors import ShardDamaged
from shardwriter.files.chunk_index import chunks_of
from shardwriter.files.quick_description import describe_several
from shardwriter.files.shard_description import describe
from shardwriter.files.stored_objects import stored_dataset
from shardwriter.files.structure import Structure, Unfamiliar, are_sound


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("structure"), range(3))


def forbidden(path: Path) -> None:
    pytest.fail(f"HDF5 was asked about {path}")


def test_a_description_is_what_hdf5_says(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [shard(experiment, i) for i in range(3)]
    expected = [describe(path) for path in paths]
    monkeypatch.setattr("shardwriter.files.quick_description.describe", forbidden)
    assert repr(describe_several(paths)) == repr(expected)


def test_many_columns_and_attributes_lie_elsewhere_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        DataExporter("wide", tmp_path, chunk_size=1, progress=False) as exporter,  # through HDF5
        exporter.start_episode(0) as episode,
    ):
        episode.log_timestep(0, behavior={f"field {i}": i for i in range(30)})
    path = shard(exporter.output_dir, 0)
    expected = describe(path)
    assert len(expected[0].tables["behavior"].columns) == 31
    monkeypatch.setattr("shardwriter.files.quick_description.describe", forbidden)
    assert repr(describe_several([path])) == repr([expected])
    with h5py.File(exporter.output_dir / "experiment_data.h5") as master:
        assert list(master["episodes/episode_0000/behavior"]) == sorted(
            column.name for column in expected[0].tables["behavior"].columns
        )


def test_a_changed_header_is_never_believed(experiment: Path, tmp_path: Path) -> None:
    data = shard(experiment, 1).read_bytes()
    rng = random.Random(3)
    path = tmp_path / "episode_0001.h5"
    at = data.find(b"OHDR")
    while at >= 0:
        changed = bytearray(data)
        changed[at + rng.randrange(4, 40)] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        assert isinstance(describe_several([path])[0], ShardDamaged)
        at = data.find(b"OHDR", at + 4)


def test_other_files_are_left_to_hdf5(tmp_path: Path) -> None:
    old = tmp_path / "old.h5"
    with h5py.File(old, "w", libver="earliest") as file:
        file["x"] = 1
    with pytest.raises(Unfamiliar):
        Structure(old)
    with pytest.raises(OSError, match="No such file"):
        Structure(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(Unfamiliar):
        Structure(tmp_path / "text.h5")


@pytest.mark.parametrize("count", [1, 4, 5, 30, 400])
def test_chunks_are_where_hdf5_says(tmp_path: Path, count: int) -> None:
    path = tmp_path / "chunks.h5"
    written = [i for i in range(count) if i % 7 != 3]
    with h5py.File(path, "w", libver=("v110", "v114")) as file:
        for name, options in (("plain", {}), ("gzip", {"compression": "gzip"})):
            dataset = file.create_dataset(
                name, (10 * count, 2), "f4", maxshape=(None, 2), chunks=(10, 2), **options
            )
            for i in written:
                dataset[10 * i : 10 * i + 10] = i
    with h5py.File(path) as file, Structure(path) as structure:
        for name, address in structure.links(structure.messages(structure.root)).items():
            stored = stored_dataset(structure.messages(address))
            found = chunks_of(structure, stored, count)
            assert [i for i in range(count) if found[i] is not None] == written
            for i in written:
                info = file[name].id.get_chunk_info_by_coord((10 * i, 0))
                assert found[i] == (info.byte_offset, info.size, info.filter_mask)
        assert are_sound([structure]) == [True]


def test_a_float_that_numpy_only_has_in_a_larger_size_is_unfamiliar(tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w", libver="latest") as file:
        kind = h5t.IEEE_F64LE.copy()
        kind.set_ebias(1000)
        h5d.create(file.id, b"odd", kind, h5s.create(h5s.SCALAR))
    with Structure(path) as structure:
        found = structure.find("odd")
        assert found is not None
        with pytest.raises(Unfamiliar):
            stored_dataset(found)
