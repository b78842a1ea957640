"""Who takes an episode's full slots: the interface, and the one that works in this process.

Invariant: a slot is free only once its rows are flushed into the part.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar, cast

from shardwriter.errors import WriterFailed
from shardwriter.files.layout import EpisodePaths
from shardwriter.files.refusal import described
from shardwriter.files.shard import Codecs
from shardwriter.recording.writer import EpisodeWriter, Sealed, finished
from shardwriter.system.process import uninterrupted

__all__ = ["Drain", "LocalDrain"]

T = TypeVar("T")


class Drain(Protocol):
    """Takes an episode's full slots and, at its end, seals the shard."""

    def hand_over(self, name: str, chunk: int) -> None:
        """Give away a full slot."""

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Wait until the slot that held that chunk may be used again."""

    def is_free(self, name: str, chunk: int) -> bool:
        """Tell without waiting whether that slot is known to be free."""

    def seal(self) -> None:
        """Begin to seal the shard; the buffer holds the episode's end already."""

    def wait_until_sealed(self) -> Sealed:
        """Wait until the shard is published."""

    def flush(self) -> None:
        """Bring the rows of slots that are not full yet to the part, where nobody else does."""

    def check(self) -> None:
        """Raise the failure for which the buffer's alarm was set."""

    @property
    def is_settled(self) -> bool:
        """Whether the shard is known to be published, or known to have failed."""


def _drain(writer: EpisodeWriter, name: str, chunk: int) -> None:
    writer.drain(name, chunk, writer.begin(name, chunk))


class LocalDrain:
    """Writes in the calling thread."""

    def __init__(self, paths: EpisodePaths, codecs: Codecs) -> None:
        self._paths = paths
        self._codecs = codecs
        self._writer: EpisodeWriter | None = None
        self._sealed: Sealed | None = None
        self._blocked_s = 0.0
        self._drained: dict[str, int] = {}  # chunks by table

    def hand_over(self, name: str, chunk: int) -> None:
        """Write and flush the slot, after those that could not be written before."""
        began = time.perf_counter()
        for due in range(self._drained.get(name, 0), chunk + 1):
            self._do(partial(_drain, name=name, chunk=due))
            self._drained[name] = due + 1
        self._blocked_s += time.perf_counter() - began

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Return where ``hand_over`` has done it, else try again: its rows are nowhere else."""
        if not self.is_free(name, chunk):
            self.hand_over(name, chunk)

    def is_free(self, name: str, chunk: int) -> bool:
        """Tell whether ``hand_over`` has done it."""
        return self._drained.get(name, 0) > chunk

    def seal(self) -> None:
        """Write what is left and publish the shard."""
        sealed = self._do(lambda writer: writer.seal())
        self._sealed = replace(sealed, blocked_s=self._blocked_s)
        self._writer = None  # its view of the buffer would keep that in memory

    def wait_until_sealed(self) -> Sealed:
        """Return what ``seal`` made; do it now where it was cut short."""
        if self._sealed is None and self._paths.shard.exists():
            self._sealed = finished(self._paths)
        elif self._sealed is None:
            self.seal()
        return cast(Sealed, self._sealed)

    def flush(self) -> None:
        """Write the rows of slots that are not full yet; the caller keeps others from logging."""
        if self._sealed is None:
            self._do(lambda writer: writer.flush())

    def check(self) -> None:
        """Return: a failure was raised where it happened."""

    @property
    def is_settled(self) -> bool:
        """Whether ``seal`` has returned."""
        return self._sealed is not None

    def _discard_writer(self) -> None:
        """Drop a writer that was cut short; the next one goes on from buffer and part."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _do(self, action: Callable[[EpisodeWriter], T]) -> T:
        try:
            with uninterrupted():
                if self._writer is None:
                    self._writer = EpisodeWriter(self._paths, self._codecs)
                return action(self._writer)
        except BaseException as error:
            self._discard_writer()
            if not isinstance(error, Exception):
                raise
            raise WriterFailed(self._paths.episode, self._paths.shard, described(error)) from error
