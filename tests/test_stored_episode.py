"""Episodes copied, compared and outlined by compiled code, which answers as Python does."""

import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from merging import record, shard
from mutating import hostile_mutations, mutations, repaired, spans

from merge.comparing import _Comparison, _Place
from shardwriter.errors import ShardDamaged
from shardwriter.files import quick_description, stored_episode
from shardwriter.files.quick_description import describe_several
from shardwriter.files.shard_description import ShardDescription
from shardwriter.files.stored_episode import StoredEpisode, copied, is_same, outline
from shardwriter.files.structure import UNCERTAIN, Structure, are_sound

pytestmark = pytest.mark.skipif(
    stored_episode.compiled is None, reason="the package was built without a compiler"
)

EPISODES = 3  # of the experiment that each test has a copy of
GROUP = "episodes/episode_0001"


def stored(structure: Structure, address: int) -> StoredEpisode:
    return StoredEpisode(structure.fileno(), structure.size, address)


def copy_of(path: Path, target: Path) -> int:
    """Copy an episode as compiled code does, behind a shard's bytes; return its address or -1."""
    base = shutil.copyfile(path, target).stat().st_size
    with Structure(path, is_read_whole=False) as structure:
        place = structure.place(GROUP)
        data, (address,) = copied([stored(structure, place)], base) if place else (b"", [-1])
    with target.open("ab") as file:
        file.write(data)
    return address


def are_equal(path: Path, target: Path, address: int) -> tuple[bool, bool | None]:
    """Tell whether an episode and its copy are the same: as compiled code says, and as Python.

    None: Python does not know.
    """
    with Structure(path, is_read_whole=False) as one, Structure(target) as other:
        place = one.place(GROUP)
        assert place is not None
        quickly = is_same(stored(one, place), stored(other, address))
        try:
            _Comparison(target, _Place(path, GROUP, 0, 0, address), one, other).run()
        except ShardDamaged:
            return quickly, False
        except UNCERTAIN:
            return quickly, None
    return quickly, all(are_sound([one, other])) or None


def test_a_short_shard_is_copied_and_compared_in_full(experiment: Path, tmp_path: Path) -> None:
    address = copy_of(shard(experiment, 1), tmp_path / "copy")
    assert address > 0
    assert are_equal(shard(experiment, 1), tmp_path / "copy", address) == (True, True)


def flipped(data: bytes, spots: Iterator[int]) -> Iterator[tuple[int, bytes]]:
    for spot in spots:
        changed = bytearray(data)
        changed[spot] ^= 1 << spot % 8
        yield spot, bytes(changed)


def test_every_byte_of_a_copy_that_counts_is_compared(experiment: Path, tmp_path: Path) -> None:
    path, target = shard(experiment, 1), tmp_path / "copy"
    address = copy_of(path, target)
    whole = target.read_bytes()
    size = path.stat().st_size
    missed = []
    for spot, data in flipped(whole, iter(range(size, len(whole), 7))):
        target.write_bytes(data)
        quickly, slowly = are_equal(path, target, address)
        assert slowly or not quickly
        if quickly:
            missed.append(spot)
    heap = whole.index(b"GCOL\x01", size)
    assert all(spot > heap for spot in missed)  # padding, and what HDF5 does not look at


def described(path: Path) -> str:
    quick_description._tables.clear()
    [found] = describe_several([path])
    return _text(found) if isinstance(found, list) else f"{type(found).__name__}: {found}"


def _text(found: list[ShardDescription]) -> str:
    with np.printoptions(threshold=100_000):
        return repr([[each.attributes, each.tables, each.static] for each in found])


def test_what_is_answered_about_damaged_shards_is_right(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is made has the same content, and a description is that which Python reads."""
    path, target = shard(experiment, 1), tmp_path / "copy"
    outcomes = set()
    rng = random.Random(4)
    changed = [*hostile_mutations(path, rng, 150), *mutations(path.read_bytes(), rng, 15)]
    for data in changed:
        path.write_bytes(data)
        with suppress(*UNCERTAIN):
            address = copy_of(path, target)
            outcomes.add(address > 0)
            if address > 0:
                quickly, slowly = are_equal(path, target, address)
                assert quickly
                assert slowly is not False
        compiled = described(path)
        with monkeypatch.context() as pure:
            pure.setattr(stored_episode, "compiled", None)
            assert described(path) == compiled
    assert outcomes >= {True, False}


def test_equal_tables_have_one_outline(tmp_path: Path) -> None:
    directory = record(tmp_path, range(2))
    found = []
    for number in range(2):
        with Structure(shard(directory, number)) as structure:
            place = structure.place(f"episodes/episode_{number:04d}/behavior")
            assert place is not None
            found.append(outline(structure, place))
    one, other = found
    assert one is not None
    assert other is not None
    assert one[0] == other[0]
    assert (one[1], other[1]) == (30, 31)


def test_a_cycle_comes_to_an_end(experiment: Path, tmp_path: Path) -> None:
    path = shard(experiment, 1)
    data = bytearray(path.read_bytes())
    blocks = spans(path)
    with Structure(path) as structure:
        place = structure.place(GROUP) or 0
        below = structure.links(structure.messages(place))[b"behavior"]
    at = data.index(below.to_bytes(8, "little"), place)
    data[at : at + 8] = place.to_bytes(8, "little")
    path.write_bytes(repaired(data, blocks))
    assert copy_of(path, tmp_path / "copy") == -1
