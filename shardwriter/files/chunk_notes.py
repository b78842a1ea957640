"""What was noted of a column's chunks as they were written, for whoever verifies or searches them.

Invariant: a chunk that is written again replaces what was noted of it.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from isal import isal_zlib

from shardwriter.files.layout import TIMESTEPS

__all__ = ["ChunkNotes"]

Array = np.ndarray[Any, Any]


class ChunkNotes:
    """The CRC-32 of each chunk of a column, and of timesteps their order.

    Parameters
    ----------
    column
        The column's name.
    """

    __slots__ = ("_digests", "_has_order", "_spans")

    def __init__(self, column: str) -> None:
        self._has_order = column == TIMESTEPS
        self._digests: dict[int, int] = {}
        self._spans: dict[int, tuple[int, int, bool]] = {}

    def add(self, chunk: int, values: Array) -> None:
        """Take note of a chunk's rows, which are contiguous."""
        self._digests[chunk] = isal_zlib.crc32(values.reshape(-1).view(np.uint8))
        if self._has_order and len(values):
            is_sorted = bool((values[1:] >= values[:-1]).all())
            self._spans[chunk] = (int(values[0]), int(values[-1]), is_sorted)

    def keep(self, chunks: int) -> None:
        """Forget all but the first chunks."""
        self._digests = {i: crc for i, crc in self._digests.items() if i < chunks}
        self._spans = {i: span for i, span in self._spans.items() if i < chunks}

    def attributes(self) -> dict[str, object]:
        """Return what stands with the column: a CRC-32 over those of its chunks.

        The digest is the CRC-32 of the chunks' own CRC-32s (of their rows' bytes), each 4
        bytes little-endian, in order; chunks that a late column lacks are left out. Timesteps
        also say whether they are sorted, which lets a reader search them.
        """
        parts = [self._digests[i].to_bytes(4, "little") for i in sorted(self._digests)]
        noted: dict[str, object] = {"crc32": np.uint32(isal_zlib.crc32(b"".join(parts)))}
        if self._has_order:
            noted["is_sorted"] = self._is_sorted()
        return noted

    def _is_sorted(self) -> bool:
        spans = [self._spans[chunk] for chunk in sorted(self._spans)]
        rises = all(a[1] <= b[0] for a, b in pairwise(spans))
        return rises and all(is_sorted for _, _, is_sorted in spans)
