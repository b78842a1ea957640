"""Processes: who one is, whether it lives, and fresh interpreters joined by a socket.

Children are started by executing a new interpreter, never by fork alone (HDF5 and threads do
not survive one), and they do not import the caller's ``__main__``. Invariant: every wait here
is for a file descriptor, never for time to pass.
"""

import os
import pickle
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from shardwriter.system.descriptors import descriptors_for

__all__ = [
    "Child",
    "Identity",
    "Link",
    "Parent",
    "TerminationAsExit",
    "make_room_for_files",
    "uninterrupted",
]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_NAMESPACE = Path("/proc/self/ns/pid")
_LABEL = re.compile(
    r"(?P<host>.+)-(?P<boot>[0-9a-f]{32})-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<ticks>\d+)"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from every other that ever had its pid.

    ``start_ticks`` is field 22 of ``/proc/<pid>/stat``: clock ticks from boot to the start of
    the process, which no change of the clock moves.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int

    @classmethod
    def own(cls) -> "Identity":
        """Return this process's identity."""
        return _identity_of(os.getpid())  # by its pid: a fork has another one

    @property
    def state(self) -> Literal["alive", "dead", "unknown"]:
        """Whether the process still runs; unknown for another host or pid namespace."""
        host, boot_id, namespace = _machine()
        if self.host != host:
            return "unknown"
        if self.boot_id != boot_id:
            return "dead"
        if self.pid_namespace != namespace:
            return "unknown"
        return "alive" if start_ticks(self.pid) == self.start_ticks else "dead"

    @property
    def label(self) -> str:
        """The identity as part of a file name."""
        fields = (self.boot_id.replace("-", ""), self.pid_namespace.strip("pid:[]") or 0)
        return "-".join(str(value) for value in (self.host, *fields, self.pid, self.start_ticks))

    @classmethod
    def from_label(cls, label: str) -> "Identity | None":
        """Return the identity that has this label, None where it is none."""
        match = _LABEL.fullmatch(label)
        if match is None:
            return None
        boot_id = str(uuid.UUID(match["boot"]))
        namespace = f"pid:[{match['namespace']}]" if match["namespace"] != "0" else ""
        return cls(match["host"], boot_id, namespace, int(match["pid"]), int(match["ticks"]))

    def to_json(self) -> dict[str, object]:
        """Return the fields by name."""
        return asdict(self)


@cache
def _identity_of(pid: int) -> Identity:
    return Identity(*_machine(), pid, start_ticks(pid) or 0)


@cache
def _machine() -> tuple[str, str, str]:
    namespace = os.readlink(_NAMESPACE) if _NAMESPACE.is_symlink() else ""
    return socket.gethostname(), _BOOT_ID.read_text().strip(), namespace


def start_ticks(pid: int) -> int | None:
    """Return when a running process started, None for one that has ended (or is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return None if fields[0] in ("Z", "X") else int(fields[19])


class Link(Connection):
    """One end of a two-way link, for those who have no time.

    ``Connection.poll`` builds a selector and ``Connection.send`` a pickler each time, which takes
    longer than the system call.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Tell whether something came, or the other end is gone, within so many seconds."""
        self.fileno()  # raises where it is closed
        return bool(self._poller.poll(None if timeout is None else 1e3 * timeout))

    def send_short(self, message: tuple[object, ...]) -> None:
        """Send builtin values and dataclasses that make a short message: whole, or not at all."""
        data = pickle.dumps(message)
        os.write(self.fileno(), len(data).to_bytes(4, "big") + data)  # as `Connection` does


class Child:
    """A fresh interpreter that runs one function, with a two-way link to it.

    Parameters
    ----------
    target
        ``"package.module:function"``; it is called with a ``Parent``.
    environment
        Variables for the child, beyond those of this process.

    Attributes
    ----------
    link
        This end; ``recv`` raises EOFError once the child is gone.
    """

    def __init__(self, target: str, environment: Mapping[str, str] | None = None) -> None:
        program = Path(sys.executable)
        with descriptors_for(program):
            ours, theirs = socket.socketpair()
        module, _, function = target.partition(":")
        code = (
            f"from shardwriter.system.process import Parent; from {module} import {function}; "
            f"{function}(Parent({theirs.fileno()}, {os.getpid()}))"
        )
        paths = os.pathsep.join(path for path in sys.path if path)
        with theirs, descriptors_for(program), _without_interrupts():
            self._process = subprocess.Popen(
                [program, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
            )
        self.link = Link(ours.detach())
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """Wait for the child's end; return its exit code, negative for a signal."""
        code = self._process.wait()
        self._let_go()
        return code

    def wait_s(self, seconds: float) -> bool:
        """Wait at most so long for the child's end; tell whether it came."""
        return self.pidfd < 0 or bool(wait([self.pidfd], timeout=seconds))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the child a signal, unless it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _let_go(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
            self.link.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let what is started here never see a Ctrl-C, which a terminal sends to all processes.

    Its parent does, and ends it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Parent:
    """The process that started this one, and the link to it.

    Attributes
    ----------
    link
        This end; ``recv`` raises EOFError once the parent is gone.
    pidfd
        Becomes readable when the parent ends. The link's end may come seconds later, where a
        process that the parent forked still holds it.
    """

    def __init__(self, fd: int, pid: int) -> None:
        self.link = Link(fd)
        self.pidfd = os.pidfd_open(os.getppid())
        self._is_gone = os.getppid() != pid
        self._poller = select.poll()
        for each in (fd, self.pidfd):
            self._poller.register(each, select.POLLIN)

    def receive(self, timeout_s: float | None = None) -> Any:
        """Return the parent's next message, or None when the time is up.

        Raises
        ------
        EOFError
            The parent has ended, or closed the link, and every message was received.
        """
        ready = dict(self._poller.poll(None if timeout_s is None else 1e3 * timeout_s))
        if self.link.fileno() in ready:
            try:
                return self.link.recv()
            except ConnectionResetError as error:
                raise EOFError from error
        if ready or self._is_gone:
            raise EOFError
        return None


def make_room_for_files(count: int) -> None:
    """Raise this process's limit of open files, where it is lower, as far as it may go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block is left, which they could leave half done.

    Python drops a KeyboardInterrupt that strikes inside a destructor or weak reference's
    callback, of which HDF5 objects have many. Only the main thread is ever interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: dict[int, FrameType | None] = {}
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    try:
        for number in _INTERRUPTS:
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, caught.__setitem__)
        yield
    finally:
        for kind, original in handlers.items():
            signal.signal(kind, original)
        for kind, frame in caught.items():
            handlers[kind](kind, frame)


def ignore_termination() -> None:
    """Leave SIGTERM to the parent, as Ctrl-C is: this process ends when its parent does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class TerminationAsExit:
    """While it is on, SIGTERM raises SystemExit in the main thread, as Ctrl-C does its own.

    A second SIGTERM changes nothing. Where somebody else handles SIGTERM, or in another thread,
    it does nothing.
    """

    def __init__(self) -> None:
        self._is_on = False

    def turn_on(self) -> None:
        """Take SIGTERM over, unless somebody else has."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._exit)
            self._is_on = True

    def turn_off(self) -> None:
        """Give SIGTERM its default back."""
        if self._is_on:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._is_on = False

    def _exit(self, number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)
