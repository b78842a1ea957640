"""One episode that its process left unfinished: whose it is, and how it is brought to its end.

Invariant: a file is removed only once its rows are in a published shard, or while its lock is
held and it holds none; and whatever its files hold, other episodes go on.
"""

import fcntl
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from shardwriter.errors import BufferDamaged, EpisodeBusy, ShardOutside, ShardWriterError
from shardwriter.files.buffer import Buffer, remove_buffer
from shardwriter.files.layout import SHARDS, EpisodePaths, buffer_label
from shardwriter.files.records import read_owner
from shardwriter.files.salvage import part_tables, set_aside
from shardwriter.files.untrusted import UNREADABLE, check_own
from shardwriter.recording.writer import EpisodeWriter, Sealed, finished
from shardwriter.recovery.rescue import BUFFER_IS_GONE, rescue
from shardwriter.system.process import Identity

__all__ = ["RecoveredEpisode", "brought_to_end", "foreseen", "owner"]

Outcome = Literal["recovered", "removed", "recording", "elsewhere", "failed"]

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class RecoveredEpisode:
    """What ``recover`` did with one unfinished episode, or would do.

    Attributes
    ----------
    episode
        Its id.
    outcome
        ``recovered``: its shard is published. ``removed``: nothing had been logged, or its
        shard was published before; leftovers were removed. ``recording``: a living process
        has it. ``elsewhere``: it was recorded on another host or in another container, and
        whether its process lives cannot be told from here. ``failed``: see `reasons`.
    status
        The shard's status.
    rows
        Rows of each table; -1 where their number is not known yet.
    lost
        Rows lost by table; -1 where their number is unknown.
    reasons
        Why something was lost, left alone or failed.
    """

    episode: int
    outcome: Outcome
    status: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def has_loss(self) -> bool:
        """Whether rows were lost, or may have been."""
        return self.outcome in ("recovered", "removed") and bool(self.lost or self.reasons)

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"episode {self.episode}: {self.outcome}"
        if self.outcome == "recovered":
            rows, lost = _counts(self.rows) or "no rows", _counts(self.lost) or "0"
            text += f" as {self.status}: {rows}; lost: {lost}"
        return "; ".join([text, *self.reasons])


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {'?' if count < 0 else count}" for name, count in rows.items())


def owner(buffer: Path) -> Identity | None:
    """Return the process that logs to a buffer, None where none is on record."""
    if buffer.is_symlink():
        return Identity.from_label(buffer_label(buffer.readlink()) or "")
    try:
        records = Buffer.open(buffer).read_new()
        return read_owner(buffer, records[0][0].payload) if records else None
    except (BufferDamaged, FileNotFoundError):
        return None


def _left_alone(paths: EpisodePaths, force_hosts: Collection[str]) -> RecoveredEpisode | None:
    """Return the outcome for an episode that is not ours to touch, None for one that is."""
    process = owner(paths.buffer)
    if process is None:
        return None
    if process.state == "alive":
        return RecoveredEpisode(paths.episode, "recording", reasons=(f"pid {process.pid}",))
    if process.state == "unknown" and process.host not in force_hosts:
        reason = (
            f"pid {process.pid} of host {process.host}: run `shardwriter recover` there, or with "
            f"--force-host {process.host} once nothing records there any more"
        )
        return RecoveredEpisode(paths.episode, "elsewhere", reasons=(reason,))
    return None


def brought_to_end(
    paths: EpisodePaths, force_hosts: Collection[str] = (), *, wait: bool = False
) -> RecoveredEpisode | None:
    """Bring an episode that is ours to touch to its end; None where another did it meanwhile."""
    try:
        return _left_alone(paths, force_hosts) or _brought_to_end(paths, wait)
    except EpisodeBusy:
        reason = "another process is bringing it to its end"
        return RecoveredEpisode(paths.episode, "recording", reasons=(reason,))
    except (ShardWriterError, *UNREADABLE) as error:
        return _failed(paths, error)


def _failed(paths: EpisodePaths, error: Exception) -> RecoveredEpisode:
    reason = str(error) if isinstance(error, ShardWriterError) else repr(error)
    return RecoveredEpisode(paths.episode, "failed", reasons=(reason,))


def _check_links(paths: EpisodePaths) -> None:
    """Make sure that what is read and written of an episode lies where its names say.

    Raises
    ------
    ShardOutside
        Something does not.
    """
    shards = paths.directory / SHARDS
    check_own(paths.shard, shards)
    for path in (paths.part, paths.journal, paths.damaged):
        if path.is_symlink():
            raise ShardOutside(path, path.parent, "remove the link")


def _brought_to_end(paths: EpisodePaths, wait: bool) -> RecoveredEpisode | None:
    _check_links(paths)
    if not paths.buffer.exists():
        return _without_buffer(paths)
    if paths.shard.exists():
        return _removed(paths)
    try:
        Buffer.open(paths.buffer)
    except BufferDamaged:
        return _without_header(paths)
    try:
        writer = _patient_writer(paths, wait)
    except FileNotFoundError:
        return None  # sealed meanwhile
    except BufferDamaged as damage:
        return _with_damaged_start(paths, str(damage))
    sealed = writer.seal()
    _remove(paths)
    return _result(sealed)


def _patient_writer(paths: EpisodePaths, wait: bool) -> EpisodeWriter:
    """Wait a while for a writer that outlives its producer: it is about to finish."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return EpisodeWriter(paths, {}, wait=wait, is_recovery=True)
        except EpisodeBusy:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _without_buffer(paths: EpisodePaths) -> RecoveredEpisode:
    """Recover an episode of which only a part, a journal or a dangling link are left."""
    if not paths.shard.exists() and (paths.part.exists() or paths.journal.exists()):
        sealed = rescue(paths)
        _remove(paths)
        return _result(sealed)
    return _removed(paths, *_why_gone(paths))


def _why_gone(paths: EpisodePaths) -> tuple[str, ...]:
    """Return why an episode of which there is only a dangling link is lost, if it is."""
    process = owner(paths.buffer)
    if process is None or paths.shard.exists():
        return ()
    where = paths.buffer.readlink()
    if process.host != Identity.own().host:
        return (f"its buffer, {where}, was lost with host {process.host}",)
    if process.boot_id != Identity.own().boot_id:
        return (f"its buffer, {where}, went with a reboot",)
    if paths.scratch is not None:
        return (f"its scratch folder, {paths.scratch}, is gone",)
    return ()


def _without_header(paths: EpisodePaths) -> RecoveredEpisode:
    """Recover an episode whose buffer never said whose it is."""
    if paths.part.exists():  # then it said so once
        return _with_damaged_start(paths, f"{paths.buffer}: its header is gone")
    # Its creator holds the lock until the header is complete.
    with paths.buffer.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Buffer.open(paths.buffer)
        except BlockingIOError:
            reason = "its process is just starting it"
            return RecoveredEpisode(paths.episode, "recording", reasons=(reason,))
        except BufferDamaged:
            return _removed(paths)
    reason = "its process has just started it"
    return RecoveredEpisode(paths.episode, "recording", reasons=(reason,))


def _with_damaged_start(paths: EpisodePaths, damage: str) -> RecoveredEpisode:
    set_aside(paths.buffer, paths.damaged)
    if not paths.part.exists():
        remove_buffer(paths.buffer)
        _remove(paths)
        return RecoveredEpisode(paths.episode, "removed", reasons=(damage,))
    sealed = rescue(paths)
    remove_buffer(paths.buffer)
    _remove(paths)
    return _result(sealed, damage)


def _result(sealed: Sealed, *reasons: str) -> RecoveredEpisode:
    return RecoveredEpisode(
        sealed.episode,
        "recovered",
        sealed.status,
        sealed.rows,
        sealed.lost,
        (*reasons, *sealed.damage),
    )


def _removed(paths: EpisodePaths, *reasons: str) -> RecoveredEpisode:
    sealed = finished(paths) if paths.shard.exists() else None
    if paths.scratch is None:  # from there, a shard is published by copy
        # Of nobody: a shard and a part beside it never belong to one buffer.
        set_aside(paths.part, paths.damaged)
    _remove(paths)
    if sealed is None:
        return RecoveredEpisode(paths.episode, "removed", reasons=reasons)
    return _result(sealed, *reasons)


def _remove(paths: EpisodePaths) -> None:
    """Remove what a sealed or never begun episode may leave."""
    for path in (*paths.temporaries, paths.part, paths.journal):
        path.unlink(missing_ok=True)
    if os.path.lexists(paths.buffer):
        remove_buffer(paths.buffer)


def foreseen(paths: EpisodePaths, force_hosts: Collection[str] = ()) -> RecoveredEpisode:
    """Tell what ``recover`` would do, from the counters alone."""
    try:
        return _left_alone(paths, force_hosts) or _foreseen(paths)
    except (ShardWriterError, *UNREADABLE) as error:
        return _failed(paths, error)


def _foreseen(paths: EpisodePaths) -> RecoveredEpisode:
    _check_links(paths)
    if not paths.buffer.exists() and not paths.shard.exists():
        return _foreseen_without_buffer(paths)
    rows: dict[str, int] = {}
    reasons: tuple[str, ...] = ()
    if not paths.shard.exists():
        try:
            for _, slots in Buffer.open(paths.buffer).read_new():
                rows |= {table.table.name: table.rows for table in slots}
        except BufferDamaged as damage:
            reasons = (str(damage),)
    has_data = bool(rows) or paths.part.exists() or paths.shard.exists()
    outcome: Outcome = "recovered" if has_data else "removed"
    return RecoveredEpisode(paths.episode, outcome, "interrupted", rows, {}, reasons)


def _foreseen_without_buffer(paths: EpisodePaths) -> RecoveredEpisode:
    if not paths.part.exists():
        return RecoveredEpisode(paths.episode, "removed", reasons=_why_gone(paths))
    unknown = {table.name: -1 for table in part_tables(paths.part, paths.episode)}
    reasons = (BUFFER_IS_GONE,)
    return RecoveredEpisode(paths.episode, "recovered", "interrupted", unknown, unknown, reasons)
