"""One episode of a master as bytes: attributes, a virtual dataset per column, static data.

Invariant: it shows all that the shard's description has, and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from merge.encoding import AttributeTooLarge, Encoder, encoded
from merge.plan import EpisodePlan
from shardwriter.errors import ShardDamaged

__all__ = ["add_episode"]


def add_episode(encoder: Encoder, episode: EpisodePlan) -> int:
    """Add an episode's group and all below it; return its address.

    Raises
    ------
    ShardDamaged
        An attribute is larger than shards have.
    """
    try:
        return _Group(encoder, episode).written()
    except AttributeTooLarge as error:
        name, size = error.args
        problem = f"expected attributes of at most 64 kB, got {size} bytes"
        raise ShardDamaged(episode.shard.path, f"@{name}", problem) from error


class _Group:
    def __init__(self, encoder: Encoder, episode: EpisodePlan) -> None:
        self._encoder = encoder
        self._shard = episode.shard
        self._source = encoded(episode.source)
        self._members: dict[str, dict[str, int]] = {"": {}}  # of each group, by its path
        self._attributes: dict[str, Mapping[str, Any]] = {"": episode.shard.attributes}

    def written(self) -> int:
        self._add_tables()
        self._add_static()
        # What lies deeper comes first, for a group has to know the addresses of its members.
        for path in sorted(filter(None, self._members), key=lambda one: -one.count("/")):
            self._put(path, self._group(path))
        return self._group("")

    def _group(self, path: str) -> int:
        members = dict(sorted(self._members[path].items()))
        return self._encoder.group(members, self._attributes.get(path, {}))

    def _put(self, path: str, address: int) -> None:
        parent, _, name = path.rpartition("/")
        self._open(parent)[name] = address

    def _open(self, path: str) -> dict[str, int]:
        """Return the members of a group, which is made with all above it where it is not there."""
        members = self._members.get(path)
        if members is None:
            members = self._members[path] = {}
            self._open(path.rpartition("/")[0])
        return members

    def _add_tables(self) -> None:
        virtual = self._encoder.virtual
        for name, table in self._shard.tables.items():
            members = self._open(name)
            place = encoded(f"/{self._shard.group}/{name}/")
            for column in table.columns:
                shape = (table.rows, *column.shape)
                attributes = table.attributes.get(column.name, {})
                where = place + encoded(column.name)
                members[column.name] = virtual(
                    column.dtype, shape, self._source, where, attributes, column.is_text
                )

    def _add_static(self) -> None:
        for node in self._shard.static:
            if node.value is not None:
                self._put(node.path, self._encoder.array(node.value, node.attributes))
            elif node.dtype is not None:
                where = encoded(f"/{self._shard.group}/{node.path}")
                self._put(
                    node.path,
                    self._encoder.virtual(
                        node.dtype, node.shape, self._source, where, node.attributes
                    ),
                )
            else:
                self._open(node.path)
                self._attributes[node.path] = node.attributes
