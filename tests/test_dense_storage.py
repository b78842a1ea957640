"""Many attributes and links of one object are read from heaps and trees of any size."""

import struct
from pathlib import Path

import h5py
import pytest

from shardwriter.files.structure import Structure, Unfamiliar, are_sound


def _of_many(path: Path, count: int) -> Path:
    """Write a group of so many links, with as many attributes."""
    with h5py.File(path, "w", libver=("v110", "v114")) as file:
        group = file.create_group("many")
        target = file.create_group("target")
        for i in range(count):
            group.attrs[f"value {i}"] = i
            group[f"link {i}"] = target
    return path


def _depth(path: Path, kind: int) -> int:
    data = path.read_bytes()
    return data[data.find(b"BTHD\0" + bytes([kind])) + 12]


@pytest.mark.parametrize(
    ("count", "depths"), [(9, (0, 0)), (100, (1, 1)), (1000, (2, 2)), (30_000, (3, 3))]
)
def test_all_that_hdf5_wrote_is_found(tmp_path: Path, count: int, depths: tuple[int, int]) -> None:
    path = _of_many(tmp_path / "many.h5", count)
    assert (_depth(path, 8), _depth(path, 5)) == depths
    with Structure(path) as structure:
        found = structure.find("many")
        assert found is not None
        assert structure.attributes(found) == {f"value {i}": i for i in range(count)}
        links = structure.links(found)
        assert list(links) == sorted(f"link {i}".encode() for i in range(count))
        assert set(links.values()) == {structure.place("target")}
        assert are_sound([structure]) == [True]


def test_all_that_hdf5_left_is_found(tmp_path: Path) -> None:
    path = _of_many(tmp_path / "many.h5", 1200)
    with h5py.File(path, "r+", libver=("v110", "v114")) as file:
        for i in range(0, 1200, 3):
            del file["many"].attrs[f"value {i}"]
            del file[f"many/link {i}"]
        left = list(file["many"].attrs), list(file["many"])
    with Structure(path) as structure:
        found = structure.find("many")
        assert found is not None
        assert list(structure.attributes(found)) == sorted(left[0])
        assert list(structure.links(found)) == sorted(name.encode() for name in left[1])
        assert are_sound([structure]) == [True]


@pytest.mark.parametrize(
    ("what", "width"), [("depth", 2), ("total", 8), ("root", 8), ("child", 8), ("below", 2)]
)
def test_a_tree_that_does_not_agree_with_itself_is_unfamiliar(
    tmp_path: Path, what: str, width: int
) -> None:
    path = _of_many(tmp_path / "many.h5", 1000)
    data = bytearray(path.read_bytes())
    head = data.find(b"BTHD\0\x05")
    root, count = struct.unpack_from("<QH", data, head + 16)
    first = root + 6 + 11 * count  # address, records, and records with all below of a child
    second = int.from_bytes(data[first + 11 : first + 19], "little")
    places = {
        "depth": (head + 12, 9),
        "total": (head + 26, 1001),
        "root": (head + 16, second),
        "child": (first, second),
        "below": (first + 9, 1),
    }
    place, value = places[what]
    data[place : place + width] = value.to_bytes(width, "little")
    path.write_bytes(data)
    with Structure(path) as structure:
        found = structure.find("many")
        assert found is not None
        with pytest.raises(Unfamiliar):
            structure.links(found)


def test_messages_that_are_in_the_same_place_are_unfamiliar(tmp_path: Path) -> None:
    path = _of_many(tmp_path / "many.h5", 20)
    data = bytearray(path.read_bytes())
    leaf = data.find(b"BTLF\0\x08") + 6
    data[leaf : leaf + 8] = data[leaf + 17 : leaf + 25]
    path.write_bytes(data)
    with Structure(path) as structure:
        found = structure.find("many")
        assert found is not None
        with pytest.raises(Unfamiliar):
            structure.attributes(found)
