"""One episode of a master as bytes: attributes, a virtual dataset per column, static data.

Invariant: it shows all that the shard's description has, and nothing else.
"""

from merge.plan import EpisodePlan
from shardwriter.errors import ShardDamaged
from shardwriter.files.encoding import AttributeTooLarge, Encoder, encoded
from shardwriter.files.object_tree import ObjectTree

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
        self._tree = ObjectTree(encoder)

    def written(self) -> int:
        self._tree.group("", self._shard.attributes)
        self._add_tables()
        self._add_static()
        return self._tree.encode()

    def _add_tables(self) -> None:
        virtual = self._encoder.virtual
        for name, table in self._shard.tables.items():
            members = self._tree.group(name)
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
                self._tree.put(node.path, self._encoder.array(node.value, node.attributes))
            elif node.dtype is not None:
                where = encoded(f"/{self._shard.group}/{node.path}")
                self._tree.put(
                    node.path,
                    self._encoder.virtual(
                        node.dtype, node.shape, self._source, where, node.attributes
                    ),
                )
            else:
                self._tree.group(node.path, node.attributes)
