"""Sealing a part whose buffer is gone, or holds nothing readable.

Invariant: only what the part itself shows to be sound goes into the shard.
"""

from datetime import UTC, datetime
from typing import Any

from shardwriter.errors import ShardDamaged
from shardwriter.files.compression import Compression
from shardwriter.files.journal import replay
from shardwriter.files.layout import (
    BEHAVIOR,
    NEURAL_STATES,
    REWARDS,
    SPIKES,
    EpisodePaths,
    episode_group,
)
from shardwriter.files.publication import publish
from shardwriter.files.salvage import (
    check_opens,
    is_sealed,
    opened,
    part_tables,
    salvage,
    set_aside,
)
from shardwriter.files.shard import Shard, create
from shardwriter.files.untrusted import read_attributes_of
from shardwriter.recording.writer import Sealed, finished

__all__ = ["BUFFER_IS_GONE", "rescue"]

BUFFER_IS_GONE = "its buffer is gone, with the rows that were only there"
_UNKNOWN = -1


def rescue(paths: EpisodePaths) -> Sealed:
    """Seal an episode from its part alone; the part is kept in ``shards/damaged/``.

    Raises
    ------
    ShardDamaged
        Nothing of the part can be read; it stays as it is.
    """
    damage = [BUFFER_IS_GONE]
    if paths.journal.exists():
        try:
            replay(paths.journal, paths.part)
        except (ShardDamaged, FileNotFoundError) as error:
            damage.append(str(error))
            set_aside(paths.journal, paths.damaged)
            paths.journal.unlink()
    if not paths.part.exists():
        return Sealed(paths.episode, paths.shard, "empty", {}, {}, tuple(damage))
    check_opens(paths.part, paths.episode)
    if is_sealed(paths.part, paths.episode):
        publish(paths.part, paths.shard)
        return finished(paths)
    rows = _copy(paths)
    set_aside(paths.part, paths.damaged)
    publish(paths.temporary, paths.shard)
    paths.part.unlink()
    lost = dict.fromkeys(rows, _UNKNOWN)
    return Sealed(paths.episode, paths.shard, "interrupted", rows, lost, tuple(damage))


def _copy(paths: EpisodePaths) -> dict[str, int]:
    paths.temporary.unlink(missing_ok=True)
    with create(paths.temporary, paths.episode) as file:
        shard = Shard(paths.episode, Compression(), {}, file)
        for table in part_tables(paths.part, paths.episode):
            salvage(paths.part, shard, table, whole=False)
        rows = shard.rows()
        shard.describe((), _attributes(paths, shard, rows))
    return rows


def _attributes(paths: EpisodePaths, shard: Shard, rows: dict[str, int]) -> dict[str, Any]:
    with opened(paths.part) as part:
        known = read_attributes_of(paths.part, part[episode_group(paths.episode)].id)
    rewards = shard.group[REWARDS]["values"][()].tolist() if REWARDS in rows else []
    now = datetime.now(UTC).isoformat()
    return {
        "episode_id": paths.episode,
        "seed": int(known.get("seed", 0)),
        "start_time": str(known.get("start_time", now)),
        "end_time": now,
        "success": False,
        "total_timesteps": max(rows.get(BEHAVIOR, 0), rows.get(NEURAL_STATES, 0)),
        "total_spikes": rows.get(SPIKES, 0),
        "total_reward": float(sum(rewards)),
        "status": "interrupted",
    }
