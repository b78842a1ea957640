"""Episodes as short shards have them, copied, compared and outlined by compiled code, as bytes.

Invariant: what is answered is what reading the ``Structure`` would answer, checksums included; for
whatever else a file may hold, and where nothing was compiled, there is no answer, and it has to be
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from shardwriter.compiled import compiled_module
from shardwriter.files.structure import Structure

__all__ = ["StoredEpisode", "copied", "group", "is_known", "is_same", "outline"]

compiled = compiled_module("shardwriter.files._stored_episode")


@dataclass(frozen=True, slots=True)
class StoredEpisode:
    """An episode in an open file: descriptor, size, and address of its group."""

    fd: int
    size: int
    address: int


def copied(episodes: Sequence[StoredEpisode], base: int) -> tuple[bytes, list[int]]:
    """Copy episodes with all that is below them.

    Parameters
    ----------
    episodes
        Those to copy.
    base
        Where the copies go in their file.

    Returns
    -------
    bytes, list
        The copies, and the address of each one's group; -1 for one that is left out.
    """
    if compiled is None:
        return b"", [-1] * len(episodes)
    given = [(each.fd, each.size, each.address) for each in episodes]
    return cast(tuple[bytes, list[int]], compiled.copied(given, base))


def is_same(original: StoredEpisode, copy: StoredEpisode) -> bool:
    """Tell whether an episode is known to be the same as another, data and checksums included.

    Several threads may ask at once.
    """
    if compiled is None:
        return False
    places = original.fd, original.size, original.address, copy.fd, copy.size, copy.address
    return cast(bool, compiled.is_same(*places))


def outline(structure: Structure, address: int) -> tuple[bytes, int] | None:
    """Return the headers of a table, equal for equal tables, and its rows; None: not known.

    Rows, addresses and digests are left out of the headers.
    """
    if compiled is None:
        return None
    found = compiled.outline(structure.fileno(), structure.size, address, structure.whole)
    return cast(tuple[bytes, int] | None, found)


def group(
    structure: Structure, address: int
) -> tuple[dict[bytes, int], list[tuple[bytes, bytes]]] | None:
    """Return a group's members, and its attributes for ``Structure.decoded``; None: not known."""
    if compiled is None:
        return None
    found = compiled.group(structure.fileno(), structure.size, address, structure.whole)
    return cast(tuple[dict[bytes, int], list[tuple[bytes, bytes]]] | None, found)


def is_known(structure: Structure, address: int) -> bool:
    """Tell whether an object and all below it is as short shards have it, checksums included."""
    if compiled is None:
        return False
    return cast(bool, compiled.is_known(structure.fileno(), structure.size, address))
