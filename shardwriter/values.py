"""What users log, as arrays: lists, scalars, strings, NumPy and foreign arrays.

Invariant: values keep their dtype. Python's float becomes float64, int int64, bool bool, and
text fixed-length UTF-8.
"""

import operator
from typing import Any

import numpy as np

from shardwriter.schema import is_storable

__all__ = ["ValueProblem", "as_array", "as_timestep"]

TEXT_BYTES = 256


class ValueProblem(Exception):
    """A value that cannot be stored; ``args`` are expected and got."""


def as_array(value: object) -> np.ndarray[Any, Any]:
    """Return a logged value as a C-contiguous array of a storable dtype.

    Raises
    ------
    ValueProblem
        It cannot be stored.
    """
    if isinstance(value, (str, bytes)):
        return _text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise ValueProblem("an integer of at most 64 bits", str(value))
        return np.asarray(value, np.int64)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueProblem("numbers in a regular shape", str(error)) from error
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8").astype(f"S{_text_bytes(array)}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not is_storable(array.dtype):
        raise ValueProblem("numbers, booleans or text", f"{type(value).__name__} of {array.dtype}")
    return array


def _text(value: str | bytes) -> np.ndarray[Any, Any]:
    data = value.encode() if isinstance(value, str) else value
    if data.endswith(b"\0"):
        raise ValueProblem("text without NUL at its end", repr(value))
    return np.array(data, f"S{max(TEXT_BYTES, 2 * len(data))}")


def _text_bytes(array: np.ndarray[Any, Any]) -> int:
    return max(TEXT_BYTES, array.dtype.itemsize)


def as_timestep(value: Any) -> int:
    """Return a timestep as an int.

    Raises
    ------
    ValueProblem
        It is not an integer of at most 64 bits.
    """
    try:
        timestep: int = operator.index(value)
    except TypeError as error:
        raise ValueProblem("an int", f"{type(value).__name__} {value!r}") from error
    if not -(2**63) <= timestep < 2**63:
        raise ValueProblem("an integer of at most 64 bits", str(timestep))
    return timestep
