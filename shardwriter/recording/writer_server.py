"""A writer process from the inside: drains episodes as its parent tells, until that ends.

While slots wait, several threads compress; one alone touches HDF5. Invariant: slots are written in
the order in which they were handed over; a failure costs one episode, never the others.
"""

import gc
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from shardwriter.files.layout import EpisodePaths
from shardwriter.files.refusal import described
from shardwriter.files.shard import Codecs, Encoded
from shardwriter.recording.writer import EpisodeWriter, finished
from shardwriter.system.instants import reached
from shardwriter.system.process import Parent, ignore_termination, make_room_for_files

__all__ = ["serve"]

_MOST_FILES = 65_536  # about ten for each of the episodes that one process may step together
_ENCODERS = 2  # threads; the rest of a slot's way takes turns

_Begun = tuple[int, str, int, "Future[list[Encoded]]"]  # episode, table, chunk


class _Server:
    """The writer process's side: one ``EpisodeWriter`` per open episode."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._writers: dict[int, EpisodeWriter] = {}
        self._codecs: Codecs = {}
        self._next_flush = 0.0
        self._encoders = ThreadPoolExecutor(_ENCODERS, thread_name_prefix="shardwriter-encode")
        self._begun: deque[_Begun] = deque()

    def run(self) -> None:
        """Serve until the parent ends, then seal what it left open."""
        with suppress(EOFError):
            while True:
                # With slots being compressed, look only whether another can be begun.
                message = self._parent.receive(0 if self._begun else self._time_to_flush())
                if message is not None:
                    self._do(message)
                if self._begun and (message is None or len(self._begun) > _ENCODERS):
                    self._finish()
                if self._time_to_flush() == 0:
                    self._flush_all()
        for episode in list(self._writers):
            self._do(("seal", episode))

    def _time_to_flush(self) -> float | None:
        """Return the seconds until partly filled slots are flushed, None with no episode open."""
        if not self._writers:
            return None
        return max(0.0, self._next_flush - time.monotonic())

    def _flush_all(self) -> None:
        for episode in list(self._writers):
            self._do(("flush", episode))
        intervals = [writer.flush_interval_s for writer in self._writers.values()]
        self._next_flush = time.monotonic() + min(intervals, default=0.0)

    def _do(self, message: tuple[Any, ...]) -> None:
        while self._begun and message[0] in ("flush", "seal"):
            self._finish()
        self._guarded(message[1 if message[0] != "open" else 2], message)

    def _finish(self) -> None:
        """Write the slot that was begun first."""
        episode, *rest = self._begun.popleft()
        self._guarded(episode, ("finish", episode, *rest))

    def _guarded(self, episode: int, message: tuple[Any, ...]) -> None:
        try:
            self._handle(*message)
        except Exception as error:  # noqa: BLE001  (it costs this episode, not the others)
            writer = self._writers.pop(episode, None)
            self._tell(("failed", episode, described(error)))
            if writer is not None:
                writer.buffer.alarm[0] = 1
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
                self._begin(episode, name, chunk)
        elif kind == "finish":
            _, name, chunk, future = rest
            self._drain(episode, name, chunk, future.result)
        elif kind == "flush":
            self._writers[episode].flush()
        else:
            sealed = self._writers[episode].seal()
            del self._writers[episode]
            self._tell(("sealed", episode, sealed))
            reached("seal returned")

    def _begin(self, episode: int, name: str, chunk: int) -> None:
        writer = self._writers[episode]
        encode = writer.begin(name, chunk)
        if writer.compresses:
            self._begun.append((episode, name, chunk, self._encoders.submit(encode)))
        else:  # waking another thread would take longer
            self._drain(episode, name, chunk, encode)

    def _drain(
        self, episode: int, name: str, chunk: int, encode: Callable[[], list[Encoded]]
    ) -> None:
        self._writers[episode].drain(name, chunk, encode)
        self._tell(("free", episode, name, chunk))
        reached("slot returned")

    def _tell(self, message: tuple[object, ...]) -> None:
        link = self._parent.link
        send = link.send_short if message[0] == "free" else link.send
        with suppress(OSError):  # a dead parent hears nothing, and needs to hear nothing
            send(message)


def serve(parent: Parent) -> None:
    """Run a writer process."""
    ignore_termination()
    # So that waking it for a slot does not put the simulation aside where cores are short.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    make_room_for_files(_MOST_FILES)
    gc.freeze()  # what was imported is no garbage; looking through it took a tenth of the time
    _Server(parent).run()
