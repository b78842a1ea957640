"""Stops a process of a crash trial at a named instant; Python imports this when it starts."""

import json
import os
import signal
import sys
from pathlib import Path

ROLES = {
    "shardwriter.writer_server": "writer",
    "shardwriter.engines.worker": "worker",
    "recording.py": "main",
    "recovering.py": "recover",
    "merging.py": "merge",
}


def role() -> str:
    command = " ".join(sys.orig_argv[1:])
    return next((role for text, role in ROLES.items() if text in command), "other")


def other_process() -> int:
    """Return the parent's pid for a child of the recording process, else a child's."""
    if role() in ("writer", "worker"):
        return os.getppid()
    children = [
        int(pid)
        for children in Path("/proc/self/task").glob("*/children")
        for pid in children.read_text().split()
    ]
    return children[0] if children else os.getpid()


def kill(who: str) -> None:
    if who == "all":
        os.killpg(0, signal.SIGKILL)
    if who == "pair":
        os.kill(other_process(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def arm(plan: dict) -> None:
    from shardwriter.instants import install

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
        kill(plan["who"])

    install(act)


if "CRASH_PLAN" in os.environ and json.loads(os.environ["CRASH_PLAN"])["role"] == role():
    arm(json.loads(os.environ["CRASH_PLAN"]))
