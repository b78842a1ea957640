"""Processes of a trial, forked from one that has imported everything but opened no file.

A fresh interpreter takes half a second to import what a recording needs, which would be nearly all
of a trial. So the recording process is forked, before it does anything forks idle processes that
wait for work, and what it starts then takes the place of one of these, as its child.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import shardwriter.system.process
from shardwriter.system.instants import install

_IDLE = 4  # two workers, and two that take the place of dead ones
_IDLE_OF_WORKER = 3  # a writer, and two that take the place of dead ones
_ROLES = {
    "writer_server": "writer",
    "engines.worker": "worker",
    "merge.describing": "describer",
    "files.trial": "trial",
}
_MOST_BYTES = 1 << 20


def fork(role: str, plan: dict | None, log: Path, run: Callable[[], None]) -> int:
    """Run a function in a process of its own, the leader of a group; return its pid."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        shardwriter.system.process.subprocess = _Starter(plan, _IDLE)
        _become(role, plan, run)
    return pid


def _become(role: str, plan: dict | None, run: Callable[[], None]) -> None:
    """Run a function under a name that tells the role, and end."""
    code = 1
    try:
        Path("/proc/self/comm").write_text(f"crash-{role}")
        if plan is not None and plan["role"] == role:
            _arm(plan)
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  (as the interpreter does)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Starter:
    """Stands in for the module ``subprocess``: gives each new process's work to an idle one."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self, plan: dict | None, idle: int) -> None:
        self._idle: list[tuple[int, socket.socket]] = []
        for _ in range(idle):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                ours.close()
                for _, other in self._idle:
                    other.close()
                _wait_for_work(theirs, plan)
            theirs.close()
            self._idle.append((pid, ours))

    def Popen(self, command: list[str], **options) -> "_Forked":  # noqa: N802  (subprocess's name)
        while True:
            pid, link = self._idle.pop(0)
            (fd,) = options["pass_fds"]
            work = json.dumps({"code": command[2], "fd": fd, "env": dict(options["env"])})
            try:
                socket.send_fds(link, [work.encode()], [fd])
            except OSError:  # killed meanwhile
                os.waitpid(pid, 0)
                continue
            link.close()
            return _Forked(pid)


def _wait_for_work(link: socket.socket, plan: dict | None) -> None:
    Path("/proc/self/comm").write_text("crash-idle")
    data, fds, _, _ = socket.recv_fds(link, _MOST_BYTES, 1)
    if not data:
        os._exit(0)
    link.close()
    work = json.loads(data)
    shardwriter.system.process.subprocess = _Starter(plan, _IDLE_OF_WORKER)
    if fds[0] != work["fd"]:
        os.dup2(fds[0], work["fd"], inheritable=False)
        os.close(fds[0])
    os.environ.update(work["env"])
    role = next(role for text, role in _ROLES.items() if text in work["code"])
    _become(role, plan, lambda: exec(work["code"], {}))


class _Forked:
    """The part of ``subprocess.Popen`` that ``shardwriter.system.process`` uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._take(os.waitpid(self.pid, os.WNOHANG))
        return self._code

    def wait(self) -> int:
        while self._code is None:
            self._take(os.waitpid(self.pid, 0))
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _take(self, found: tuple[int, int]) -> None:
        pid, status = found
        if pid:
            self._code = os.waitstatus_to_exitcode(status)


def _arm(plan: dict) -> None:
    """Kill this process, and whom the plan says, when it reaches the plan's instant."""
    left = [plan["nth"]]

    def act(instant: str) -> None:
        if instant != plan["instant"]:
            return
        left[0] -= 1
        if left[0] > 0:
            return
        try:
            os.unlink(plan["fuse"])  # one process of the trial wins
        except FileNotFoundError:
            return
        if plan["who"] == "all":
            os.killpg(0, signal.SIGKILL)
        if plan["who"] == "pair":
            os.kill(_other_process(plan["role"]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    install(act)


def _other_process(role: str) -> int:
    """Return the parent's pid for a child of the recording process, else a child's."""
    if role in ("writer", "worker"):
        return os.getppid()
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if role_of(int(pid)) != "idle":
                return int(pid)
    return os.getpid()


def role_of(pid: int) -> str | None:
    """Return the role of a process of a trial, None for one that has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = state[state.index("(") + 1 : state.rindex(")")]
    return None if state[state.rindex(")") + 2] in "ZX" else name.removeprefix("crash-")
