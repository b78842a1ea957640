"""A writer process from the inside: drains episodes as its parent tells, until that ends.

Invariant: a failure costs one episode, never the others.
"""

import os
import time
from contextlib import suppress
from typing import Any

from shardwriter.files.layout import EpisodePaths
from shardwriter.files.shard import Codecs
from shardwriter.recording.writer import EpisodeWriter, finished
from shardwriter.system.instants import reached
from shardwriter.system.process import Parent, ignore_signals, make_room_for_files

__all__ = ["serve"]

_MOST_FILES = 65_536  # about ten for each of the episodes that one process may step together


class _Server:
    """The writer process's side: one ``EpisodeWriter`` per open episode."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._writers: dict[int, EpisodeWriter] = {}
        self._codecs: Codecs = {}
        self._next_flush = 0.0

    def run(self) -> None:
        """Serve until the parent ends, then seal what it left open."""
        with suppress(EOFError):
            while True:
                message = self._parent.receive(self._time_to_flush())
                if message is not None:
                    self._guarded(message[1 if message[0] != "open" else 2], message)
                if self._time_to_flush() == 0:
                    self._flush_all()
        for episode in list(self._writers):
            self._guarded(episode, ("seal", episode))

    def _time_to_flush(self) -> float | None:
        """Return the seconds until partly filled slots are flushed, None with no episode open."""
        if not self._writers:
            return None
        return max(0.0, self._next_flush - time.monotonic())

    def _flush_all(self) -> None:
        for episode in list(self._writers):
            self._guarded(episode, ("flush", episode))
        intervals = [writer.flush_interval_s for writer in self._writers.values()]
        self._next_flush = time.monotonic() + min(intervals, default=0.0)

    def _guarded(self, episode: int, message: tuple[Any, ...]) -> None:
        try:
            self._handle(*message)
        except Exception as error:  # noqa: BLE001  (it costs this episode, not the others)
            writer = self._writers.pop(episode, None)
            text = " ".join(str(error).split())  # HDF5 writes a newline after the time
            self._tell(("failed", episode, f"{type(error).__name__}: {text}"))
            if writer is not None:
                writer.buffer.alarm[0] = 1
                with suppress(OSError, RuntimeError):
                    writer.close()

    def _handle(self, kind: str, *rest: Any) -> None:
        if kind == "open":
            directory, episode, owner = rest
            paths = EpisodePaths(directory, episode)
            if paths.shard.exists():  # by a writer that was killed before it could say so
                self._tell(("sealed", episode, finished(paths)))
                return
            writer = EpisodeWriter(paths, self._codecs, owner=owner)
            if not self._writers:
                self._next_flush = time.monotonic() + writer.flush_interval_s
            self._writers[episode] = writer
            return
        episode = rest[0]
        if episode not in self._writers:
            return  # it failed, and the parent was told
        if kind == "drain":
            _, name, first, last = rest
            for chunk in range(first, last + 1):
                self._writers[episode].drain(name, chunk)
                self._tell(("free", episode, name, chunk))
                reached("slot returned")
        elif kind == "flush":
            self._writers[episode].flush()
        else:
            sealed = self._writers[episode].seal()
            del self._writers[episode]
            self._tell(("sealed", episode, sealed))
            reached("seal returned")

    def _tell(self, message: tuple[object, ...]) -> None:
        with suppress(OSError):  # a dead parent hears nothing, and needs to hear nothing
            self._parent.link.send(message)


def serve(parent: Parent) -> None:
    """Run a writer process."""
    ignore_signals()
    # So that waking it for a slot does not put the simulation aside where cores are short.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    make_room_for_files(_MOST_FILES)
    _Server(parent).run()
