"""Nested values as leaves, as bytes, and as HDF5 groups."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from known_episode import assert_same_tree

from shardwriter.files.column_reader import read_value
from shardwriter.files.groups import read_tree, write_tree
from shardwriter.files.tree import TreeError, build, flatten, pack, unpack

VALUES = [
    {},
    {"a": {}},
    {"a": 1, "b": {"c": [1.5, 2.5], "d": {"e": "text"}}},
    1,
    2**62,
    2**63,
    -3.25,
    float("inf"),
    1 + 2j,
    True,
    "",
    "grün — 零",
    b"",
    b"bytes\0with\0nul\0",
    None,
    [],
    (),
    [[]],
    [[], []],
    [1, 2, 3],
    (1, 2, 3),
    [1.0, float("-inf")],
    [True, False],
    ["a", "bc", ""],
    [[1, 2], [3, 4]],
    ((1, 2), (3, 4)),
    [(1, 2), (3, 4)],
    [["a", "b"], ["c", "d"]],
    [[1, 2], [3]],
    [1, "two", None, {"three": 3.0}, [4, (5,)]],
    [None, None],
    [{}, {"a": []}],
    [1, 2**63],
    [b"x", b"y"],
    list(range(12)),
    [[i] * (i % 3) for i in range(12)],
    np.arange(6).reshape(2, 3),
    np.zeros((0, 4), np.float32),
    np.arange(2000.0),
    np.array([True, False]),
    np.array([1 + 1j], np.complex64),
    np.float16(1.5),
    np.uint64(2**64 - 1),
    {"0": "a dict, not a list", "1": 1},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_bytes_give_back_the_value(value: Any) -> None:
    assert_same_tree(build(unpack(pack(flatten(value)))), value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_a_file_gives_back_the_value(value: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "tree.h5", "w") as file:
        write_tree(file, unpack(pack(flatten(value, "value"))))
    with h5py.File(tmp_path / "tree.h5", "r") as file:
        assert_same_tree(read_tree(file["value"], read_value), value)


def test_big_endian_arrays_keep_their_values() -> None:
    value = np.arange(5, dtype=">i4")
    found = build(unpack(pack(flatten(value))))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, value)


def test_arrays_of_any_layout_keep_their_values() -> None:
    value = np.arange(24.0).reshape(2, 3, 4)
    for view in (value.T, value[:, ::-1], np.asfortranarray(value), np.broadcast_to(1.0, (3, 2))):
        np.testing.assert_array_equal(build(unpack(pack(flatten(view)))), view)


def test_arrays_of_text_come_back_as_text() -> None:
    found = build(unpack(pack(flatten(np.array([["a", "bcd"], ["", "ü"]])))))
    assert found.tolist() == [["a", "bcd"], ["", "ü"]]


@pytest.mark.parametrize(
    ("value", "place", "got"),
    [
        (object(), "root", "object"),
        ({"a": {"b": {1, 2}}}, "root/a/b", "set"),
        ([1, lambda: 0], "root/1", "function"),
        ({"a": -(2**70)}, "root/a", "int"),
        ({"a": [1, 2**64]}, "root/a/1", "int"),
        (np.array([object()]), "root", "ndarray"),
        (np.datetime64("2025-06-01"), "root", "datetime64"),
        ({"a": {2: 1}}, "root/a", "int 2"),
        ({"": 1}, "root", "'', which is no name"),
        ({"a/b": 1}, "root", "'a/b', which has a slash or NUL in it"),
        ({"a\0": 1}, "root", "'a\\x00', which has a slash or NUL in it"),
        ({"..": 1}, "root", "'..', which is no name"),
        ({"\udcff": 1}, "root", "'\\udcff', which is no Unicode text"),
        ("nul \0 inside", "root", "'nul \\x00 inside'"),
        (["good", "nul at the end\0"], "root", "'nul at the end\\x00'"),
        ({"a": "\ud800"}, "root/a", "'\\ud800'"),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any, place: str, got: str) -> None:
    with pytest.raises(TreeError) as caught:
        flatten(value, "root")
    assert caught.value.args[0] == place
    assert caught.value.args[2] == got
    assert str(caught.value) == f"{place}: expected {caught.value.args[1]}, got {got}"
