"""Nested values and attributes in HDF5 groups.

The leaf of a nested value becomes a dataset, a container a group; the attribute ``kind`` says
which Python type comes back where the dtype alone does not.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from shardwriter.files.static_digest import STATIC_DIGEST, StaticObject, static_digest
from shardwriter.files.tree import KIND, Leaf, build

__all__ = [
    "episode_attributes",
    "is_compressed",
    "plain",
    "read_attributes",
    "read_tree",
    "restored_attributes",
    "storable_attributes",
    "write_attributes",
    "write_tree",
]

_COMPRESS_BYTES = 4096
_JSON = "_json"


def write_tree(parent: h5py.Group, leaves: list[Leaf]) -> None:
    """Write a nested value's leaves as groups and datasets below `parent`."""
    for leaf in leaves:
        path = leaf.path
        if leaf.array is None:
            node = parent.require_group(path) if path else parent
        elif leaf.array.dtype == object:
            node = parent.create_dataset(path, data=leaf.array, dtype=h5py.string_dtype())
        elif is_compressed(leaf):
            node = parent.create_dataset(
                path, data=leaf.array, compression="gzip", compression_opts=1, shuffle=True
            )
        else:
            node = parent.create_dataset(path, data=leaf.array)
        for name, value in leaf.attributes().items():
            node.attrs[name] = value


def is_compressed(leaf: Leaf) -> bool:
    """Tell whether the array of a leaf is one of many numbers."""
    array = leaf.array
    return array is not None and array.dtype != object and array.nbytes >= _COMPRESS_BYTES


def read_tree(node: h5py.Group | h5py.Dataset, read: Callable[[h5py.Dataset], Any]) -> Any:
    """Return the nested value that ``write_tree`` wrote at `node`.

    Parameters
    ----------
    node
        Where it is.
    read
        Reads a dataset, text as `str`.
    """
    return build(list(_leaves("", node, read)))


def _leaves(
    path: str, node: h5py.Group | h5py.Dataset, read: Callable[[h5py.Dataset], Any]
) -> Iterator[Leaf]:
    kind = node.attrs.get(KIND)
    if isinstance(node, h5py.Group):
        yield Leaf(path, kind or "dict")
        for key in node:
            yield from _leaves(f"{path}/{key}" if path else key, node[key], read)
        return
    values = read(node)
    if isinstance(values, str):
        yield Leaf(path, kind or "str", np.array(values, object))
    else:
        yield Leaf(path, kind or "array", np.asarray(values))


def write_attributes(node: h5py.HLObject, values: Mapping[str, object]) -> None:
    """Write values as attributes; see ``storable_attributes``."""
    for name, value in storable_attributes(values).items():
        node.attrs[name] = value


def storable_attributes(values: Mapping[str, object]) -> dict[str, object]:
    """Return what stands in a file for attributes: numbers, strings, and all else as JSON text.

    The attribute ``_json`` lists the names of those that are JSON text.
    """
    nested = [name for name, value in values.items() if not _is_simple(value)]
    stored = dict(values)
    for name in nested:
        stored[name] = json.dumps(values[name], default=plain, ensure_ascii=False)
    if nested:
        stored[_JSON] = json.dumps(nested)
    return stored


def episode_attributes(
    static: Iterable[list[Leaf]], values: Mapping[str, object]
) -> dict[str, object]:
    """Return what stands in a file for an episode's attributes, a digest of all static data too."""
    stored = storable_attributes(values)
    own: StaticObject = ("", stored, None)
    below = ((leaf.path, leaf.attributes(), leaf.array) for leaves in static for leaf in leaves)
    return {**stored, STATIC_DIGEST: np.uint32(static_digest([own, *below]))}


def _is_simple(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, (int, np.integer)):
        return bool(-(2**63) <= value < 2**63)
    return isinstance(value, (float, np.number, np.bool_))


def read_attributes(node: h5py.HLObject) -> dict[str, Any]:
    """Return attributes as Python values."""
    return restored_attributes(dict(node.attrs))


def restored_attributes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as Python values, from what stands in the file."""
    nested = json.loads(raw.get(_JSON, "[]"))
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name in nested:
            values[name] = json.loads(value)
        elif name not in (_JSON, STATIC_DIGEST):
            values[name] = value.item() if isinstance(value, np.generic) else value
    return values


def plain(value: object) -> object:
    """Return a value that JSON can hold for one that it cannot: arrays as lists, else text."""
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value)
