"""Shards of many episodes, as ``shardwriter pack --shards`` makes them: which episodes they hold.

Invariant: what a pack holds is finished; nothing is ever added to one.
"""

from contextlib import suppress
from pathlib import Path

from shardwriter.errors import ShardDamaged
from shardwriter.files.layout import EPISODES, group_id, packed_shards
from shardwriter.files.published import published_file
from shardwriter.files.structure import UNCERTAIN, Structure, are_sound
from shardwriter.files.vetting import vet

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
        try:
            found |= {group_id(name): path for name in _names(path)}
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ShardDamaged(path, "structure", f"not a readable shard: {error}") from error
    return found


def _names(path: Path) -> list[str]:
    """Return the names of a pack's episodes."""
    with suppress(*UNCERTAIN), Structure(path, is_read_whole=False) as structure:
        place = structure.links(structure.messages(structure.root))[EPISODES.encode()]
        names = [name.decode() for name in structure.links(structure.messages(place))]
        if are_sound([structure]) == [True]:
            return names
    vet(path, "")
    with published_file(path) as file:
        return list(file[EPISODES])
