"""The chunks of datasets with very many are where HDF5 says."""

from pathlib import Path

import h5py
import pytest

from shardwriter.files.chunk_index import StoredChunk, chunks_of, most_chunks
from shardwriter.files.stored_objects import stored_dataset
from shardwriter.files.structure import Structure, Unfamiliar, are_sound


def _write(path: Path, count: int, written: list[int], most: int | None) -> None:
    with h5py.File(path, "w", libver=("v110", "v114")) as file:
        for name, options in (("plain", {}), ("gzip", {"compression": "gzip"})):
            dataset = file.create_dataset(
                name, (2 * count,), "i1", maxshape=(most,), chunks=(2,), **options
            )
            for i in written:
                dataset[2 * i : 2 * i + 2] = i % 100


def _found(structure: Structure, name: str, count: int) -> list[StoredChunk | None]:
    messages = structure.find(name)
    assert messages is not None
    return chunks_of(structure, stored_dataset(messages), count)


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (1024, range(1024)),
        (1025, [0, 1024]),
        (1500, range(1500)),
        (1500, range(0, 1500, 7)),
        (5000, range(0, 5000, 3)),
        (5000, [1023, 1024, 4999]),
        (5000, range(2048, 4096, 11)),
        (20_000, [5, 9000, 18_000]),
    ],
)
@pytest.mark.parametrize("grows", [False, True])
def test_chunks_are_where_hdf5_says(
    tmp_path: Path, count: int, written: list[int], grows: bool
) -> None:
    path = tmp_path / "chunks.h5"
    _write(path, count, list(written), None if grows else 2 * count)
    _check(path, count, list(written))


def test_an_index_of_data_blocks_in_pages_is_read(tmp_path: Path) -> None:
    path = tmp_path / "chunks.h5"
    count = 140_000  # data blocks have 2048 elements from 131,060 on
    written = [0, 131_059, 131_060, 132_083, 133_108, 133_200, 137_300, 139_000, 139_999]
    _write(path, count, written, None)
    _check(path, count, written)


def _check(path: Path, count: int, written: list[int]) -> None:
    with h5py.File(path) as file, Structure(path) as structure:
        for name in ("plain", "gzip"):
            found = _found(structure, name, count)
            assert [i for i in range(count) if found[i] is not None] == written
            for i in written:
                info = file[name].id.get_chunk_info_by_coord((2 * i,))
                assert found[i] == (info.byte_offset, info.size, info.filter_mask)
            messages = structure.find(name)
            assert messages is not None
            dataset = stored_dataset(messages)
            most_chunks(structure, dataset)
            assert most_chunks(structure, dataset) in (len(written), written[-1] + 1)
        assert are_sound([structure]) == [True]


@pytest.mark.parametrize("page", [0, 2])
def test_a_page_has_its_own_checksum(tmp_path: Path, page: int) -> None:
    path = tmp_path / "chunks.h5"
    _write(path, 2500, [3, 2400], 5000)
    data = bytearray(path.read_bytes())
    block = data.find(b"FADB")
    data[block + 14 + 1 + 4 + page * (1024 * 8 + 4) + 100] ^= 1
    path.write_bytes(data)
    with Structure(path) as structure:
        _found(structure, "plain", 2500)
        assert are_sound([structure]) == [False]


def test_a_page_that_was_never_written_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "chunks.h5"
    _write(path, 2500, [3, 2400], 5000)
    data = bytearray(path.read_bytes())
    block = data.find(b"FADB")
    assert data[block + 14] == 0b1010_0000
    start = block + 14 + 1 + 4 + 1024 * 8 + 4
    data[start : start + 1024 * 8] = bytes(1024 * 8)
    path.write_bytes(data)
    _check(path, 2500, [3, 2400])


def test_pages_of_another_size_are_unfamiliar(tmp_path: Path) -> None:
    path = tmp_path / "chunks.h5"
    _write(path, 100, [3], 200)
    data = bytearray(path.read_bytes())
    data[data.find(b"FAHD") + 7] = 64
    path.write_bytes(data)
    with Structure(path) as structure, pytest.raises(Unfamiliar):
        _found(structure, "plain", 100)
