"""Writer processes: who drains an episode, and how slots are handed over.

A process that logs owns its writers. Each is a fresh interpreter joined by one link; a message
per full slot is at once wake-up, memory barrier and back-pressure. Invariant: what a writer has
not acknowledged is still in the buffer, so a killed writer is replaced and told again.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

from shardwriter.errors import ShardWriterError, WriterFailed
from shardwriter.layout import EpisodePaths
from shardwriter.process import Child, Parent, ignore_signals
from shardwriter.shard import Codecs
from shardwriter.writer import EpisodeWriter, Sealed

__all__ = ["Drain", "LocalDrain", "RemoteDrain", "WriterProcess"]

_MOST_DEATHS = 3

T = TypeVar("T")


class Drain(Protocol):
    """Takes an episode's full slots and, at its end, seals the shard."""

    def hand_over(self, name: str, chunk: int) -> None:
        """Give away a full slot."""

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Wait until the slot that held that chunk may be used again."""

    def seal(self) -> None:
        """Begin to seal the shard; the buffer holds the episode's end already."""

    def wait_until_sealed(self) -> Sealed:
        """Wait until the shard is published."""

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

    def hand_over(self, name: str, chunk: int) -> None:
        """Write and flush the slot."""
        self._do(lambda writer: writer.drain(name, chunk))

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Return: ``hand_over`` has done it."""

    def seal(self) -> None:
        """Write what is left and publish the shard."""
        self._sealed = self._do(lambda writer: writer.seal())

    def wait_until_sealed(self) -> Sealed:
        """Return what ``seal`` made."""
        if self._sealed is None:
            raise WriterFailed(self._paths.episode, self._paths.shard, "it was not sealed")
        return self._sealed

    def check(self) -> None:
        """Return: a failure was raised where it happened."""

    @property
    def is_settled(self) -> bool:
        """Whether ``seal`` has returned."""
        return self._sealed is not None

    def _do(self, action: Callable[[EpisodeWriter], T]) -> T:
        try:
            if self._writer is None:
                self._writer = EpisodeWriter(self._paths, self._codecs)
            return action(self._writer)
        except (OSError, RuntimeError) as error:
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

    def hand_over(self, name: str, chunk: int) -> None:
        """Tell the writer of a full slot."""
        self._process.absorb()
        with self._process.sending:
            self.handed[name] = chunk + 1
            self._process.send(("drain", self.paths.episode, name, chunk))

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Wait for the writer's word that a slot is flushed."""
        if self.freed.get(name, 0) <= chunk:
            self._process.wait_for(self, lambda: self.freed.get(name, 0) > chunk)

    def seal(self) -> None:
        """Tell the writer that the episode has ended."""
        with self._process.sending:
            self.is_sealing = True
            self._process.send(("seal", self.paths.episode))

    def wait_until_sealed(self) -> Sealed:
        """Wait for the writer's word that the shard is published."""
        self._process.wait_for(self, lambda: self.sealed is not None)
        return cast(Sealed, self.sealed)

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
        with suppress(BrokenPipeError, ConnectionResetError):
            self._living().link.send(message)

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

    def run(self) -> None:
        """Serve until the parent ends, then seal what it left open."""
        with suppress(EOFError):
            while True:
                message = self._parent.receive()
                self._guarded(message[1 if message[0] != "open" else 2], message)
        for episode in list(self._writers):
            self._guarded(episode, ("seal", episode))

    def _guarded(self, episode: int, message: tuple[Any, ...]) -> None:
        try:
            self._handle(*message)
        except (OSError, RuntimeError, ShardWriterError) as error:
            writer = self._writers.pop(episode, None)
            self._tell(("failed", episode, f"{type(error).__name__}: {error}"))
            if writer is not None:
                writer.buffer.alarm[0] = 1
                with suppress(OSError, RuntimeError):
                    writer.close()

    def _handle(self, kind: str, *rest: Any) -> None:
        if kind == "open":
            directory, episode = rest
            self._writers[episode] = EpisodeWriter(EpisodePaths(directory, episode), self._codecs)
            return
        episode = rest[0]
        if episode not in self._writers:
            return  # it failed, and the parent was told
        if kind == "drain":
            self._writers[episode].drain(rest[1], rest[2])
            self._tell(("free", *rest))
        else:
            sealed = self._writers[episode].seal()
            del self._writers[episode]
            self._tell(("sealed", episode, sealed))

    def _tell(self, message: tuple[object, ...]) -> None:
        with suppress(OSError):  # a dead parent hears nothing, and needs to hear nothing
            self._parent.link.send(message)


def serve(parent: Parent) -> None:
    """Run a writer process."""
    ignore_signals()
    _Server(parent).run()


_SERVE = f"{__name__}:serve"
