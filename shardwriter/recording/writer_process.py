"""Writer processes, as the process that logs sees them: slots handed over, deaths made good.

A process that logs owns its writers. Each is a fresh interpreter joined by one link; a message
per full slot is at once wake-up, memory barrier and back-pressure. Invariant: what a writer has
not acknowledged is still in the buffer, so a killed writer is replaced and told again.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from shardwriter.errors import WriterFailed
from shardwriter.files.layout import EpisodePaths
from shardwriter.recording.writer import Sealed
from shardwriter.system.process import Child, Identity, uninterrupted

__all__ = ["RemoteDrain", "WriterProcess"]

_SERVE = "shardwriter.recording.writer_server:serve"
_MOST_DEATHS = 3
_MOST_UNHEARD = 64  # of the writer's messages; several hundred fill a socket
# A writer allocates and frees blocks of about a megabyte all the time: without these, glibc gives
# each back to the kernel and faults it in again. It does no linear algebra, so needs no threads.
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "OPENBLAS_NUM_THREADS": "1",
}


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

    def hand_over(self, name: str, chunk: int) -> None:
        """Tell the writer of a full slot."""
        # Ctrl-C may come between any two of these lines. What the writer was not told it is told
        # with the next slot, or when that is waited for; what it is told twice it does once.
        with self._process.sending:
            first = self.handed.get(name, 0)
            self._process.send(("drain", self.paths.episode, name, first, chunk))
            self.handed[name] = chunk + 1
        self._process.absorb_in_time()
        if self.failure is not None:
            raise WriterFailed(self.paths.episode, self.paths.shard, self.failure)

    def wait_until_free(self, name: str, chunk: int) -> None:
        """Wait for the writer's word that a slot is flushed."""
        if not self.is_free(name, chunk):
            self._process.absorb()
        if self.handed.get(name, 0) <= chunk:
            self.hand_over(name, chunk)
        if not self.is_free(name, chunk):
            began = time.perf_counter()
            self._process.wait_for(self, lambda: self.is_free(name, chunk))
            self._blocked_s += time.perf_counter() - began

    def is_free(self, name: str, chunk: int) -> bool:
        """Tell whether the writer's word has come that the slot is flushed."""
        return self.freed.get(name, 0) > chunk

    def seal(self) -> None:
        """Tell the writer that the episode has ended; a failure shows when that is waited for."""
        with uninterrupted(), self._process.sending:
            self.is_sealing = True
            self._process.send(("seal", self.paths.episode))

    def wait_until_sealed(self) -> Sealed:
        """Wait for the writer's word that the shard is published."""
        self._process.wait_for(self, lambda: self.sealed is not None)
        return replace(cast(Sealed, self.sealed), blocked_s=self._blocked_s)

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

    @property
    def opening(self) -> tuple[object, ...]:
        """The message by which a writer takes the episode on."""
        return ("open", self.paths.directory, self.paths.episode, Identity.own())

    def backlog(self) -> list[tuple[object, ...]]:
        """Return the messages that a new writer needs to go on with this episode."""
        messages = [self.opening]
        for name, handed in self.handed.items():
            messages.append(
                ("drain", self.paths.episode, name, self.freed.get(name, 0), handed - 1)
            )
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
        self._unheard = 0  # at most so many messages wait here; the writer answers each

    @property
    def load(self) -> int:
        """Episodes that are open here."""
        return len(self._open)

    def open(self, paths: EpisodePaths) -> RemoteDrain:
        """Let the process drain an episode whose buffer exists."""
        drain = RemoteDrain(self, paths)
        with self.sending:
            if self._child is None:
                self._child = Child(_SERVE, _ENVIRONMENT)
            self._open[paths.episode] = drain
            self.send(drain.opening)
        return drain

    def send(self, message: tuple[object, ...]) -> None:
        """Send a message; the caller holds ``sending``.

        A dead writer is no error here: whoever receives next replaces it and sends all again.
        """
        self._unheard += 1
        if self._child is None:
            return
        try:
            self._child.link.send_short(message)
        except (BrokenPipeError, ConnectionResetError):
            self._unheard = _MOST_UNHEARD

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

    def absorb_in_time(self) -> None:
        """Receive what is there, if that may be much or the writer is dead.

        A writer that cannot send would stop reading.
        """
        if self._unheard >= _MOST_UNHEARD:
            self.absorb()

    def absorb(self) -> None:
        """Receive what is there."""
        if self._receiving.acquire(blocking=False):
            self._unheard = 0
            try:
                self._take_messages()
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
        """Wait for a message, which Ctrl-C may end, and take it, which Ctrl-C may not."""
        self._living().link.poll(None)
        self._take_messages()

    def _take_messages(self) -> None:
        with uninterrupted(), suppress(EOFError, ConnectionResetError):
            while self._child is not None and self._child.link.poll():
                self._take(*self._child.link.recv())
            return
        self._replace()

    def _take(self, kind: str, episode: int, *rest: Any) -> None:
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
        with uninterrupted(), self.sending:
            self._deaths += 1
            if self._deaths >= _MOST_DEATHS:
                self._give_up(f"its writer process died {self._deaths} times ({_exit(code)})")
                return
            try:
                self._child = Child(_SERVE, _ENVIRONMENT)
            except OSError as error:
                self._give_up(f"its writer process died, and no other could be started: {error}")
                return
            for drain in self._open.values():
                if drain.failure is None:
                    for message in drain.backlog():
                        self.send(message)

    def _give_up(self, reason: str) -> None:
        """Fail all episodes that are open here; later ones start afresh."""
        for drain in self._open.values():
            drain.failure = reason
        self._open, self._child, self._deaths = {}, None, 0


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
