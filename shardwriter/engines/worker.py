"""A worker process: runs rollouts, one after the other, as its parent asks.

Invariant: a result is sent only after its shard is published.
"""

import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any, cast

import cloudpickle

from shardwriter.config import RecorderConfig
from shardwriter.engines.result import EpisodeResult
from shardwriter.errors import ConfigError, ShardWriterError, WriterFailed
from shardwriter.recording.episode import Episode
from shardwriter.recording.recorder import Recorder
from shardwriter.system.file_systems import NetworkMappingWarning
from shardwriter.system.process import Parent

__all__ = ["Rollout", "packed", "record", "serve", "settled", "unpacked", "worker_config"]

Rollout = Callable[[Episode], Any]

_GRACE_S = 2.0


def serve(parent: Parent) -> None:
    """Run a worker process."""
    signal.signal(signal.SIGTERM, _interrupt)  # by which the parent stops its workers
    threading.Thread(target=_end_with, args=(parent.pidfd,), daemon=True).start()
    try:
        _serve(parent)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # the parent is gone, or stopped us: writers seal what is open
    except WriterFailed:
        return  # the result of its episode tells of it


def _serve(parent: Parent) -> None:
    setup = parent.receive()
    try:
        *recorder_arguments, rollout = unpacked(setup)
    except ConfigError as error:
        parent.link.send(error)
        return
    # The parent has warned of it, once for all workers.
    warnings.simplefilter("ignore", NetworkMappingWarning)
    unsealed: list[tuple[Episode | None, EpisodeResult]] = []
    with Recorder(*recorder_arguments) as recorder:
        while True:
            parent.link.send(None)  # idle
            episode = parent.receive()
            # While this rollout runs, the writer seals the one before.
            done = [] if episode is None else [record(recorder, rollout, episode)]
            for opened, result in unsealed:
                parent.link.send(settled(opened, result))
            unsealed = done
            if episode is None:
                recorder.close()
                parent.link.send(recorder.performance.collected())
                return


def worker_config(config: RecorderConfig, n_workers: int) -> RecorderConfig:
    """Return how one of so many workers records: with a writer process, and its share of memory."""
    share_mb = config.max_memory_mb / n_workers
    return replace(config, async_write=True, n_async_workers=1, max_memory_mb=share_mb)


def packed(setup: tuple[object, ...]) -> bytes:
    """Pickle a rollout and what belongs to it.

    Raises
    ------
    ConfigError
        It cannot be pickled.
    """
    try:
        return cast(bytes, cloudpickle.dumps(setup))
    except Exception as error:
        expected = "what cloudpickle can send to a worker process"
        raise ConfigError("rollout", expected, f"{type(error).__name__}: {error}") from error


def unpacked(setup: bytes) -> tuple[Any, ...]:
    """Return what was packed.

    Raises
    ------
    ConfigError
        It cannot be unpickled here.
    """
    try:
        return cast(tuple[Any, ...], cloudpickle.loads(setup))
    except ModuleNotFoundError as error:
        expected = "modules that every node can import, installed or in a shared directory"
        raise ConfigError("rollout", expected, f"{error} on {socket.gethostname()}") from error
    except Exception as error:  # unpickling runs anybody's code
        got = f"{type(error).__name__}: {error}"
        raise ConfigError("rollout", "what a worker process can unpickle", got) from error


def record(
    recorder: Recorder, rollout: Rollout, episode_id: int
) -> tuple[Episode | None, EpisodeResult]:
    """Run one rollout into one episode, which ends but may not be sealed yet.

    Whatever the rollout raises becomes the result; KeyboardInterrupt ends the episode as
    ``interrupted`` and goes on.
    """
    opened = None
    try:
        with _started(recorder, episode_id) as opened:
            value = rollout(opened)
            summary = value if isinstance(value, Mapping) or value is None else {"value": value}
            if not opened.has_ended:
                opened.end(summary=summary)
    except Exception as error:  # noqa: BLE001  (whatever a rollout raises is its result)
        text = "".join(traceback.format_exception(error))
        result = EpisodeResult(episode_id, "failed", None, f"{type(error).__name__}: {error}", text)
        return opened, result
    return opened, EpisodeResult(episode_id, "completed", summary)


def _started(recorder: Recorder, episode_id: int) -> Episode:
    while True:
        try:
            return recorder.start_episode(episode_id)
        except WriterFailed as error:
            if error.args[0] == episode_id:
                raise
            # Else it is an earlier episode's, whose own result tells of it.


def settled(opened: Episode | None, result: EpisodeResult) -> EpisodeResult:
    """Wait for an episode's shard; return its result with the shard's path and status."""
    if opened is None:
        return result
    try:
        sealed = opened.wait()
    except ShardWriterError as error:
        return replace(result, status="failed", error=result.error or str(error))
    return replace(result, status=sealed.status, shard=sealed.shard)


def _interrupt(number: int, _: object) -> None:
    # Once: a scheduler tells every process of a job, and more than once, as the parent does too.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(pidfd: int) -> None:
    """End this process when its parent ends: in an orderly way, else at once."""
    wait([pidfd])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)
