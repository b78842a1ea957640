"""Shards of many episodes, as ``shardwriter pack --shards`` makes them: which episodes they hold.

Invariant: what a pack holds is finished; nothing is ever added to one.
"""

from pathlib import Path

from shardwriter.errors import ShardDamaged
from shardwriter.files.layout import EPISODES, group_id, packed_shards
from shardwriter.files.published import published_file

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
            with published_file(path) as file:
                found |= {group_id(name): path for name in file[EPISODES]}
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ShardDamaged(path, "structure", f"not a readable shard: {error}") from error
    return found
