"""Bringing the episodes of dead processes to their end.

Invariant: what a living process owns is never touched, and doing it twice changes nothing.
"""

import json
from pathlib import Path

from shardwriter.buffer import Buffer, remove_buffer
from shardwriter.errors import BufferDamaged
from shardwriter.layout import EpisodePaths
from shardwriter.process import Identity
from shardwriter.writer import EpisodeWriter, Sealed

__all__ = ["owner", "recover_episode"]


def owner(buffer: Path) -> Identity | None:
    """Return the process that logs to a buffer, None where it died before it said so."""
    try:
        records = Buffer.open(buffer).read_new()
    except (BufferDamaged, FileNotFoundError):
        return None
    start = json.loads(records[0][0].payload) if records else {}
    return Identity(**start["owner"]) if "owner" in start else None


def recover_episode(paths: EpisodePaths) -> Sealed | None:
    """Seal the episode of a dead process; wait for a writer of it that still lives.

    Returns
    -------
    Sealed or None
        None where nothing was left to do: the episode never began, or is sealed already.
    """
    if not paths.buffer.exists():
        return None
    if owner(paths.buffer) is None or paths.shard.exists():
        remove_buffer(paths.buffer)
        return None
    try:
        writer = EpisodeWriter(paths, {}, wait=True)
    except FileNotFoundError:
        return None
    if not writer.buffer.is_linked:  # the writer that we waited for has sealed it
        writer.close()
        return None
    return writer.seal()
