"""Spike ids in whole chunks, for libraries that would read and compress a partial chunk again."""

from __future__ import annotations

import numpy as np

from bench.data import Ints
from bench.libraries.buffered import SPIKES_PER_CHUNK

__all__ = ["WholeChunks"]


class WholeChunks:
    """Keeps what does not fill a chunk until it does."""

    def __init__(self) -> None:
        self._rest: Ints = np.empty(0, np.int32)

    def take(self, ids: Ints) -> Ints:
        """Add ids, and return those that fill whole chunks, perhaps none."""
        ids = np.concatenate([self._rest, ids])
        whole = len(ids) // SPIKES_PER_CHUNK * SPIKES_PER_CHUNK
        self._rest = ids[whole:]
        return ids[:whole]

    @property
    def rest(self) -> Ints:
        """What is left at the end."""
        return self._rest
