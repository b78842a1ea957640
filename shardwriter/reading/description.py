"""What finished episodes hold: attributes, summary and columns, of many shards one after another.

Invariant: what the bytes of a shard say counts only once their checksums match; otherwise, and
where a shard is unlike those of this package, HDF5 is asked, which also finds what is wrong.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from shardwriter.errors import ShardWriterError
from shardwriter.files.chunk_index import chunks_of, most_chunks
from shardwriter.files.compression import FILTER_NAMES, Pipeline
from shardwriter.files.groups import restored_attributes
from shardwriter.files.layout import EVENTS, SUMMARY, TABLES
from shardwriter.files.links import DEEPEST, MOST_NODES, members
from shardwriter.files.shard_description import COPIED_BYTES
from shardwriter.files.stored_objects import Messages, StoredDataset, is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar, are_sound
from shardwriter.files.tree import KIND, Leaf, build
from shardwriter.files.untrusted import file_of, readable
from shardwriter.reading.recorded_episode import RecordedEpisode
from shardwriter.reading.shard_episode import table_columns

__all__ = ["EpisodeColumn", "EpisodeDescription", "described"]

_CHOICE = "compression_choice"
_TOGETHER = 64  # shards whose checksums are compared at once


@dataclass(frozen=True, slots=True)
class EpisodeColumn:
    """One column: its table and name as a path, what it holds and how it is stored.

    ``shape`` is that of a row; ``choice`` says what an adaptive compression was chosen from.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    stored_bytes: int
    compression: str | None
    choice: str | None

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows as they are in memory."""
        return self.rows * math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class EpisodeDescription:
    """An episode's attributes, with its summary under ``summary``, and its columns."""

    metadata: dict[str, Any]
    columns: tuple[EpisodeColumn, ...]


Found = EpisodeDescription | ShardWriterError


def described(
    episodes: Sequence[RecordedEpisode], stored: Callable[[int], tuple[Structure, str]]
) -> Iterator[tuple[int, Found]]:
    """Yield the id and description of each episode, or the error that reading it raises.

    Parameters
    ----------
    episodes
        Those wanted.
    stored
        Opens the shard of an episode, and names the episode's group in it; what it raises of
        ``UNCERTAIN`` leaves the episode to HDF5.
    """
    for first in range(0, len(episodes), _TOGETHER):
        several = episodes[first : first + _TOGETHER]
        quick = [_quickly(episode.id, stored) for episode in several]
        sound = iter(are_sound([found[0] for found in quick if found]))
        for episode, found in zip(several, quick, strict=True):
            yield episode.id, found[1] if found and next(sound) else _slowly(episode)


def _quickly(
    episode: int, stored: Callable[[int], tuple[Structure, str]]
) -> tuple[Structure, EpisodeDescription] | None:
    try:
        structure, group = stored(episode)
        with structure:
            return structure, _Bytes(structure).description(group)
    except UNCERTAIN:
        return None


class _Bytes:
    """Reads a description from a shard's bytes."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._nodes = 0

    def description(self, group: str) -> EpisodeDescription:
        structure = self._structure
        messages = structure.find(group)
        if messages is None:
            raise Unfamiliar
        metadata = restored_attributes(structure.attributes(messages))
        members = self._members(messages)
        tables = {name: members[name] for name in TABLES if name in members}
        if EVENTS in members:
            events = self._members(structure.messages(members[EVENTS]))
            tables |= {f"{EVENTS}/{name}": address for name, address in events.items()}
        columns = tuple(
            self._column(f"{table}/{name}", structure.messages(place))
            for table, address in tables.items()
            for name, place in self._members(structure.messages(address)).items()
        )
        leaves = list(self._leaves("", members[SUMMARY], 0)) if SUMMARY in members else []
        return EpisodeDescription({**metadata, SUMMARY: build(leaves)}, columns)

    def _members(self, messages: Messages) -> dict[str, int]:
        if not is_group(messages):
            raise Unfamiliar
        links = self._structure.links(messages)
        self._nodes += len(links)
        if self._nodes > MOST_NODES:
            raise Unfamiliar
        return {name.decode(): address for name, address in links.items()}

    def _column(self, path: str, messages: Messages) -> EpisodeColumn:
        structure = self._structure
        if is_group(messages):
            raise Unfamiliar
        column = stored_dataset(messages)
        if column.dtype is None or not column.chunk or column.chunk[1:] != column.shape[1:]:
            raise Unfamiliar
        names = (name for number, name in FILTER_NAMES.items() if number in column.filters)
        return EpisodeColumn(
            path,
            column.dtype,
            column.shape[1:],
            column.shape[0],
            self._stored_bytes(column),
            next(names, None),
            structure.attributes(messages).get(_CHOICE),
        )

    def _stored_bytes(self, column: StoredDataset) -> int:
        count = -(-column.shape[0] // column.chunk[0])
        if most_chunks(self._structure, column) > count:
            raise Unfamiliar
        return sum(chunk[1] for chunk in chunks_of(self._structure, column, count) if chunk)

    def _leaves(self, path: str, address: int, depth: int) -> Iterator[Leaf]:
        """Yield what ``read_tree`` builds a nested value of."""
        structure = self._structure
        if depth > DEEPEST:
            raise Unfamiliar
        messages = structure.messages(address)
        kind = structure.attributes(messages).get(KIND)
        if is_group(messages):
            yield Leaf(path, kind or "dict")
            for name, below in self._members(messages).items():
                yield from self._leaves(f"{path}/{name}" if path else name, below, depth + 1)
            return
        value = self._value(stored_dataset(messages))
        is_text = value.dtype == object and value.ndim == 0
        yield Leaf(path, kind or ("str" if is_text else "array"), value)

    def _value(self, node: StoredDataset) -> "np.ndarray[Any, Any]":
        """Return a small array that lies in the file as it is."""
        is_there = node.address >= 0 or not node.nbytes
        if node.chunk or node.filters or node.nbytes > COPIED_BYTES or not is_there:
            raise Unfamiliar
        data = self._structure.read(node.address, node.nbytes) if node.nbytes else b""
        if node.dtype is None:
            texts = [self._structure.text(data, i).decode() for i in range(0, len(data), 16)]
            return np.array(texts, object).reshape(node.shape)
        if node.dtype.kind == "S":
            raise Unfamiliar
        return np.frombuffer(data, node.dtype).reshape(node.shape).copy()


def _slowly(episode: RecordedEpisode) -> Found:
    try:
        metadata = episode.get_metadata()
        with episode.opened() as group, readable(file_of(group), group.name):
            tables = [name for name in TABLES if name in group]
            tables += [f"{EVENTS}/{name}" for name in members(file_of(group), group.id, EVENTS)]
            columns = tuple(
                _from_hdf5(f"{table}/{name}", dataset)
                for table in tables
                for name, dataset in table_columns(group, table).items()
            )
    except ShardWriterError as error:
        return error
    return EpisodeDescription(metadata, columns)


def _from_hdf5(path: str, dataset: h5py.Dataset) -> EpisodeColumn:
    return EpisodeColumn(
        path,
        dataset.dtype,
        dataset.shape[1:],
        len(dataset),
        dataset.id.get_storage_size(),
        Pipeline.of(dataset).name,
        dataset.attrs.get(_CHOICE),
    )
