"""Rows of columns of many shards, straight from the shards' bytes.

Opening a small shard with HDF5 takes longer than reading it. Invariant: what is read here is in
place only once ``unsound`` has named what has to be read again by HDF5, which also finds what is
wrong; whatever is unlike the shards of this package is not read here at all.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from shardwriter.files.chunk_index import chunks_of
from shardwriter.files.column_reader import decoder
from shardwriter.files.stored_objects import StoredDataset, is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar, are_sound
from shardwriter.files.untrusted import is_safe_chunk

__all__ = ["QuickColumns", "Read"]

Array = np.ndarray[Any, Any]
Read: TypeAlias = tuple[str, int, Array]  # field, first row, where the rows go

_TOGETHER = 64  # shards whose checksums are compared at once


class QuickColumns:
    """Reads columns of shards.

    Parameters
    ----------
    opened
        Opens the shard of an episode, and names the episode's group in it.
    """

    def __init__(self, opened: Callable[[int], tuple[Structure, str]]) -> None:
        self._opened = opened
        self._waiting: list[tuple[Structure, int, Sequence[Read]]] = []
        self._unsound: list[tuple[int, Sequence[Read]]] = []

    def read(self, episode: int, reads: Sequence[Read]) -> bool:
        """Read rows of an episode's fields; False: HDF5 has to do it."""
        try:
            structure, group = self._opened(episode)
            with structure:
                for field, first, target in reads:
                    _read(structure, f"{group}/{field}", first, target)
        except UNCERTAIN:
            return False
        self._waiting.append((structure, episode, reads))
        if len(self._waiting) == _TOGETHER:
            self._settle()
        return True

    def forms(self, episode: int, fields: Sequence[str]) -> list[StoredDataset] | None:
        """Return shape and dtype of an episode's fields, None where HDF5 has to be asked."""
        try:
            structure, group = self._opened(episode)
            with structure:
                found = [_column(structure, f"{group}/{field}") for field in fields]
        except UNCERTAIN:
            return None
        self._waiting.append((structure, episode, ()))
        if len(self._waiting) == _TOGETHER:
            self._settle()
        return found

    def _settle(self) -> None:
        sound = are_sound([structure for structure, _, _ in self._waiting])
        self._unsound += [
            (episode, reads)
            for (_, episode, reads), good in zip(self._waiting, sound, strict=True)
            if not good
        ]
        self._waiting.clear()

    def unsound(self) -> list[tuple[int, Sequence[Read]]]:
        """Return the episodes, and what was read of them, whose bytes fail their checksums."""
        self._settle()
        found, self._unsound = self._unsound, []
        return found


def _column(structure: Structure, place: str) -> StoredDataset:
    messages = structure.find(place)
    if messages is None or is_group(messages):
        raise Unfamiliar
    column = stored_dataset(messages)
    if not column.chunk or column.chunk[1:] != column.shape[1:]:
        raise Unfamiliar
    if not is_safe_chunk(column.dtype, column.chunk):
        raise Unfamiliar
    return column


def _read(structure: Structure, place: str, first: int, target: Array) -> None:
    column = _column(structure, place)
    stop = first + len(target)
    alike = column.dtype == target.dtype and column.shape[1:] == target.shape[1:]
    if not alike or stop > column.shape[0]:
        raise Unfamiliar
    decode = decoder(target.dtype, column.chunk, column.filters)
    if decode is None:
        raise Unfamiliar
    rows = column.chunk[0]
    chunks = chunks_of(structure, column, -(-stop // rows))
    for number in range(first // rows, len(chunks)):
        stored = chunks[number]
        if stored is None or stored[2]:  # never written, or not by all filters
            raise Unfamiliar
        low, high = max(first, number * rows), min(stop, (number + 1) * rows)
        data = structure.read(stored[0], stored[1])
        decode(data, target[low - first : high - first], low - number * rows)
