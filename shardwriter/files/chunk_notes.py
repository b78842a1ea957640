"""What was noted of a column's chunks as they were written, for whoever verifies or searches them.

Invariant: a chunk that is written again replaces what was noted of it.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib

from shardwriter.files.layout import TIMESTEPS

__all__ = ["ChunkNote", "ChunkNotes"]

Array = np.ndarray[Any, Any]


class ChunkNote(NamedTuple):
    """What is noted of one chunk."""

    crc32: int  # of its rows
    span: tuple[int, int, bool] | None  # first and last timestep, and whether they are sorted


class ChunkNotes:
    """The CRC-32 of each chunk of a column, and of timesteps their order.

    Parameters
    ----------
    column
        The column's name.
    """

    __slots__ = ("_has_order", "_noted")

    def __init__(self, column: str) -> None:
        self._has_order = column == TIMESTEPS
        self._noted: dict[int, ChunkNote] = {}

    def of(self, values: Array) -> ChunkNote:
        """Return what is to be noted of contiguous rows; any thread may do so."""
        span = None
        if self._has_order and len(values):
            is_sorted = bool((values[1:] >= values[:-1]).all())
            span = int(values[0]), int(values[-1]), is_sorted
        return ChunkNote(isal_zlib.crc32(values.reshape(-1).view(np.uint8)), span)

    def add(self, chunk: int, note: ChunkNote) -> None:
        """Take note of a chunk."""
        self._noted[chunk] = note

    def keep(self, chunks: int) -> None:
        """Forget all but the first chunks."""
        self._noted = {i: note for i, note in self._noted.items() if i < chunks}

    def attributes(self) -> dict[str, object]:
        """Return what stands with the column: a CRC-32 over those of its chunks.

        The digest is the CRC-32 of the chunks' own CRC-32s (of their rows' bytes), each 4
        bytes little-endian, in order; chunks that a late column lacks are left out. Timesteps
        also say whether they are sorted, which lets a reader search them.
        """
        notes = [self._noted[i] for i in sorted(self._noted)]
        parts = [note.crc32.to_bytes(4, "little") for note in notes]
        noted: dict[str, object] = {"crc32": np.uint32(isal_zlib.crc32(b"".join(parts)))}
        if self._has_order:
            spans = [note.span for note in notes if note.span is not None]
            rises = all(a[1] <= b[0] for a, b in pairwise(spans))
            noted["is_sorted"] = rises and all(is_sorted for _, _, is_sorted in spans)
        return noted
