"""Logged values as arrays: dtypes kept, and what cannot be stored refused."""

from typing import Any

import numpy as np
import pytest

from shardwriter.recording.values import TEXT_BYTES, ValueProblem, as_array, as_timestep


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "bool"),
        (3, "int64"),
        (-(2**63), "int64"),
        (0.5, "float64"),
        (1j, "complex128"),
        ([1, 2], "int64"),
        ([[1.0], [2.0]], "float64"),
        ((True, False), "bool"),
        (np.float16(1), "float16"),
        (np.uint64(2**64 - 1), "uint64"),
        (np.int8(-1), "int8"),
        (np.arange(3, dtype=np.uint16), "uint16"),
        (np.arange(3, dtype=">f4"), "float32"),
        (np.array(2.5, np.float32), "float32"),
        (np.zeros((3, 0), np.complex64), "complex64"),
    ],
    ids=repr,
)
def test_values_keep_dtype_shape_and_content(value: Any, dtype: str) -> None:
    found = as_array(value)
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    assert found.shape == np.shape(value)
    np.testing.assert_array_equal(found, np.asarray(value))


def test_anything_with_an_array_interface_is_welcome() -> None:
    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return np.arange(4, dtype=np.float32)

    assert as_array(Foreign()).dtype == np.float32
    np.testing.assert_array_equal(as_array(Foreign()), np.arange(4))


@pytest.mark.parametrize("text", ["", "short", "ü — 零", "nul \0 inside", "x" * 1000])
def test_text_has_room_to_grow(text: str) -> None:
    found = as_array(text)
    assert found.shape == ()
    assert found.dtype.itemsize >= max(TEXT_BYTES, 2 * len(text.encode()))
    assert bytes(found[()]).decode() == text
    assert as_array(text.encode())[()] == found[()]
    assert as_array(np.str_(text))[()] == found[()]


def test_arrays_of_text_become_utf8() -> None:
    found = as_array([["a", "ü"], ["", "x" * 300]])
    assert found.shape == (2, 2)
    assert found.dtype.kind == "S"
    assert [text.decode() for text in found.reshape(-1)] == ["a", "ü", "", "x" * 300]
    assert as_array(np.array(["é"]))[0].decode() == "é"
    assert as_array([]).shape == (0,)


@pytest.mark.parametrize(
    "value",
    [
        None,
        pytest.param(object(), id="object"),
        {1, 2},
        [1, None],
        [[1, 2], [3]],
        [1, "a"],
        2**63,
        -(2**63) - 1,
        [2**64],
        pytest.param(np.array([object()]), id="array of object"),
        np.datetime64("2025-06-01"),
        np.zeros(2, [("a", "f4")]),
        "nul at the end\0",
        ["good", "nul at the end\0"],
        "\ud800",
        ["\udcff"],
        np.array(["\ud800"]),
        b"\xff\xfe",
        np.array([b"\xff"]),
    ],
    ids=lambda value: repr(value)[:30].encode("ascii", "backslashreplace").decode(),
)
def test_what_cannot_be_stored_is_refused(value: Any) -> None:
    with pytest.raises(ValueProblem) as caught:
        as_array(value)
    expected, got = caught.value.args
    assert expected
    assert got


@pytest.mark.parametrize("value", [0, -5, 10**9, np.int32(7), np.uint64(7), np.array(7)])
def test_a_timestep_is_any_integer(value: Any) -> None:
    found = as_timestep(value)
    assert type(found) is int
    assert found == value


@pytest.mark.parametrize("value", [1.0, "1", None, np.float64(2), [1], 2**63, -(2**63) - 1])
def test_a_timestep_is_nothing_else(value: Any) -> None:
    with pytest.raises(ValueProblem):
        as_timestep(value)
