"""What the records of a buffer say, other than those of tables.

Invariant: what is returned has the form that a recording gives it; whatever else stands in a record
is damage of the buffer, so that it can be told apart from damage of the machine.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from shardwriter.errors import BufferDamaged
from shardwriter.files.tree import Leaf, unpack
from shardwriter.system.process import Identity

__all__ = ["read_end", "read_owner", "read_start", "read_static"]

_MOST_TEXT = 200  # of what is wrong
# What decoding raises about content; want of memory is none, and no reason to give up rows.
_ILLEGIBLE = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


def read_start(path: Path, payload: bytes) -> dict[str, Any]:
    """Return what a buffer's start record says.

    Raises
    ------
    BufferDamaged
        It is no object, or names no process as the owner. So in every function here.
    """
    start = _object(path, "start", payload)
    with _legible(path, "start"):
        _owner(start)
    return start


def read_owner(path: Path, payload: bytes) -> Identity:
    """Return the process that a buffer's start record names."""
    return _owner(read_start(path, payload))


def read_end(path: Path, payload: bytes) -> dict[str, Any]:
    """Return what a buffer's end record says."""
    return _object(path, "end", payload)


def read_static(path: Path, payload: bytes) -> list[Leaf]:
    """Return the leaves of a static record, one at least; arrays are read-only views of it."""
    with _legible(path, "static"):
        leaves = unpack(payload)
        if not all(isinstance(leaf.path, str) for leaf in leaves) or not leaves:
            raise ValueError("expected values under names")
        return leaves


def _object(path: Path, kind: str, payload: bytes) -> dict[str, Any]:
    with _legible(path, kind):
        value = json.loads(payload)
        if not isinstance(value, dict):
            raise TypeError("expected an object")
        return value


def _owner(start: dict[str, Any]) -> Identity:
    owner = Identity(**start["owner"])
    if [type(value) for value in astuple(owner)] != [str, str, str, int, int]:
        raise TypeError("expected the owner's host, boot, namespace, pid and start")
    return owner


@contextmanager
def _legible(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _ILLEGIBLE as error:
        problem = f"its {kind} record cannot be read: {error!r}"
        raise BufferDamaged(path, problem[:_MOST_TEXT]) from error
