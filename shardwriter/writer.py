"""From slots to chunks: brings one episode from its buffer to its shard.

The same steps serve the process that logs, a writer process and recovery. Invariant: part and
buffer together always hold every committed row; a slot is reported free only after its rows
are flushed into the part.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.buffer import Buffer, TableSlots
from shardwriter.compression import Compression
from shardwriter.errors import EpisodeBusy
from shardwriter.groups import write_attributes, write_tree
from shardwriter.journal import replay
from shardwriter.layout import REWARDS, SPIKES, EpisodePaths
from shardwriter.salvage import is_sealed, salvage
from shardwriter.shard import Codecs, Shard, amended, append_to, create, publish
from shardwriter.tree import Leaf, unpack

__all__ = ["EpisodeWriter", "Sealed"]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of an episode.

    ``rows`` counts the rows of each table in the shard; ``lost`` those that were committed but
    could not be found, which only damaged files bring about.
    """

    episode: int
    shard: Path
    status: str
    rows: Mapping[str, int]
    lost: Mapping[str, int]


class EpisodeWriter:
    """Writes one episode's chunks as its slots fill, and seals the shard at its end.

    Parameters
    ----------
    paths
        The episode's files.
    codecs
        Codecs by table and column, kept by the caller from episode to episode.
    wait
        Wait for another process that writes this shard, instead of raising.

    Raises
    ------
    EpisodeBusy
        Another living process writes this shard.
    BufferDamaged, ShardDamaged
        The buffer, or a part left by a killed writer, cannot be read.
    """

    def __init__(self, paths: EpisodePaths, codecs: Codecs, *, wait: bool = False) -> None:
        self._paths = paths
        self._codecs = codecs
        self._buffer = Buffer.open(paths.buffer)
        if not self._buffer.lock(wait=wait):
            raise EpisodeBusy(paths.episode, paths.buffer)
        self._tables: dict[str, TableSlots] = {}
        self._static: list[list[Leaf]] = []
        self._end: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        self._shard: Shard | None = None
        self._written: dict[str, int] = {}  # whole chunks flushed, by table
        self._rewards: dict[int, float] = {}  # sum of rewards, by chunk
        self._is_sealed = False
        self._lost: dict[str, int] = {}
        self._read_records()
        self.episode = paths.episode
        self._compression = Compression(**self._start["compression"])
        if paths.part.exists() or paths.journal.exists():
            self._take_over()

    def drain(self, name: str, chunk: int) -> None:
        """Write and flush a full slot; the slot is free when this returns."""
        self._read_records()
        shard = self._part([name])
        self._write_chunk(shard, name, chunk, self._tables[name].table.rows_per_chunk)
        shard.file.flush()
        self._written[name] = chunk + 1

    def flush(self) -> None:
        """Write and flush the rows of slots that are not full yet."""
        self._read_records()
        shard = self._part(self._tables)
        for name in self._tables:
            self._write_rest(shard, name)
        shard.file.flush()

    def seal(self) -> Sealed:
        """Write what is left, publish the shard and remove the buffer.

        An episode whose end was never logged becomes ``interrupted``.
        """
        self._read_records()
        rows = {name: slots.rows for name, slots in self._tables.items()}
        rows = {name: count - self._lost.get(name, 0) for name, count in rows.items()}
        if self._is_sealed:
            finished = self._paths.part
        elif self._shard is None:
            finished = self._write_whole(rows)
        else:
            finished = self._finish_part(self._part(self._tables))
        publish(finished, self._paths.shard)
        self._buffer.unlink()
        return Sealed(self.episode, self._paths.shard, self._status(), rows, self._lost)

    @property
    def buffer(self) -> Buffer:
        """The episode's buffer."""
        return self._buffer

    def close(self) -> None:
        """Let go of the files as they are; another writer may go on."""
        self._buffer.unlock()
        if self._shard is not None:
            self._shard.file.close()
            self._shard = None

    # -- reading the buffer ---------------------------------------------------------------

    def _read_records(self) -> None:
        for record, slots in self._buffer.read_new():
            if record.kind == "start":
                self._start = json.loads(record.payload)
            elif record.kind == "tables":
                self._tables.update({table.table.name: table for table in slots})
            elif record.kind == "static":
                self._static.append(unpack(record.payload))
            else:
                self._end = json.loads(record.payload)

    # -- writing --------------------------------------------------------------------------

    def _part(self, needed: Iterable[str]) -> Shard:
        """Return the part, with the tables that are needed now.

        An adaptive codec is chosen from a table's own data, so its datasets wait for them; else
        every known table is made at once.
        """
        if not self._compression.adaptive:
            needed = self._tables
        missing = [
            self._tables[name]
            for name in needed
            if self._shard is None or self._tables[name].table not in self._shard
        ]
        if self._shard is None:
            self._shard = self._create()
            self._add_tables(self._shard, missing)
            self._publish_part(self._shard)
        elif missing:
            shard = self._shard
            self._amend(shard, lambda: self._add_tables(shard, missing))
            shard.bind(append_to(self._paths.part))
            shard.file.swmr_mode = True
        return self._shard

    def _create(self) -> Shard:
        self._paths.temporary.unlink(missing_ok=True)
        file = create(self._paths.temporary, self.episode)
        return Shard(self.episode, self._compression, self._codecs, file)

    def _publish_part(self, shard: Shard) -> None:
        shard.file.swmr_mode = True
        shard.file.flush()
        self._paths.temporary.replace(self._paths.part)

    def _amend(self, shard: Shard, change: Callable[[], None]) -> None:
        shard.file.close()
        with amended(self._paths.part, self._paths.journal) as file:
            shard.bind(file)
            change()

    def _add_tables(self, shard: Shard, tables: Iterable[TableSlots]) -> None:
        for slots in tables:
            shard.add_table(slots.table, sample=slots.newest())

    def _write_chunk(self, shard: Shard, name: str, chunk: int, rows: int) -> None:
        slots = self._tables[name].slots
        columns = slots[chunk % len(slots)]
        shard.write_chunk(name, chunk, columns, rows)
        if name == REWARDS:
            self._rewards[chunk] = float(np.sum(columns[1][:rows]))

    def _write_rest(self, shard: Shard, name: str) -> None:
        """Write the chunks that no hand-over announced, the last one as far as it goes."""
        if name in self._lost:
            return
        table = self._tables[name].table
        rows = self._tables[name].rows
        for chunk in range(self._written.get(name, 0), -(-rows // table.rows_per_chunk)):
            count = min(table.rows_per_chunk, rows - chunk * table.rows_per_chunk)
            self._write_chunk(shard, name, chunk, count)

    # -- sealing --------------------------------------------------------------------------

    def _write_whole(self, rows: Mapping[str, int]) -> Path:
        shard = self._create()
        for name, slots in self._tables.items():
            shard.add_table(slots.table, rows[name], slots.newest())
            self._write_rest(shard, name)
        self._describe(shard)
        shard.file.close()
        return self._paths.temporary

    def _finish_part(self, shard: Shard) -> Path:
        for name in self._tables:
            self._write_rest(shard, name)
        shard.file.flush()
        self._amend(shard, lambda: self._describe(shard))
        self._shard = None
        return self._paths.part

    def _describe(self, shard: Shard) -> None:
        """Write everything about the episode that is not a table."""
        shard.write_digests()
        for leaves in self._static:
            write_tree(shard.group, leaves)
        spikes = self._tables.get(SPIKES)
        write_attributes(
            shard.group,
            {
                "episode_id": self.episode,
                "seed": self._start["seed"],
                "start_time": self._start["start_time"],
                "end_time": datetime.now(UTC).isoformat(),
                "success": False,
                "total_timesteps": self._buffer.steps[0],
                "total_spikes": spikes.rows if spikes else 0,
                "total_reward": math.fsum(self._rewards.values()),
                **self._end,
                "status": self._status(),
            },
        )

    def _status(self) -> str:
        if not any(slots.rows for slots in self._tables.values()) and not self._end.get("error"):
            return "empty"
        return str(self._end.get("status", "interrupted"))

    # -- going on where another writer was killed ------------------------------------------

    def _take_over(self) -> None:
        """Make the part whole again and write what only the buffer holds."""
        paths = self._paths
        if paths.journal.exists():
            replay(paths.journal, paths.part)
        if is_sealed(paths.part, self.episode):
            self._is_sealed = True
            return
        shard = self._create()
        for name, slots in self._tables.items():
            kept = salvage(paths.part, shard, slots.table)
            rows = slots.table.rows_per_chunk
            overwritten = max(0, slots.rows // rows - len(slots.slots) + 1)
            if kept < overwritten:
                self._lost[name] = slots.rows - kept * rows
            self._written[name] = min(kept, overwritten)
            if name == REWARDS:
                self._rewards = shard.sums(name, 1, self._written[name])
        self._publish_part(shard)
        self._shard = shard
