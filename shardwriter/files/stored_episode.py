"""Episodes as short shards have them, copied, compared and outlined as bytes by compiled code.

Invariant: what is answered is what reading the ``Structure`` would answer; for whatever else a file
may hold, and where nothing was compiled, there is no answer, and that has to be read.
"""

from collections.abc import Sequence
from typing import cast

from shardwriter.compiled import compiled_module
from shardwriter.files.structure import Structure

__all__ = ["copied", "is_same", "outline"]

compiled = compiled_module("shardwriter.files._stored_episode")


def copied(episodes: Sequence[tuple[Structure, int]], base: int) -> tuple[bytes, list[int]]:
    """Copy episodes with all that is below them.

    Parameters
    ----------
    episodes
        Open files, and the address of the episode's group in each.
    base
        Where the copies go in their file.

    Returns
    -------
    bytes, list
        The copies, and the address of each one's group; -1 for one that is left out.
    """
    if compiled is None:
        return b"", [-1] * len(episodes)
    given = [(each.fileno(), each.size, address) for each, address in episodes]
    return cast(tuple[bytes, list[int]], compiled.copied(given, base))


def is_same(original: Structure, address: int, copy: Structure, copy_address: int) -> bool:
    """Tell whether an episode is known to be the same as another, data and checksums included."""
    if compiled is None:
        return False
    places = original.fileno(), original.size, address, copy.fileno(), copy.size, copy_address
    return cast(bool, compiled.is_same(*places))


def outline(structure: Structure, address: int) -> tuple[bytes, int] | None:
    """Return the headers of a table, equal for equal tables, and its rows; None: not known.

    Rows, addresses and digests are left out of the headers.
    """
    if compiled is None:
        return None
    found = compiled.outline(structure.fileno(), structure.size, address)
    return cast(tuple[bytes, int] | None, found)
