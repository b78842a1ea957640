"""What users log, as arrays: lists, scalars, strings, NumPy and foreign arrays.

Invariant: values keep their dtype. Python's float becomes float64, int int64, bool bool, and
text fixed-length UTF-8.
"""

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from typing import Any, cast

import numpy as np

from shardwriter.files.schema import is_storable

__all__ = [
    "ValueProblem",
    "as_array",
    "as_timestep",
    "fetched",
    "flattened",
    "foreign_dtype",
    "rows_of",
]

TEXT_BYTES = 256
_FOREIGN_FLOATS = ("bfloat16", "float8_", "float6_", "float4_")


class ValueProblem(Exception):
    """A value that cannot be stored; ``args`` are expected and got."""


def as_array(value: object) -> np.ndarray[Any, Any]:
    """Return a logged value as an array of a storable dtype.

    Takes scalars, text, lists, NumPy arrays, and whatever has ``__array__`` or DLPack: JAX
    arrays, PyTorch tensors. Types that HDF5 lacks, such as bfloat16, become float32.

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
        array = np.asarray(_on_host(value))
    except (TypeError, ValueError, OverflowError) as error:
        if _is_traced(value):
            expected = "a value (inside jit, log through jax.experimental.io_callback)"
            raise ValueProblem(expected, "a traced one") from error
        raise ValueProblem("numbers in a regular shape", str(error)) from error
    if array.dtype.kind in "US":
        return _texts(value, array)
    if foreign_dtype(value) is not None:
        array = array.astype(np.float32)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not is_storable(array.dtype):
        raise ValueProblem("numbers, booleans or text", f"{type(value).__name__} of {array.dtype}")
    return array


def foreign_dtype(value: object) -> str | None:
    """Return the name of a value's dtype if it is a float that only machine learning knows."""
    name = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return name if name.startswith(_FOREIGN_FLOATS) else None


def _on_host(value: Any) -> Any:
    """Return a value that NumPy can read: detached, in main memory, of a dtype it knows."""
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu()
        return value.float() if foreign_dtype(value) else value
    if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return value


def fetched(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments with the JAX arrays in them on the host, by one transfer for all."""
    jax = sys.modules.get("jax")
    if jax is None or not any(_holds_jax(argument, jax) for argument in arguments):
        return arguments
    return cast(tuple[Any, ...], jax.device_get(arguments))


def _is_traced(value: object) -> bool:
    """Tell whether a value stands for those that JAX will compute once it has compiled."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def _holds_jax(value: Any, jax: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_jax(item, jax) for item in value.values())
    if isinstance(value, tuple):
        return any(_holds_jax(item, jax) for item in value)
    if isinstance(value, list):  # which may be long, and holds things of a kind
        return bool(value) and _holds_jax(value[0], jax)
    return isinstance(value, jax.Array)


def rows_of(value: Any, count: int) -> Sequence[Any]:
    """Return the `count` items along a value's first axis, each to be logged by itself.

    A tensor on a device comes to the host as one.

    Raises
    ------
    ValueProblem
        It has no such axis, or another number of items.
    """
    if hasattr(value, "detach") and foreign_dtype(value) is not None:
        value = value.detach().cpu()  # whose rows still know their dtype
    elif not isinstance(value, (np.ndarray, list, tuple, str, bytes)):
        value = np.asarray(_on_host(value))
    expected = f"a leading axis of {count}, one entry for each episode"
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0:
        raise ValueProblem(expected, f"one {type(value).__name__} {value!r}"[:100])
    if len(value) != count:
        shape = getattr(value, "shape", None)
        raise ValueProblem(expected, f"{len(value)}" if shape is None else f"shape {tuple(shape)}")
    return list(value)


def flattened(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return fields with nested ones under names joined by dots: ``{"layer.v": …}``.

    Dicts, named tuples and dataclasses nest. Where none does, `fields` itself comes back.
    """
    if not any(_children(value) is not None for value in fields.values()):
        return fields
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        children = _children(value)
        if children is None:
            flat[name] = value
        else:
            flat |= {f"{name}.{key}": item for key, item in flattened(children).items()}
    return flat


def _children(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return cast(Mapping[str, Any], value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclass_fields(value)}
    return None


def _text(value: str | bytes) -> np.ndarray[Any, Any]:
    data = _utf8(value)
    return np.array(data, f"S{max(TEXT_BYTES, 2 * len(data))}")


def _texts(value: object, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # From the list itself: NumPy has dropped NULs at the end, and made texts of numbers.
    items = np.array(value, object) if isinstance(value, (list, tuple)) else array.astype(object)
    encoded = [_utf8(item) for item in items.reshape(-1).tolist()]
    if array.dtype.kind == "S":
        return array
    width = max([TEXT_BYTES, *(len(data) for data in encoded)])
    return np.array(encoded, f"S{width}").reshape(array.shape)


def _utf8(value: object) -> bytes:
    if not isinstance(value, (str, bytes)):
        raise ValueProblem("either texts or numbers", f"{type(value).__name__} among texts")
    try:
        data = value.encode() if isinstance(value, str) else value
        data.decode()
    except UnicodeError as error:
        raise ValueProblem("text in UTF-8", repr(value)) from error
    if data.endswith(b"\0"):
        raise ValueProblem("text without NUL at its end", repr(value))
    return data


def as_timestep(value: Any) -> int:
    """Return a timestep as an int.

    Raises
    ------
    ValueProblem
        It is not an integer of at most 64 bits.
    """
    try:
        timestep = operator.index(value)
    except TypeError as error:
        raise ValueProblem("an int", f"{type(value).__name__} {value!r}") from error
    if not -(2**63) <= timestep < 2**63:
        raise ValueProblem("an integer of at most 64 bits", str(timestep))
    return timestep
