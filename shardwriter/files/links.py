"""Ways through a file: names and links, looked at before they are followed.

Invariant: nothing is opened by a soft or external link, or by a name that is a path.
"""

import os
from pathlib import Path
from typing import TypeAlias

import h5py
from h5py import h5d, h5f, h5g, h5i, h5l, h5o

from shardwriter.errors import ShardDamaged
from shardwriter.files.dense_storage import is_name

__all__ = [
    "DEEPEST",
    "MOST_NODES",
    "Node",
    "check_links",
    "check_path",
    "entries",
    "is_there",
    "members",
    "open_child",
    "open_dataset",
    "place_of",
]

Node: TypeAlias = "h5g.GroupID | h5d.DatasetID"

DEEPEST = 64
MOST_NODES = 100_000  # below one episode or one group of the experiment


def entries(path: Path, group: h5g.GroupID, limit: int = MOST_NODES) -> list[bytes]:
    """Return the names in a group, once it is known that each is an object of this file.

    Raises
    ------
    ShardDamaged
        A name is a soft or external link, or a path, or there are more than `limit`.
    """
    names: list[bytes] = []
    links: list[bytes] = []

    def visit(name: bytes, info: h5l.LinkInfo) -> bool | None:
        (names if info.type == h5l.TYPE_HARD else links).append(name)
        return True if links or len(names) > limit else None  # True ends it; never raise here

    group.links.iterate(visit, info=True)
    if links:
        raise ShardDamaged(path, place_of(group, links[0]), "expected an object, got a link")
    if len(names) > limit:
        raise ShardDamaged(path, place_of(group), f"expected at most {limit} entries")
    for name in names:
        if not is_name(name):
            raise ShardDamaged(path, place_of(group), f"expected a name, got {os.fsdecode(name)!r}")
    return names


def open_child(path: Path, group: h5g.GroupID, name: bytes) -> Node:
    """Open an entry of a group that is known to be no link; see ``entries``.

    Raises
    ------
    ShardDamaged
        It is neither a group nor a dataset.
    """
    node = h5o.open(group, name)
    if not isinstance(node, (h5g.GroupID, h5d.DatasetID)):
        raise ShardDamaged(path, place_of(group, name), "expected a group or a dataset")
    return node


def check_links(path: Path, group: h5g.GroupID, depth: int = 0) -> None:
    """Make sure that all below a group, which lies so deep, are objects of this file.

    Raises
    ------
    ShardDamaged
        It holds a link, or groups in a circle.
    """
    if depth > DEEPEST:
        raise ShardDamaged(path, place_of(group), f"expected groups at most {DEEPEST} deep")
    for name in entries(path, group):
        child = open_child(path, group, name)
        if isinstance(child, h5g.GroupID):
            check_links(path, child, depth + 1)


def is_there(path: Path, root: h5f.FileID | h5g.GroupID, place: str) -> bool:
    """Tell whether a path inside a file leads to something, without following a link.

    Raises
    ------
    ShardDamaged
        A step of it is a link, or no name.
    """
    links = h5g.open(root, b"/").links if not isinstance(root, h5g.GroupID) else root.links
    step = b""
    for name in place.encode("utf-8", "surrogateescape").split(b"/"):
        if step and h5o.get_info(root, step).type != h5o.TYPE_GROUP:
            return False
        step = step + b"/" + name if step else name
        if name not in (b"", b".") and not links.exists(step):
            return False
        if name in (b"", b".") or links.get_info(step).type != h5l.TYPE_HARD:
            raise ShardDamaged(path, os.fsdecode(step), "expected an object, got a link")
    return True


def check_path(path: Path, root: h5f.FileID | h5g.GroupID, place: str) -> None:
    """Make sure that each step of a path inside a file is an object of this file.

    Raises
    ------
    ShardDamaged
        A step is a link, or is not there.
    """
    if not is_there(path, root, place):
        raise ShardDamaged(path, place, "expected an object, got none")


def members(path: Path, root: h5g.GroupID, place: str) -> list[str]:
    """Return the names in a group at a path inside a file, in order, [] where there is none.

    Raises
    ------
    ShardDamaged
        It is no group, or it or something in it is a link.
    """
    if not is_there(path, root, place):
        return []
    group = h5o.open(root, place.encode("utf-8", "surrogateescape"))
    if not isinstance(group, h5g.GroupID):
        raise ShardDamaged(path, place, "expected a group, got something else")
    return [os.fsdecode(name) for name in entries(path, group)]


def open_dataset(path: Path, root: h5g.GroupID, place: str) -> h5py.Dataset:
    """Open a dataset at a path inside a file.

    Raises
    ------
    ShardDamaged
        There is none, or a step of the path is a link.
    """
    check_path(path, root, place)
    node = h5o.open(root, place.encode("utf-8", "surrogateescape"))
    if not isinstance(node, h5d.DatasetID):
        raise ShardDamaged(path, place, "expected a dataset, got something else")
    return h5py.Dataset(node)


def place_of(node: Node, name: bytes = b"") -> str:
    """Return the path of an object in its file, or of an entry of it."""
    whole = (h5i.get_name(node) or b"?").rstrip(b"/") + (b"/" + name if name else b"")
    return os.fsdecode(whole) or "/"
