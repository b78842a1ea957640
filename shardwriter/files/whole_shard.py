"""The shard of a short episode, which never had a part: built in memory, written at once.

Each of its tables fits one chunk. Invariant: HDF5 finds in it what it would find in a file that
``Shard`` wrote; what cannot be written like this is ``Unsuitable``, and ``Shard`` has to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.files.chunk_notes import ChunkNotes
from shardwriter.files.compression import ColumnCodec, Compression, Pipeline
from shardwriter.files.encoding import AttributeTooLarge, Encoder
from shardwriter.files.groups import episode_attributes, is_compressed
from shardwriter.files.layout import episode_group
from shardwriter.files.lookup3 import lookup3
from shardwriter.files.object_tree import ObjectTree
from shardwriter.files.schema import CHUNK_BYTES, Column, Table
from shardwriter.files.shard import Codecs, codec_of, column_attributes, root_attributes
from shardwriter.files.tree import Leaf

__all__ = ["Unsuitable", "WholeShard"]

Array = np.ndarray[Any, Any]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 48
_SUPERBLOCK = bytes([3, 8, 8, 0]) + bytes(8) + b"\xff" * 8  # version 3, no base, no extension
_OF_TREES = Pipeline("gzip", 1)


class Unsuitable(Exception):
    """An episode has something that is left to HDF5."""


@dataclass(slots=True)
class _Chunk:
    """A column, all of whose rows are one chunk."""

    column: Column
    codec: ColumnCodec
    rows: int
    notes: ChunkNotes
    stored: tuple[int, int] = (0, 0)  # address and bytes

    def attributes(self) -> dict[str, object]:
        return {**column_attributes(self.column, self.codec), **self.notes.attributes()}


class WholeShard:
    """A shard in memory.

    Parameters
    ----------
    episode
        The episode's id.
    compression
        How columns are compressed.
    codecs
        One codec per column, kept by the caller from episode to episode.

    Raises
    ------
    Unsuitable
        By any of its methods: nothing was written.
    """

    def __init__(self, episode: int, compression: Compression, codecs: Codecs) -> None:
        self._group = episode_group(episode)
        self._compression = compression
        self._codecs = codecs
        self._tables: dict[str, list[_Chunk]] = {}
        self._blocks: list[Any] = []  # of bytes, or arrays of them
        self._end = _SUPERBLOCK_BYTES

    def add_table(self, table: Table, rows: int, sample: tuple[Array, ...]) -> None:
        """Add a table of so many rows; an adaptive codec is chosen from a sample of them."""
        if rows > table.rows_per_chunk:
            raise Unsuitable
        chunks = self._tables[table.name] = []
        for column, values in zip(table.columns, sample, strict=True):
            codec = codec_of(self._codecs, self._compression, table, column, values)
            if 0 in column.shape or codec.pipeline not in (
                Pipeline(None),
                Pipeline("gzip", codec.pipeline.level),
            ):
                raise Unsuitable
            chunks.append(_Chunk(column, codec, rows, ChunkNotes(column.name)))

    def write_chunk(self, table: str, chunk: int, blocks: tuple[Array, ...], rows: int) -> None:
        """Compress the only chunk of every column of a table; see ``Shard.write_chunk``."""
        for each, block in zip(self._tables[table], blocks, strict=True):
            values = np.ascontiguousarray(each.codec.rounded(block[:rows]))
            each.notes.add(chunk, each.notes.of(values))
            each.stored = self._store(each.codec, values)

    def _store(self, codec: ColumnCodec, values: Array) -> tuple[int, int]:
        """Take in a block as it will stand in the file; return its address and bytes."""
        if codec.encode is None:
            raise Unsuitable
        data = codec.encode(values)
        if not isinstance(data, bytes):
            data = data.reshape(-1).view(np.uint8)
        address, self._end = self._end, self._end + len(data)
        self._blocks.append(data)
        return address, len(data)

    def column_bytes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the raw and the stored bytes of each column, by ``table/column``."""
        raw, stored = {}, {}
        for table, chunks in self._tables.items():
            for each in chunks:
                raw[f"{table}/{each.column.name}"] = each.rows * each.column.row_bytes
                stored[f"{table}/{each.column.name}"] = each.stored[1]
        return raw, stored

    def codec_choices(self) -> dict[str, str]:
        """Return what was chosen by measurement, and why, by ``table/column``."""
        return {
            f"{table}/{each.column.name}": each.codec.reason
            for table, chunks in self._tables.items()
            for each in chunks
            if each.codec.reason
        }

    def write(self, path: Path, static: Iterable[list[Leaf]], values: Mapping[str, object]) -> None:
        """Write the file.

        Parameters
        ----------
        path
            Where it is made.
        static
            Nested values to keep, as their leaves.
        values
            The episode's attributes.

        Raises
        ------
        FileExistsError
            The file exists.
        """
        trees = list(static)
        arrays = [(leaf, self._compressed(leaf)) for leaves in trees for leaf in leaves]
        encoder = Encoder(self._end)  # from here on no block is added
        try:
            root = self._encoded(encoder, arrays, episode_attributes(trees, values))
        except AttributeTooLarge as error:
            raise Unsuitable from error
        objects = encoder.finish()
        end = self._end + len(objects)
        head = _SIGNATURE + _SUPERBLOCK + end.to_bytes(8, "little") + root.to_bytes(8, "little")
        head += lookup3(head).to_bytes(4, "little")
        with path.open("xb") as file:
            file.writelines((head, *self._blocks, objects))

    def _compressed(self, leaf: Leaf) -> tuple[int, int] | None:
        """Take in a leaf's array where it is one to be compressed."""
        if not is_compressed(leaf) or leaf.array is None:
            return None
        if leaf.array.nbytes > CHUNK_BYTES or not leaf.array.ndim:
            raise Unsuitable
        return self._store(ColumnCodec(_OF_TREES), leaf.array)

    def _encoded(
        self,
        encoder: Encoder,
        leaves: Iterable[tuple[Leaf, tuple[int, int] | None]],
        values: Mapping[str, object],
    ) -> int:
        tree = ObjectTree(encoder)
        tree.group("", root_attributes())
        tree.group(self._group, values)
        for name, chunks in self._tables.items():
            members = tree.group(f"{self._group}/{name}")
            for each in chunks:
                column, pipeline = each.column, each.codec.pipeline
                members[column.name] = encoder.chunk(
                    column.dtype,
                    (each.rows, *column.shape),
                    pipeline.level if pipeline.name else None,
                    each.stored,
                    each.attributes(),
                    column.dtype.kind == "S",
                )
        for leaf, stored in leaves:
            self._put(encoder, tree, leaf, stored)
        return tree.encode()

    def _put(
        self, encoder: Encoder, tree: ObjectTree, leaf: Leaf, stored: tuple[int, int] | None
    ) -> None:
        place = f"{self._group}/{leaf.path}"
        kind = leaf.attributes()
        if leaf.array is None:
            tree.group(place, kind)
        elif stored is None:
            tree.put(place, encoder.array(leaf.array, kind))
        else:
            form = leaf.array.dtype, leaf.array.shape, _OF_TREES.level
            tree.put(place, encoder.chunk(*form, stored, kind, is_filled=False))
