"""Nested values (dicts, lists, arrays, strings, scalars) as a flat list of leaves.

The same leaves become bytes in a buffer and datasets in a shard. Invariant:
``build(unpack(pack(flatten(value))))`` equals ``value``, types included.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwriter.files.schema import is_utf8, name_problem

__all__ = ["KIND", "Leaf", "TreeError", "build", "flatten", "pack", "unpack"]

KIND = "kind"  # an attribute
_SCALARS: dict[str, type] = {"bool": bool, "int": int, "float": float, "complex": complex}
_ALIGNMENT = 64


class TreeError(ValueError):
    """A nested value holds something that cannot be stored.

    ``args`` are place, expected and got.
    """

    def __str__(self) -> str:
        place, expected, got = self.args
        return f"{place}: expected {expected}, got {got}"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array, or one empty container, at a path below the value's root.

    ``kind`` names the Python type to give back: ``array``, ``bool``, ``int``, ``float``,
    ``complex``, ``str``, ``bytes``, ``none``, ``list``, ``tuple``; ``dict``, ``list+`` and
    ``tuple+`` stand for containers whose items are leaves of their own. Strings are arrays of
    dtype object that hold ``str``.
    """

    path: str
    kind: str
    array: np.ndarray[Any, Any] | None = None

    def attributes(self) -> dict[str, str]:
        """Return what stands with the leaf in a file, where its dtype alone does not tell."""
        return {} if self.kind in ("dict", "array") else {KIND: self.kind}


def flatten(value: object, root: str = "") -> list[Leaf]:
    """Return the leaves of a nested value; containers come before what they hold.

    Their paths start with `root`.

    Raises
    ------
    TreeError
        A key is not a usable name, or a value is of a type that HDF5 cannot hold.
    """
    return list(_leaves(root, value))


def _leaves(path: str, value: object) -> Iterator[Leaf]:
    if isinstance(value, Mapping):
        yield Leaf(path, "dict")
        for key, item in value.items():
            problem = name_problem(key)
            if problem:
                raise TreeError(path, "names without slashes as keys", problem)
            yield from _leaves(f"{path}/{key}" if path else key, item)
        return
    array = _as_array(value)
    if array is not None:
        _check_text(path, array)
        yield Leaf(path, _kind(value), array)
        return
    if isinstance(value, (list, tuple)):
        yield Leaf(path, f"{type(value).__name__}+")
        for i, item in enumerate(value):
            yield from _leaves(f"{path}/{i}" if path else str(i), item)
        return
    storable = "numbers, strings, arrays, dicts, lists or None"
    raise TreeError(path, storable, type(value).__name__)


def _check_text(path: str, array: np.ndarray[Any, Any]) -> None:
    for text in array.reshape(-1) if array.dtype == object else ():
        if "\0" in text or not is_utf8(text):
            raise TreeError(path, "Unicode text without NUL", repr(text))


def _kind(value: object) -> str:
    if value is None:
        return "none"
    name = type(value).__name__
    plain = (bool, int, float, complex, str, bytes, list, tuple)
    return name if type(value) in plain else "array"


def _as_array(value: object) -> np.ndarray[Any, Any] | None:
    """Return a value as one array, or None where it takes several."""
    if value is None:
        return np.zeros(0, np.uint8)
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    if isinstance(value, str):
        return np.array(value, object)
    if isinstance(value, (list, tuple)) and not _is_uniform(value):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.dtype.kind == "U":
        return np.array(value, object)  # not by way of dtype U, which drops NULs at the end
    if array.dtype.kind not in "biufcS" or _has_lost_digits(value, array):
        return None
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(
        array.shape
    )


def _has_lost_digits(value: object, array: np.ndarray[Any, Any]) -> bool:
    """Tell whether NumPy made floats of a list of ints, as it does when no int dtype fits all."""
    if array.dtype.kind != "f" or not isinstance(value, (list, tuple)):
        return False
    first: object = value
    while isinstance(first, (list, tuple)):
        first = first[0]
    return isinstance(first, int)


def _is_uniform(items: Sequence[object]) -> bool:
    """Tell whether a list becomes one array and comes back as it was."""
    kinds = {type(item) for item in items}
    if len(kinds) != 1:
        return False
    kind = kinds.pop()
    if kind in (list, tuple):
        nested = [item for item in items if isinstance(item, (list, tuple))]
        return (
            kind is type(items)
            and len({len(item) for item in nested}) == 1
            and all(_is_uniform(item) for item in nested)
            and len({_innermost(item) for item in nested}) == 1
        )
    return kind in (bool, int, float, complex, str)


def _innermost(items: Sequence[Any]) -> object:
    first = items[0]
    return (len(items), _innermost(first)) if isinstance(first, (list, tuple)) else type(first)


def build(leaves: Sequence[Leaf]) -> Any:
    """Return the nested value whose leaves these are."""
    if not leaves:
        return {}
    built: dict[str, Any] = {}
    containers: list[tuple[str, str]] = []
    for leaf in leaves:
        item: Any = {} if leaf.array is None else _restored(leaf.kind, leaf.array)
        built[leaf.path] = item
        if leaf.array is None:
            containers.append((leaf.path, leaf.kind))
        parent, _, name = leaf.path.rpartition("/")
        if parent in built and leaf.path:
            built[parent][name] = item
    for path, kind in reversed(containers):
        if kind in ("list+", "tuple+"):
            items = [built[path][key] for key in sorted(built[path], key=int)]
            done = items if kind == "list+" else tuple(items)
            parent, _, name = path.rpartition("/")
            built[path] = done
            if parent in built and path:
                built[parent][name] = done
    return built[leaves[0].path]


def _restored(kind: str, array: np.ndarray[Any, Any]) -> Any:
    if kind in _SCALARS:
        return _SCALARS[kind](array[()])
    if kind == "str":
        return str(array[()])
    if kind == "bytes":
        return array.tobytes()
    if kind == "none":
        return None
    if kind == "list":
        return array.tolist()
    if kind == "tuple":
        return _tuples(array.tolist())
    return array[()] if array.ndim == 0 else array


def _tuples(items: Any) -> Any:
    return tuple(_tuples(item) for item in items) if isinstance(items, list) else items


def pack(leaves: Sequence[Leaf]) -> bytes:
    """Return leaves as bytes: a JSON directory, then the arrays' own bytes."""
    directory: list[list[object]] = []
    blocks: list[bytes] = []
    offset = 0
    for leaf in leaves:
        if leaf.array is None:
            directory.append([leaf.path, leaf.kind, None, None, None])
        elif leaf.array.dtype == object:
            directory.append([leaf.path, leaf.kind, "str", None, leaf.array.tolist()])
        else:
            block = leaf.array.tobytes()
            padding = -len(block) % _ALIGNMENT
            directory.append([leaf.path, leaf.kind, leaf.array.dtype.str, leaf.array.shape, offset])
            blocks += [block, bytes(padding)]
            offset += len(block) + padding
    text = json.dumps(directory).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *blocks])


def unpack(data: bytes) -> list[Leaf]:
    """Return the leaves that ``pack`` wrote; arrays are read-only views of `data`."""
    length = int.from_bytes(data[:8], "little")
    base = 8 + length
    leaves = []
    for path, kind, dtype, shape, where in json.loads(data[8:base]):
        if dtype is None:
            leaves.append(Leaf(path, kind))
        elif dtype == "str":
            leaves.append(Leaf(path, kind, np.array(where, object)))
        else:
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(data, np.dtype(dtype), count, base + where).reshape(shape)
            leaves.append(Leaf(path, kind, array))
    return leaves
