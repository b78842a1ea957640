"""Writer processes: who drains an episode, and how slots are handed over.

A process that logs owns its writers. Each is a fresh interpreter joined by one link; a message
per full slot is at once wake-up, memory barrier and back-pressure. Invariant: what a writer has
not acknowledged is still in the buffer, so a killed writer is replaced and told again.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

from shardwriter.errors import WriterFailed
from shardwriter.instants import reached
from shardwriter.layout import EpisodePaths
from shardwriter.process import Child, Parent, ignore_signals
from shardwriter.shard import Codecs
from shardwriter.writer import EpisodeWriter, Sealed, finished

__all__ = ["Drain", "LocalDrain", "RemoteDrain", "WriterProcess"]

_MOST_DEATHS = 3

T = TypeVar("T")


class Drain(Protocol):
    """Takes an episode's full slots and, at its end, seals the shard."""

    def hand_over(self, name: str, chunk: int, n_slots: int) -> None:
        """Give away a full slot, one of `n_slots`."""

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Wait until the slot that held that chunk may be used again."""

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


class LocalDrain:
    """Writes in the calling thread."""

    def __init__(self, paths: EpisodePaths, codecs: Codecs) -> None:
        self._paths = paths
        self._codecs = codecs
        self._writer: EpisodeWriter | None = None
        self._sealed: Sealed | None = None
        self._blocked_s = 0.0

    def hand_over(self, name: str, chunk: int, n_slots: int) -> None:
        """Write and flush the slot."""
        began = time.perf_counter()
        self._do(lambda writer: writer.drain(name, chunk))
        self._blocked_s += time.perf_counter() - began

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Return: ``hand_over`` has done it."""

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
            with suppress(OSError, RuntimeError):
                writer.close()

    def _do(self, action: Callable[[EpisodeWriter], T]) -> T:
        try:
            if self._writer is None:
                self._writer = EpisodeWriter(self._paths, self._codecs)
            return action(self._writer)
        except BaseException as error:
            self._discard_writer()
            if not isinstance(error, Exception):
                raise
            raise WriterFailed(self._paths.episode, self._paths.shard, str(error)) from error


class RemoteDrain:
    """Hands an episode's slots to a writer process; made by ``WriterProcess.open``.

    What the process has to be told again if it dies stands here: chunks handed over and freed
    by table, and whether the episode is being sealed.
    """

    def __init__(self, process: "WriterProcess", paths: EpisodePaths) -> None:
        self._process = process
        self.paths = paths
        self.handed: dict[str, int] = {}
        self.freed: dict[str, int] = {}
        self.is_sealing = False
        self.sealed: Sealed | None = None
        self.failure: str | None = None
        self._blocked_s = 0.0
        self._most_waiting = 0.0

    def hand_over(self, name: str, chunk: int, n_slots: int) -> None:
        """Tell the writer of a full slot."""
        self._process.absorb()
        if self.failure is not None:
            raise WriterFailed(self.paths.episode, self.paths.shard, self.failure)
        with self._process.sending:
            self.handed[name] = chunk + 1
            waiting = chunk + 1 - self.freed.get(name, 0)
            self._most_waiting = max(self._most_waiting, waiting / n_slots)
            self._process.send(("drain", self.paths.episode, name, chunk))

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Wait for the writer's word that a slot is flushed."""
        if self.freed.get(name, 0) <= chunk:
            self._process.absorb()
        if self.freed.get(name, 0) <= chunk:
            began = time.perf_counter()
            self._process.wait_for(self, lambda: self.freed.get(name, 0) > chunk)
            self._blocked_s += time.perf_counter() - began

    def seal(self) -> None:
        """Tell the writer that the episode has ended; a failure shows when that is waited for."""
        with self._process.sending:
            self.is_sealing = True
            self._process.send(("seal", self.paths.episode))

    def wait_until_sealed(self) -> Sealed:
        """Wait for the writer's word that the shard is published."""
        self._process.wait_for(self, lambda: self.sealed is not None)
        sealed = cast(Sealed, self.sealed)
        return replace(sealed, blocked_s=self._blocked_s, slots_high_water=self._most_waiting)

    def flush(self) -> None:
        """Return: the writer process does it by itself."""

    def check(self) -> None:
        """Raise what the writer reported; called when it set the buffer's alarm."""
        self._process.wait_for(self, lambda: self.sealed is not None)

    @property
    def is_settled(self) -> bool:
        """Whether the writer has reported the shard, or a failure."""
        self._process.absorb()
        return self.sealed is not None or self.failure is not None

    def backlog(self) -> list[tuple[object, ...]]:
        """Return the messages that a new writer needs to go on with this episode."""
        messages: list[tuple[object, ...]] = [("open", self.paths.directory, self.paths.episode)]
        for name, handed in self.handed.items():
            chunks = range(self.freed.get(name, 0), handed)
            messages += [("drain", self.paths.episode, name, chunk) for chunk in chunks]
        if self.is_sealing:
            messages.append(("seal", self.paths.episode))
        return messages


class WriterProcess:
    """A process that drains episodes of this one, and is replaced when it dies.

    Any number of threads may use it. ``close`` waits for all that was handed over.
    """

    def __init__(self) -> None:
        self.sending = threading.Lock()
        self._receiving = threading.Lock()
        self._child: Child | None = None
        self._open: dict[int, RemoteDrain] = {}
        self._deaths = 0

    @property
    def load(self) -> int:
        """Episodes that are open here."""
        return len(self._open)

    def open(self, paths: EpisodePaths) -> RemoteDrain:
        """Let the process drain an episode whose buffer exists."""
        drain = RemoteDrain(self, paths)
        with self.sending:
            if self._child is None:
                self._child = Child(_SERVE)
            self._open[paths.episode] = drain
            self.send(("open", paths.directory, paths.episode))
        return drain

    def send(self, message: tuple[object, ...]) -> None:
        """Send a message; the caller holds ``sending``.

        A dead writer is no error here: whoever waits next replaces it and sends all again.
        """
        if self._child is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._child.link.send(message)

    def wait_for(self, drain: RemoteDrain, done: Callable[[], bool]) -> None:
        """Receive the writer's messages until `done`.

        Raises
        ------
        WriterFailed
            The episode cannot be written; its rows stay in buffer and part.
        """
        with self._receiving:
            while not done():
                if drain.failure is not None:
                    raise WriterFailed(drain.paths.episode, drain.paths.shard, drain.failure)
                self._receive()

    def absorb(self) -> None:
        """Receive what is there; a writer that cannot send would stop reading."""
        if self._receiving.acquire(blocking=False):
            try:
                while self._child is not None and self._child.link.poll():
                    self._receive()
            finally:
                self._receiving.release()

    def close(self) -> None:
        """Wait until every ended episode is sealed, then end the process."""
        if self._child is None:
            return
        with self._receiving:
            while any(d.is_sealing and d.failure is None for d in self._open.values()):
                self._receive()
        self._child.link.close()
        self._child.wait()
        self._child = None

    def _living(self) -> Child:
        if self._child is None:
            raise RuntimeError("the writer process was closed")
        return self._child

    def _receive(self) -> None:
        try:
            kind, episode, *rest = self._living().link.recv()
        except (EOFError, ConnectionResetError):
            self._replace()
            return
        drain = self._open[episode]
        if kind == "free":
            name, chunk = rest
            drain.freed[name] = chunk + 1
            self._deaths = 0
        elif kind == "sealed":
            drain.sealed = rest[0]
            del self._open[episode]
            self._deaths = 0
        else:
            drain.failure = rest[0]

    def _replace(self) -> None:
        """Start another process and tell it everything that is not done."""
        code = self._living().wait()
        self._deaths += 1
        with self.sending:
            if self._deaths >= _MOST_DEATHS:
                for drain in self._open.values():
                    drain.failure = f"its writer process died {self._deaths} times ({_exit(code)})"
                self._open, self._child, self._deaths = {}, None, 0  # later episodes start afresh
                return
            self._child = Child(_SERVE)
            for drain in self._open.values():
                if drain.failure is None:
                    for message in drain.backlog():
                        self.send(message)


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


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
            self._tell(("failed", episode, f"{type(error).__name__}: {error}"))
            if writer is not None:
                writer.buffer.alarm[0] = 1
                with suppress(OSError, RuntimeError):
                    writer.close()

    def _handle(self, kind: str, *rest: Any) -> None:
        if kind == "open":
            directory, episode = rest
            paths = EpisodePaths(directory, episode)
            if paths.shard.exists():  # by a writer that was killed before it could say so
                self._tell(("sealed", episode, finished(paths)))
                return
            writer = EpisodeWriter(paths, self._codecs)
            if not self._writers:
                self._next_flush = time.monotonic() + writer.flush_interval_s
            self._writers[episode] = writer
            return
        episode = rest[0]
        if episode not in self._writers:
            return  # it failed, and the parent was told
        if kind == "drain":
            self._writers[episode].drain(rest[1], rest[2])
            self._tell(("free", *rest))
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
    _Server(parent).run()


_SERVE = f"{__name__}:serve"
