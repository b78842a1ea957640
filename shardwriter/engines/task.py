"""One episode as the task of somebody else's engine: what its workers call.

Invariant: a task that is run twice, as engines do when a worker dies, records once: what the
first run left is brought to its end, and reported.
"""

import os
import socket
import sys
import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from shardwriter.config import RecorderConfig
from shardwriter.engines.outcome import has_begun, recovered_result, sealed_result
from shardwriter.engines.result import EpisodeResult
from shardwriter.engines.worker import (
    Rollout,
    packed,
    record,
    settled,
    unpacked,
    worker_config,
)
from shardwriter.errors import ConfigError, WriterFailed
from shardwriter.files.layout import EpisodePaths, setup_owners, setup_path
from shardwriter.recording.performance import Collected
from shardwriter.recording.recorder import Recorder
from shardwriter.system.process import Identity

__all__ = ["let_go", "run_task", "sweep_setups", "write_setup"]

_IDLE_S = 10.0


class _Setup(NamedTuple):
    """What every task of one run needs to know; it travels once, in a file."""

    directory: Path
    config: RecorderConfig
    n_neurons: int | None
    n_workers: int
    rollout: Rollout

    def recorder(self) -> Recorder:
        """Return a recorder with its share of the memory that a node has for buffers."""
        on_this_node = min(self.n_workers, os.cpu_count() or 1)
        return Recorder(self.directory, worker_config(self.config, on_this_node), self.n_neurons)


def sweep_setups(directory: Path) -> None:
    """Remove what runs of dead processes have left of ``write_setup``."""
    for path, label in setup_owners(directory).items():
        owner = Identity.from_label(label)
        if owner is not None and owner.state == "dead":
            path.unlink(missing_ok=True)


def write_setup(recorder: Recorder, rollout: Rollout, n_workers: int) -> Path:
    """Write the file that the tasks of one run read, in the experiment's directory.

    Raises
    ------
    ConfigError
        The rollout cannot be pickled.
    """
    setup = packed((recorder.output_dir, recorder.config, recorder.n_neurons, n_workers, rollout))
    folders = [os.path.abspath(folder) for folder in sys.path]
    path = setup_path(recorder.output_dir, Identity.own().label, os.urandom(4).hex())
    path.write_bytes(packed((folders, setup)))
    return path


@lru_cache(maxsize=2)
def _setup(path: Path) -> _Setup:
    try:
        folders, setup = unpacked(path.read_bytes())
    except FileNotFoundError:
        where = f"none on host {socket.gethostname()} (pid {os.getpid()})"
        expected = f"{path.parent} on every node, as a directory that all of them share"
        raise ConfigError("output_dir", expected, where) from None
    # What can be imported where the run was started can be imported here.
    sys.path += [folder for folder in folders if folder not in sys.path]
    return _Setup(*unpacked(setup))


class _Idle:
    """Recorders between two tasks of this process, with their writer processes and codecs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorders: list[tuple[Path, Recorder]] = []
        self._timer: threading.Timer | None = None

    def take(self, path: Path) -> Recorder | None:
        """Return an idle recorder of a run, and close those of other runs."""
        with self._lock:
            mine = [recorder for key, recorder in self._recorders if key == path]
            others = [recorder for key, recorder in self._recorders if key != path]
            taken = mine.pop() if mine else None
            self._recorders = [(path, recorder) for recorder in mine]
        for recorder in others:
            recorder.close()
        return taken

    def put_back(self, path: Path, recorder: Recorder) -> None:
        """Keep a recorder for the next task, if that comes soon."""
        with self._lock:
            self._recorders.append((path, recorder))
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_IDLE_S, self.close)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Close every idle recorder."""
        with self._lock:
            recorders, self._recorders = self._recorders, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for _, recorder in recorders:
            recorder.close()


_idle = _Idle()
_stopped_here: set[str] = set()  # runs of which Ctrl-C has ended a task in this process


def let_go() -> None:
    """End the writer processes that tasks run by this very process have left."""
    _idle.close()
    _setup.cache_clear()


def run_task(path: str, episode: int, serial: int) -> tuple[EpisodeResult, Collected | None]:
    """Record one episode, and wait for its shard.

    Parameters
    ----------
    path
        What ``write_setup`` wrote.
    episode
        The id; nothing of this episode existed when the task was submitted.
    serial
        Tells the task from every other of the run, for engines that remember results.

    Returns
    -------
    EpisodeResult
        Whatever the rollout does, Ctrl-C and ``sys.exit`` included.
    Collected or None
        What recording it cost.

    Raises
    ------
    ConfigError
        No worker like this one can run the rollout.
    """
    setup = _setup(Path(path))
    paths = EpisodePaths(setup.directory, episode)
    if path in _stopped_here or not Path(path).exists():  # the engine had it in hand already
        text = "its run was stopped before it began"
        return EpisodeResult(episode, "failed", None, text, was_stopped=True), None
    if has_begun(paths) is not None:
        return recovered_result(paths, "its process died, and the engine ran it again"), None
    recorder = _idle.take(Path(path)) or setup.recorder()
    try:
        result = settled(*record(recorder, setup.rollout, episode))
        recorder.settle()
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt):
            _stopped_here.add(path)
        return _stopped(recorder, paths, stop), None
    except BaseException:
        recorder.close()
        raise
    collected = recorder.performance.taken()
    _idle.put_back(Path(path), recorder)
    return result, collected


def _stopped(
    recorder: Recorder, paths: EpisodePaths, stop: KeyboardInterrupt | SystemExit
) -> EpisodeResult:
    was_stopped = isinstance(stop, KeyboardInterrupt)
    text = f"{type(stop).__name__}: {stop}"
    try:
        recorder.close()  # which seals what was interrupted
    except WriterFailed as error:
        return EpisodeResult(paths.episode, "failed", None, str(error), was_stopped=was_stopped)
    if not paths.shard.exists():
        text = f"{text} before the episode began"
        return EpisodeResult(paths.episode, "failed", None, text, was_stopped=was_stopped)
    return replace(sealed_result(paths.episode, paths.shard, text), was_stopped=was_stopped)
