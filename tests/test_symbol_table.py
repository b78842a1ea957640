"""What is read of a symbol table is what HDF5 finds in it; whatever HDF5 trusts is checked."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from merge.master_file import open_master
from shardwriter.files import symbol_table
from shardwriter.files.structure import Structure, Unfamiliar

_START = 64
_NAMES = [b"episode_%04d" % i for i in range(600)]


def _members(data: bytes, tree: int, heap: int) -> dict[bytes, int]:
    def read(offset: int, size: int) -> bytes:
        found = bytes(data[offset : offset + size])
        if len(found) != size:
            raise Unfamiliar
        return found

    return symbol_table.members(read, tree, heap)


class _Table:
    """A symbol table to be changed: words, by the places where they are."""

    def __init__(self) -> None:
        written, self.tree, self.heap = symbol_table.written(
            {name: 1000 + i for i, name in enumerate(_NAMES)}, _START
        )
        self.data = bytearray(bytes(_START) + written)
        self.leaf = self.data.find(b"SNOD")
        self.child = self.word(self.tree + 32)  # of the root, and a parent of leaves
        self.segment = self.heap + 32

    def word(self, place: int) -> int:
        return int.from_bytes(self.data[place : place + 8], "little")

    def put(self, place: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", self.data, place, *words)

    def free(self, *blocks: tuple[int, int], then: int = 1) -> None:
        """Move the names to where free blocks follow, each at an offset and of so many bytes."""
        size = self.word(self.heap + 8)
        names = self.data[self.segment : self.segment + size]
        new = len(self.data)
        self.data += names + bytes(64 + 16)
        starts = [size + offset for offset, _ in blocks]
        following = [*starts[1:], size + then if then != 1 else 1]
        for start, block, after in zip(starts, blocks, following, strict=True):
            self.put(new + start, after, block[1])
        self.put(self.heap + 8, size + 64, starts[0], new)


def test_what_was_written_is_read() -> None:
    table = _Table()
    assert _members(table.data, table.tree, table.heap) == {
        name: 1000 + i for i, name in enumerate(_NAMES)
    }
    table.free((32, 32), (0, 16))
    assert len(_members(table.data, table.tree, table.heap)) == len(_NAMES)


def _a_name_twice(table: _Table) -> None:
    table.put(table.leaf + 8, table.word(table.leaf + 48))


def _names_not_in_order(table: _Table) -> None:
    first, second = table.word(table.leaf + 8), table.word(table.leaf + 48)
    table.put(table.leaf + 8, second)
    table.put(table.leaf + 48, first)


def _leaves_not_in_order(table: _Table) -> None:
    first, second = table.word(table.child + 32), table.word(table.child + 48)
    table.put(table.child + 32, second)
    table.put(table.child + 48, first)


def _a_key_that_leads_elsewhere(table: _Table) -> None:
    table.put(table.tree + 40, table.word(table.leaf + 8))


def _a_name_behind_the_heap(table: _Table) -> None:
    table.put(table.leaf + 8, table.word(table.heap + 8))


def _a_key_behind_the_heap(table: _Table) -> None:
    table.put(table.child + 24, table.word(table.heap + 8))


def _a_name_without_an_end(table: _Table) -> None:
    table.put(table.heap + 8, 8 + 16 * len(_NAMES) - 4)


def _a_node_below_itself(table: _Table) -> None:
    table.put(table.child + 32, table.child)


def _a_level_left_out(table: _Table) -> None:
    table.data[table.tree + 5] = 2


def _a_tree_of_chunks(table: _Table) -> None:
    table.data[table.tree + 4] = 1


def _too_many_names_in_a_node(table: _Table) -> None:
    table.data[table.leaf + 6] = 9


def _no_name_in_a_node(table: _Table) -> None:
    table.data[table.leaf + 6] = 0


def _too_many_children(table: _Table) -> None:
    table.data[table.child + 6] = 33


def _a_soft_link(table: _Table) -> None:
    table.data[table.leaf + 24] = 2


def _a_free_block_that_follows_itself(table: _Table) -> None:
    table.free((0, 16), then=0)


def _free_blocks_in_a_circle(table: _Table) -> None:
    table.free((0, 16), (32, 16), then=0)


def _a_free_block_across_the_end(table: _Table) -> None:
    table.free((0, 72))


def _a_free_block_whose_head_is_across_the_end(table: _Table) -> None:
    table.free((0, 16), (56, 16))


def _a_free_block_behind_the_heap(table: _Table) -> None:
    table.put(table.heap + 16, 1 << 40)


@pytest.mark.parametrize(
    "change",
    [
        _a_name_twice,
        _names_not_in_order,
        _leaves_not_in_order,
        _a_key_that_leads_elsewhere,
        _a_name_behind_the_heap,
        _a_key_behind_the_heap,
        _a_name_without_an_end,
        _a_node_below_itself,
        _a_level_left_out,
        _a_tree_of_chunks,
        _too_many_names_in_a_node,
        _no_name_in_a_node,
        _too_many_children,
        _a_soft_link,
        _a_free_block_that_follows_itself,
        _free_blocks_in_a_circle,
        _a_free_block_across_the_end,
        _a_free_block_whose_head_is_across_the_end,
        _a_free_block_behind_the_heap,
    ],
)
def test_what_hdf5_would_trust_is_unfamiliar(change: Callable[[_Table], None]) -> None:
    table = _Table()
    change(table)
    with pytest.raises(Unfamiliar):
        _members(table.data, table.tree, table.heap)


def test_what_hdf5_changed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "changed.h5"
    with open_master(str(path), "w"):
        pass
    rng = random.Random(5)
    with h5py.File(path, "r+", libver="earliest") as file:
        file.create_group("old")
        file["data"] = 1
    for _ in range(8):
        with h5py.File(path, "r+") as file:
            group = file["old"]
            for name in rng.sample(sorted(group), len(group) // 2):
                del group[name]
            for i in rng.sample(range(10_000), 300):
                if f"{i} of them" not in group:
                    group[f"{i} of them"] = file["data"]
            expected = sorted(group)
        with Structure(path) as structure:
            place = structure.place("old")
            assert place is not None
            messages = structure.messages(place)
            assert [kind for kind, _ in messages] == [0x11]
            found = structure.links(messages)
            assert list(found) == [name.encode() for name in expected]
            assert set(found.values()) == {structure.place("data")}
