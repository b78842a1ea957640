"""Shards of many episodes, as ``shardwriter pack --shards`` makes them: which episodes they hold.

Invariant: what a pack holds is finished; nothing is ever added to one.
"""

from contextlib import suppress
from pathlib import Path

from shardwriter.files.layout import EPISODES, group_id, packed_shards
from shardwriter.files.links import members
from shardwriter.files.structure import UNCERTAIN, Structure, are_sound
from shardwriter.files.untrusted import readable
from shardwriter.files.vetting import vetted

__all__ = ["packed_episodes"]


def packed_episodes(directory: Path) -> dict[int, Path]:
    """Return the packs of an experiment by the ids of the episodes in them.

    Raises
    ------
    ShardDamaged
        A pack cannot be read.
    """
    found: dict[int, Path] = {}
    for path in packed_shards(directory):
        with readable(path):
            found |= {group_id(name): path for name in _names(path)}
    return found


def _names(path: Path) -> list[str]:
    """Return the names of a pack's episodes."""
    with suppress(*UNCERTAIN), Structure(path, is_read_whole=False) as structure:
        messages = structure.find(EPISODES)
        if messages is not None:
            names = [name.decode() for name in structure.links(messages)]
            if are_sound([structure]) == [True]:
                return names
    with vetted(path, "") as root:
        return members(path, root, EPISODES)
