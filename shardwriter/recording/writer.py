"""From slots to chunks: brings one episode from its buffer to its shard.

The same steps serve the process that logs, a writer process and recovery. Invariant: part and
buffer together always hold every committed row; a slot is reported free only after its rows
are flushed into the part.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.errors import BufferDamaged, EpisodeBusy
from shardwriter.files.buffer import Buffer, Record, TableSlots, remove_buffer
from shardwriter.files.compression import Compression
from shardwriter.files.groups import write_attributes
from shardwriter.files.journal import sync_directory, sync_file
from shardwriter.files.layout import REWARDS, SPIKES, EpisodePaths
from shardwriter.files.publication import publish
from shardwriter.files.quick_description import describe_vetted
from shardwriter.files.records import read_end, read_start, read_static
from shardwriter.files.refusal import abandon, abandoned_on_failure, completed
from shardwriter.files.salvage import is_sealed, set_aside
from shardwriter.files.shard import Codecs, Encoded, Shard, amended, append_to, create
from shardwriter.files.tree import Leaf
from shardwriter.files.untrusted import readable
from shardwriter.files.whole_shard import Unsuitable, WholeShard
from shardwriter.recording.takeover import Progress, Takeover
from shardwriter.system.instants import reached
from shardwriter.system.process import Identity

__all__ = ["EpisodeWriter", "Sealed", "finished"]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of an episode.

    ``raw_bytes`` and ``stored_bytes`` are those of each column, before and after compression;
    ``busy_s`` is what the writer worked of the ``open_s`` that it had the episode, ``blocked_s``
    what logging waited for free slots, ``slots_high_water`` the largest part of a table's slots
    that waited to be written; ``codec_choices`` says of each column whose codec was chosen by
    measurement what was chosen, and why. ``rows`` counts the rows of each table in the shard;
    ``lost`` those that were committed but could not be found, which only damaged files bring
    about, and ``damage`` says which. A table whose loss cannot be counted has -1 there.
    """

    episode: int
    shard: Path
    status: str
    rows: Mapping[str, int]
    lost: Mapping[str, int]
    damage: tuple[str, ...] = ()
    raw_bytes: Mapping[str, int] = field(default_factory=dict)
    stored_bytes: Mapping[str, int] = field(default_factory=dict)
    busy_s: float = 0.0
    open_s: float = 0.0
    blocked_s: float = 0.0
    slots_high_water: float = 0.0
    codec_choices: Mapping[str, str] = field(default_factory=dict)


def finished(paths: EpisodePaths) -> Sealed:
    """Return what a published shard says of itself, and remove a buffer that is left of it.

    Raises
    ------
    FormatError, ShardDamaged
        It cannot be read, or holds several episodes; nothing was removed.
    """
    with readable(paths.shard):
        (shard,) = describe_vetted(paths.shard)
    remove_buffer(paths.buffer)
    rows = {name: shard.rows(name) for name in shard.tables}
    return Sealed(paths.episode, paths.shard, str(shard.attributes["status"]), rows, {})


def _encoded(shard: Shard, slots: TableSlots, chunk: int) -> list[Encoded]:
    slots.add_digest(chunk)
    return shard.encoded(slots.table.name, slots.slots[chunk % len(slots.slots)])


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
    owner
        The process that logs the episode, where it is known. A writer that outlived its own may
        find another attempt's buffer in the place of the one that it was to drain.
    is_recovery
        Verify everything, and go on with what is sound where a file is damaged: with the longest
        prefix of each table. Files with damage are kept in ``shards/damaged/``.

    Raises
    ------
    EpisodeBusy
        Another living process writes this shard, or logs this episode.
    FileNotFoundError
        The buffer is gone: the shard was published.
    BufferDamaged, ShardDamaged
        The buffer, or a part left by a killed writer, cannot be read.
    """

    def __init__(
        self,
        paths: EpisodePaths,
        codecs: Codecs,
        *,
        wait: bool = False,
        owner: Identity | None = None,
        is_recovery: bool = False,
    ) -> None:
        self._paths = paths
        self._codecs = codecs
        self._buffer = Buffer.open(paths.buffer)
        self._tables: dict[str, TableSlots] = {}
        self._static: list[list[Leaf]] = []
        self._end: dict[str, Any] = {}
        self._start: dict[str, Any] = {}
        self._shard: Shard | None = None
        self._progress = Progress(is_recovery)
        self._is_sealed = False
        self._raw_bytes: Mapping[str, int] = {}
        self._stored_bytes: Mapping[str, int] = {}
        self._codec_choices: Mapping[str, str] = {}
        self.busy_s = 0.0
        self._slots_high_water = 0.0
        self._opened_at = time.perf_counter()
        self._flushed: dict[str, int] = {}  # rows of each table when `flush` last wrote
        self.episode = paths.episode
        self._read_records()
        if owner is not None and self._start and self._start["owner"] != owner.to_json():
            raise EpisodeBusy(paths.episode, paths.buffer)
        if not self._buffer.lock(wait=wait):
            raise EpisodeBusy(paths.episode, paths.buffer)
        try:
            if not self._buffer.is_linked:
                raise FileNotFoundError(paths.buffer)
            self._begin()
        except BaseException:
            self.close()  # or nobody could try again while this process lives
            raise

    def _begin(self) -> None:
        self._read_records()
        if not self._start:
            raise BufferDamaged(self._paths.buffer, "its start record is gone")
        self._compression = Compression(**self._start["compression"])
        has_rebooted = self._start["owner"]["boot_id"] != Identity.own().boot_id
        takeover = Takeover(self._paths, self._tables, self._progress, has_rebooted=has_rebooted)
        if self._paths.part.exists() or self._paths.journal.exists():
            self._take_over(takeover)
        if self._progress.is_recovery and not self._is_sealed:
            takeover.verify_slots()

    def _take_over(self, takeover: Takeover) -> None:
        """Make the part whole again and write what only the buffer holds."""
        paths = self._paths
        is_readable = takeover.is_readable()
        if is_readable and is_sealed(paths.part, self.episode):
            self._is_sealed = True
            return
        shard = self._create()
        with abandoned_on_failure(shard.file):
            takeover.copy_part(shard, is_readable=is_readable)
            if self._progress.damage:
                set_aside(paths.part, paths.damaged)
            self._publish_part(shard)
        self._shard = shard

    def begin(self, name: str, chunk: int) -> Callable[[], list[Encoded]]:
        """Return what compresses a full slot, for any thread, while other slots are drained."""
        if chunk < self._progress.written.get(name, 0):
            return list  # told again; `drain` leaves it out too
        began = time.perf_counter()
        self._read_records()
        shard = self._part([name])
        slots = self._tables[name]
        waiting = slots.rows // slots.table.rows_per_chunk - chunk
        self._slots_high_water = max(self._slots_high_water, waiting / len(slots.slots))
        self.busy_s += time.perf_counter() - began
        return partial(_encoded, shard, slots, chunk)

    def drain(self, name: str, chunk: int, encode: Callable[[], list[Encoded]]) -> None:
        """Write and flush a full slot, unless that is done; the slot is free when this returns.

        `encode` is what ``begin`` returned, or gives its result.
        """
        if chunk < self._progress.written.get(name, 0):
            return  # and the slot may hold other rows by now
        began = time.perf_counter()
        encoded = encode()
        shard = self._part([name])
        shard.store_chunk(name, chunk, encoded)
        self._note_rewards(name, chunk, self._tables[name].table.rows_per_chunk)
        reached("chunk written")
        shard.file.flush()
        reached("chunk flushed")
        self._progress.written[name] = chunk + 1
        self.busy_s += time.perf_counter() - began

    def flush(self) -> None:
        """Write and flush the rows of slots that are not full yet, if there are new ones."""
        self._read_records()
        rows = {name: slots.rows for name, slots in self._tables.items()}
        if rows == self._flushed or self._is_sealed:
            return
        self._flushed = rows
        shard = self._part(self._tables)
        for name in self._tables:
            self._write_rest(shard, name)
        shard.file.flush()
        if self._start.get("durability") == "power":
            self._sync()

    def _sync(self) -> None:
        """Bring part and buffer to stable storage, with a mark that tells how far."""
        for slots in self._tables.values():
            slots.mark()
        sync_file(self._paths.part)
        self._buffer.sync()
        sync_directory(self._paths.part.parent)

    def seal(self) -> Sealed:
        """Write what is left, publish the shard and remove the buffer.

        An episode whose end was never logged becomes ``interrupted``.
        """
        began = time.perf_counter()
        self._read_records()
        rows = {name: self._rows(name) for name in self._tables} | self._progress.part_only
        if self._is_sealed:
            finished = self._paths.part
        elif self._shard is None:
            finished = self._write_whole(rows)
        else:
            finished = self._finish_part(self._part(self._tables))
        publish(finished, self._paths.shard)
        if self._progress.damage:
            set_aside(self._paths.buffer, self._paths.damaged)
        self._buffer.unlink()
        return Sealed(
            self.episode,
            self._paths.shard,
            self._status(),
            rows,
            self._progress.lost(self._tables),
            tuple(self._progress.damage),
            self._raw_bytes,
            self._stored_bytes,
            self.busy_s + time.perf_counter() - began,
            time.perf_counter() - self._opened_at,
            slots_high_water=self._slots_high_water,
            codec_choices=self._codec_choices,
        )

    @property
    def compresses(self) -> bool:
        """Whether what ``begin`` returns takes its time."""
        return self._compression.name is not None or self._compression.adaptive

    @property
    def flush_interval_s(self) -> float:
        """After how long ``flush`` is due again."""
        return float(self._start["flush_interval_s"])

    @property
    def buffer(self) -> Buffer:
        """The episode's buffer."""
        return self._buffer

    def close(self) -> None:
        """Let go of the files as they are; another writer may go on."""
        self._buffer.unlock()
        if self._shard is not None:
            abandon(self._shard.file)
            self._shard = None

    # -- reading the buffer ---------------------------------------------------------------

    def _rows(self, name: str) -> int:
        return self._progress.rows(self._tables[name])

    def _read_records(self) -> None:
        for record, slots in self._read_new():
            self._tables.update({table.table.name: table for table in slots})
            try:
                self._take_in(record)
            except BufferDamaged as damage:
                self._progress.note(damage)

    def _take_in(self, record: Record) -> None:
        if record.kind == "start":
            self._start = read_start(self._paths.buffer, record.payload)
        elif record.kind == "static":
            self._static.append(read_static(self._paths.buffer, record.payload))
        elif record.kind == "end":
            self._end = read_end(self._paths.buffer, record.payload)

    def _read_new(self) -> list[tuple[Record, list[TableSlots]]]:
        try:
            return self._buffer.read_new()
        except BufferDamaged as damage:
            self._progress.note(damage)
            return []

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
        return self._shard

    def _create(self) -> Shard:
        self._paths.temporary.unlink(missing_ok=True)
        file = create(self._paths.temporary, self.episode)
        shard = Shard(self.episode, self._compression, self._codecs, file)
        write_attributes(shard.group, {key: self._start[key] for key in ("seed", "start_time")})
        return shard

    def _publish_part(self, shard: Shard) -> None:
        shard.file.swmr_mode = True
        shard.file.flush()
        reached("part created")
        self._paths.temporary.replace(self._paths.part)
        reached("part published")

    def _amend(self, shard: Shard, change: Callable[[], None]) -> None:
        shard.file.close()
        with amended(self._paths.part, self._paths.journal) as file:
            shard.bind(file)
            change()

    def _add_tables(self, shard: Shard, tables: Iterable[TableSlots]) -> None:
        for slots in tables:
            shard.add_table(slots.table, sample=slots.newest())

    def _write_chunk(self, shard: Shard | WholeShard, name: str, chunk: int, rows: int) -> None:
        slots = self._tables[name].slots
        columns = slots[chunk % len(slots)]
        shard.write_chunk(name, chunk, columns, rows)
        self._note_rewards(name, chunk, rows)

    def _note_rewards(self, name: str, chunk: int, rows: int) -> None:
        if name == REWARDS:
            slots = self._tables[name].slots
            with np.errstate(all="ignore"):  # inf - inf is the caller's business
                self._progress.rewards[chunk] = float(np.sum(slots[chunk % len(slots)][1][:rows]))

    def _write_rest(self, shard: Shard | WholeShard, name: str) -> None:
        """Write the chunks that no hand-over announced, the last one as far as it goes."""
        table = self._tables[name].table
        rows = self._rows(name)
        for chunk in range(self._progress.written.get(name, 0), -(-rows // table.rows_per_chunk)):
            if (name, chunk) in self._progress.only_in_part:
                continue
            count = min(table.rows_per_chunk, rows - chunk * table.rows_per_chunk)
            self._write_chunk(shard, name, chunk, count)

    # -- sealing --------------------------------------------------------------------------

    def _write_whole(self, rows: Mapping[str, int]) -> Path:
        path = self._paths.temporary
        try:
            whole = WholeShard(self.episode, self._compression, self._codecs)
            self._add_whole(whole, rows)
            self._note_columns(whole)
            path.unlink(missing_ok=True)
            whole.write(path, self._static, self._attributes())
        except Unsuitable:
            shard = self._create()
            with completed(shard.file):
                self._add_whole(shard, rows)
                self._describe(shard)
        return path

    def _add_whole(self, shard: Shard | WholeShard, rows: Mapping[str, int]) -> None:
        for name, slots in self._tables.items():
            shard.add_table(slots.table, rows[name], slots.newest())
            self._write_rest(shard, name)

    def _finish_part(self, shard: Shard) -> Path:
        for name in self._tables:
            self._write_rest(shard, name)
        shard.file.flush()
        self._amend(shard, lambda: self._describe(shard))
        self._shard = None
        return self._paths.part

    def _describe(self, shard: Shard) -> None:
        """Write everything about the episode that is not a table."""
        self._note_columns(shard)
        shard.describe(self._static, self._attributes())

    def _note_columns(self, shard: Shard | WholeShard) -> None:
        self._raw_bytes, self._stored_bytes = shard.column_bytes()
        self._codec_choices = shard.codec_choices()

    def _attributes(self) -> dict[str, object]:
        return {
            "episode_id": self.episode,
            "seed": self._start["seed"],
            "start_time": self._start["start_time"],
            "end_time": datetime.now(UTC).isoformat(),
            "success": False,
            "total_timesteps": self._buffer.steps[0],
            "total_spikes": self._rows(SPIKES) if SPIKES in self._tables else 0,
            # Not fsum, which refuses inf and -inf.
            "total_reward": float(sum(self._progress.rewards.values())),
            **self._end,
            "status": self._status(),
        }

    def _status(self) -> str:
        has_rows = self._progress.part_only or any(slots.rows for slots in self._tables.values())
        if not has_rows and not self._end.get("error"):
            return "empty"
        return str(self._end.get("status", "interrupted"))
