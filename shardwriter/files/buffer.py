"""An episode's shared-memory buffer: one mmap-ed file of slots, counters and records.

Invariant: data first, counter last. What a counter or link does not reach does not exist, so
the file can be read at any instant, also after every process that knew it was killed.

::

    page 0   magic · first record · alarm · timesteps
    record   header (next · kind · sizes · CRC-32 of the payload), payload,
             and for tables their region:
               table 0   rows (8 bytes) · a checksum per slot · mark: rows, checksum
                         slot 0: column 0 | column 1 | …     each column contiguous,
                         slot 1: column 0 | column 1 | …     so a full one is a chunk
               table 1   …
    record   …

Records form a list that only grows: a new one is written whole beyond the end of the file and
then linked by one aligned 8-byte store. A table that gets more columns is recorded again; the
newer record counts. Row ``i`` of a table lies in slot ``(i // R) % slots`` at ``i % R``, where
``R`` is ``rows_per_chunk``; a slot is used again only after its rows are flushed into the part.
The process that creates the file holds its lock until the start record, and with it the owner,
stands there: so an incomplete file with no lock on it is a dead process's.
"""

import errno
import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import numpy as np
from isal import isal_zlib

from shardwriter.errors import BufferDamaged, BufferFailed, NoSpace
from shardwriter.files.layout import buffer_target, is_scratch_name, leftovers_in
from shardwriter.files.schema import Table
from shardwriter.system.instants import reached

__all__ = ["Buffer", "Record", "TableSlots"]

RecordKind = Literal["start", "tables", "static", "end"]

_MAGIC = int.from_bytes(b"SWBUF\x00\x00\x01", "little")
_PAGE = mmap.ALLOCATIONGRANULARITY
_LINE = 64
_KINDS: tuple[RecordKind, ...] = ("start", "tables", "static", "end")
# 8-byte words of page 0
_W_MAGIC, _W_FIRST, _W_ALARM, _W_STEPS = range(4)
# 8-byte words of a record's header
_R_NEXT, _R_KIND, _R_PAYLOAD, _R_EXTENT, _R_CRC = range(5)
_record_words = struct.Struct("<8Q").unpack

_MOST_SLOTS = 64  # of a table
_MOST_TEXT = 200  # of what is wrong with one
_MOST_BYTES = 64 << 20  # of a payload; one of static values was in memory when it was logged
_MOST_STATIC_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its kind and its payload."""

    kind: RecordKind
    payload: bytes


class TableSlots:
    """A table's counter and slots in shared memory.

    Attributes
    ----------
    table
        Names, dtypes and shapes of the columns, and the rows of a slot.
    slots
        For each slot, one writable array ``(rows_per_chunk, *shape)`` per column.
    first_row
        Rows that the table had when these slots were made; earlier chunks were never in them.
    """

    __slots__ = ("_counter", "_digests", "_mark", "_octets", "first_row", "slots", "table")

    def __init__(
        self, table: Table, n_slots: int, first_row: int, memory: mmap.mmap, offset: int
    ) -> None:
        self.table = table
        self.first_row = first_row
        whole = memoryview(memory)
        self._counter = whole[offset : offset + 8].cast("Q")
        self._digests = whole[offset + 8 : offset + 8 * (1 + n_slots)].cast("Q")
        self._mark = whole[offset + 8 * (1 + n_slots) : offset + 8 * (3 + n_slots)].cast("Q")
        offset += _head(n_slots)
        self._octets: list[memoryview] = []
        self.slots: list[tuple[np.ndarray[Any, Any], ...]] = []
        rows = table.rows_per_chunk
        columns = [
            (c.dtype, (rows, *c.shape), _aligned(rows * c.row_bytes, _LINE)) for c in table.columns
        ]
        for _ in range(n_slots):
            start = offset
            arrays = []
            for dtype, shape, size in columns:
                arrays.append(np.ndarray(shape, dtype, whole, offset))
                offset += size
            self._octets.append(whole[start:offset])
            self.slots.append(tuple(arrays))

    @property
    def rows(self) -> int:
        """Rows committed so far, in the whole episode."""
        return self._counter[0]

    def newest(self) -> tuple[np.ndarray[Any, Any], ...]:
        """Return the rows of the newest full slot, or all rows while none is full."""
        full, held = divmod(self.rows, self.table.rows_per_chunk)
        if full > self.first_row // self.table.rows_per_chunk:
            return self.slots[(full - 1) % len(self.slots)]
        return tuple(column[:held] for column in self.slots[full % len(self.slots)])

    @property
    def oldest_chunk(self) -> int:
        """The first chunk that is certain to be in the slots still."""
        rows = self.table.rows_per_chunk
        return max(self.first_row // rows, self.rows // rows - len(self.slots) + 1)

    @property
    def oldest_unless_free(self) -> int:
        """The first chunk that is in the slots, unless its slot was reported free.

        Before a new slot's first row is committed, the chunk that the slot held may be there
        or not; but while it was not free, nobody wrote over it.
        """
        rows = self.table.rows_per_chunk
        return max(self.first_row // rows, -(-self.rows // rows) - len(self.slots))

    def add_digest(self, chunk: int) -> None:
        """Keep a full slot's CRC-32, for whoever finds the slot after a crash.

        The writer does, when it takes the slot: it takes 0.1 ms a MB, and nobody waits for it.
        """
        slot = chunk % len(self.slots)
        crc = isal_zlib.crc32(self._octets[slot])
        self._digests[slot] = (chunk + 1 & 0xFFFFFFFF) << 32 | crc

    def is_intact(self, chunk: int, *, or_unknown: bool = True) -> bool:
        """Tell whether a full slot holds what it held when its CRC-32 was taken, if it was."""
        slot = chunk % len(self.slots)
        number, crc = divmod(self._digests[slot], 1 << 32)
        if number != (chunk + 1 & 0xFFFFFFFF):
            return or_unknown
        return crc == isal_zlib.crc32(self._octets[slot])

    def mark(self) -> None:
        """Keep the CRC-32 of the rows in the slot that is not full, for after a power loss."""
        rows = self.rows
        self._mark[1] = self._crc_of_rest(rows)
        self._mark[0] = rows

    def marked_rows(self) -> int | None:
        """Return the rows at the last mark, None if the slot does not hold them any more."""
        rows, crc = self._mark
        is_current = rows // self.table.rows_per_chunk == self.rows // self.table.rows_per_chunk
        return rows if is_current and rows <= self.rows and crc == self._crc_of_rest(rows) else None

    def _crc_of_rest(self, rows: int) -> int:
        chunk, held = divmod(rows, self.table.rows_per_chunk)
        crc = 0
        for column in self.slots[chunk % len(self.slots)]:
            crc = isal_zlib.crc32(column[:held].reshape(-1).view(np.uint8), crc)
        return int(crc)

    @property
    def counter(self) -> memoryview:
        """The row counter as a memoryview of one 8-byte word; storing into it commits."""
        return self._counter

    @staticmethod
    def size(table: Table, n_slots: int) -> int:
        """Return the bytes of a table's counter and slots."""
        slot = sum(_aligned(table.rows_per_chunk * c.row_bytes, _LINE) for c in table.columns)
        return _head(n_slots) + n_slots * slot


class Buffer:
    """One episode's buffer file, mapped.

    Use ``create`` in the process that logs and ``open`` everywhere else. Only the creator adds
    records. Closing happens with the last reference; ``unlink`` removes the file.
    """

    def __init__(self, path: Path, fd: int, *, read_only: bool = False) -> None:
        self.path = path
        self._fd = fd
        self._access = mmap.ACCESS_READ if read_only else mmap.ACCESS_DEFAULT
        self._head = mmap.mmap(fd, _PAGE, access=self._access)
        self._words = memoryview(self._head).cast("Q")
        self._last = 0  # offset of the newest record's header; 0 is page 0
        self._seen = 0  # offset of the newest record that `read_new` gave
        self._seen_end = _PAGE
        self.allocated_bytes = _PAGE

    def __del__(self) -> None:
        os.close(self._fd)

    @classmethod
    def create(cls, path: Path, start: dict[str, object], link: Path | None = None) -> "Buffer":
        """Create a buffer whose ``start`` record is `start`.

        Where `path` lies elsewhere, `link` is the link to it beside the shards.

        Raises
        ------
        FileExistsError
            The file exists: somebody else claimed it.
        NoSpace
            The file system has no room for it.
        BufferFailed
            It could not be written.
        """
        fd = _create_locked(path)
        try:
            _reserve(fd, path, 0, _PAGE)
            buffer = cls(link or path, fd)
        except BaseException:
            path.unlink()
            os.close(fd)
            raise
        reached("buffer created")
        try:
            buffer.add_record("start", json.dumps(start).encode())
        except BaseException:
            path.unlink()
            raise
        buffer._words[_W_MAGIC] = _MAGIC
        reached("buffer started")
        buffer.unlock()
        return buffer

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "Buffer":
        """Map an existing buffer, on request so that nothing of it can be changed.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ShardOutside
            A link at its path names what is no buffer.
        BufferDamaged
            It is not a buffer, or its creator died before it held anything.
        """
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would be waited for
        try:
            fd = os.open(buffer_target(path), flags | (os.O_RDONLY if read_only else os.O_RDWR))
        except IsADirectoryError as error:
            raise BufferDamaged(path, "it is a folder") from error
        stat = os.fstat(fd)
        if not S_ISREG(stat.st_mode) or stat.st_size < _PAGE:
            os.close(fd)
            raise BufferDamaged(path, "it is shorter than its header")
        buffer = cls(path, fd, read_only=read_only)
        if buffer._words[_W_MAGIC] != _MAGIC:
            raise BufferDamaged(path, "its header was never completed")
        return buffer

    def unlink(self) -> None:
        """Remove the file, and what a link at its path points to.

        Mappings stay usable until their last reference goes.
        """
        remove_buffer(self.path)

    def sync(self) -> None:
        """Write the file to stable storage."""
        os.fsync(self._fd)

    # -- header words ---------------------------------------------------------------------

    @property
    def alarm(self) -> memoryview:
        """One 8-byte word that a writer sets to 1 when it can write no more."""
        return self._words[_W_ALARM : _W_ALARM + 1]

    @property
    def steps(self) -> memoryview:
        """One 8-byte word: the timesteps logged so far."""
        return self._words[_W_STEPS : _W_STEPS + 1]

    def lock(self, *, wait: bool = False) -> bool:
        """Become the one process that writes this episode's shard, until its death or unlock.

        Returns
        -------
        bool
            False where another process is that, and `wait` is not set.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Let another process write the shard."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def is_linked(self) -> bool:
        """Tell whether the file still has a name: it loses that once its shard is published."""
        return os.fstat(self._fd).st_nlink > 0

    # -- records --------------------------------------------------------------------------

    def add_record(self, kind: RecordKind, payload: bytes) -> None:
        """Append a record; it exists once this returns.

        Raises
        ------
        NoSpace
            The file system has no room for it; the buffer is as before.
        BufferFailed
            It could not be written; the buffer is as before.
        """
        self._append(kind, payload, 0)

    def add_tables(
        self, tables: Sequence[Table], n_slots: Sequence[int], rows: Sequence[int]
    ) -> "NewTables":
        """Reserve slots for tables; they exist once ``commit`` of the result is called.

        Parameters
        ----------
        tables
            New tables, or known ones with more columns.
        n_slots
            Slots of each table.
        rows
            Rows that each table has already; their counters start there.
        """
        entries = [
            {**table.to_json(), "slots": n, "first_row": first}
            for table, n, first in zip(tables, n_slots, rows, strict=True)
        ]
        payload = json.dumps(entries).encode()
        sizes = [TableSlots.size(table, n) for table, n in zip(tables, n_slots, strict=True)]
        offset = self._append("tables", payload, sum(sizes), link=False)
        slots = self._map_tables(offset, payload, is_new=True)
        for table_slots, count in zip(slots, rows, strict=True):
            table_slots.counter[0] = count
        return NewTables(self, offset, slots)

    def read_new(self) -> list[tuple[Record, list[TableSlots]]]:
        """Return the records added since the last call, with the slots of ``tables`` records.

        Raises
        ------
        BufferDamaged
            The next record's link or checksum is wrong; every record before it was returned,
            by this call's predecessors.
        """
        found: list[tuple[Record, list[TableSlots]]] = []
        try:
            while offset := self._next_of(self._seen):
                found.append(self._read_record(offset))
                self._seen = offset
        except BufferDamaged:
            if not found:
                raise
        return found

    def _read_record(self, offset: int) -> tuple[Record, list[TableSlots]]:
        size = os.fstat(self._fd).st_size
        if offset % _PAGE or offset < self._seen_end or offset + _LINE > size:
            raise BufferDamaged(self.path, f"a link points to byte {offset}")
        header = self._record_header(offset)
        end, length = offset + header[_R_EXTENT], header[_R_PAYLOAD]
        if end > size or header[_R_KIND] >= len(_KINDS) or _LINE + length > header[_R_EXTENT]:
            raise BufferDamaged(self.path, f"the record at byte {offset} has a bad header")
        kind = _KINDS[header[_R_KIND]]
        if length > (_MOST_STATIC_BYTES if kind == "static" else _MOST_BYTES):
            raise BufferDamaged(self.path, f"the record at byte {offset} has {length} bytes")
        payload = os.pread(self._fd, length, offset + _LINE)
        if zlib.crc32(payload) != header[_R_CRC]:
            raise BufferDamaged(self.path, f"the record at byte {offset} fails its checksum")
        self._seen_end = end
        return Record(kind, payload), self._map_tables(offset, payload) if kind == "tables" else []

    def _append(self, kind: RecordKind, payload: bytes, region: int, *, link: bool = True) -> int:
        body = _aligned(_LINE + len(payload), _LINE)
        extent = _aligned(body + region, _PAGE)
        offset = _aligned(os.fstat(self._fd).st_size, _PAGE)
        _reserve(self._fd, self.path, offset, extent)
        self.allocated_bytes += extent
        header = np.zeros(8, np.uint64)
        header[_R_KIND] = _KINDS.index(kind)
        header[_R_PAYLOAD] = len(payload)
        header[_R_EXTENT] = extent
        header[_R_CRC] = zlib.crc32(payload)
        self._write(header.tobytes() + payload, offset)
        reached("record written")
        if link:
            self._link(offset)
        return offset

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise BufferFailed(self.path, str(error.strerror)) from error

    def _link(self, offset: int) -> None:
        if self._last == 0:
            self._words[_W_FIRST] = offset
        else:
            self._write(offset.to_bytes(8, "little"), self._last)
        self._last = offset
        reached("record linked")

    def _next_of(self, offset: int) -> int:
        return self._words[_W_FIRST] if offset == 0 else self._record_header(offset)[_R_NEXT]

    def _record_header(self, offset: int) -> tuple[int, ...]:
        return _record_words(os.pread(self._fd, _LINE, offset))

    def _map_tables(self, offset: int, payload: bytes, *, is_new: bool = False) -> list[TableSlots]:
        try:
            entries = [_table_entry(entry) for entry in json.loads(payload)]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            problem = f"tables at byte {offset}: {str(error)[:_MOST_TEXT]}"
            raise BufferDamaged(self.path, problem) from error
        extent = self._record_header(offset)[_R_EXTENT]
        position = _aligned(_LINE + len(payload), _LINE)
        sizes = [TableSlots.size(table, n) for table, n, _ in entries]
        if position + sum(sizes) > extent:
            raise BufferDamaged(self.path, f"tables at byte {offset} reach past their record")
        memory = mmap.mmap(self._fd, extent, access=self._access, offset=offset)
        if is_new:
            # Else the first touch reads ahead, which for a new file means: zeroes megabytes.
            memory.madvise(mmap.MADV_RANDOM)
        slots = []
        for (table, n, first_row), size in zip(entries, sizes, strict=True):
            try:
                slots.append(TableSlots(table, n, first_row, memory, position))
            except ValueError as error:  # so many rows of no bytes that NumPy has no such array
                raise BufferDamaged(self.path, f"{table.name}: {error}") from error
            position += size
        return slots


@dataclass(frozen=True, slots=True)
class NewTables:
    """Tables that are reserved and may be filled, but do not exist for others yet."""

    buffer: Buffer
    offset: int
    slots: list[TableSlots]

    def commit(self) -> None:
        """Make the tables exist, with the rows their counters say."""
        self.buffer._link(self.offset)


def remove_buffer(path: Path) -> None:
    """Remove a buffer file; where `path` is a link, first the file that it names.

    An episode's scratch folder goes with it.

    Raises
    ------
    ShardOutside
        The link names what is no buffer; nothing was removed.
    """
    target = buffer_target(path)
    target.unlink(missing_ok=True)
    if is_scratch_name(target.parent):
        with suppress(OSError):  # what it holds beyond an episode's files stays, and so does it
            for leftover in leftovers_in(target.parent):
                leftover.unlink(missing_ok=True)
            target.parent.rmdir()
    path.unlink(missing_ok=True)
    reached("buffer removed")


def _create_locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # a recovery took it for a dead process's before it was locked


def _table_entry(entry: dict[str, Any]) -> tuple[Table, int, int]:
    """Return a table with its number of slots, and the rows that it had before them."""
    table, n_slots, first_row = Table.from_json(entry), int(entry["slots"]), int(entry["first_row"])
    if not 0 < n_slots <= _MOST_SLOTS or first_row < 0:
        raise ValueError(f"{n_slots} slots from row {first_row} on")
    return table, n_slots, first_row


def _head(n_slots: int) -> int:
    """Return the bytes of a table's counter, checksums and mark."""
    return _aligned(8 * (3 + n_slots), _LINE)


def _aligned(n: int, step: int) -> int:
    return -(-n // step) * step


def _reserve(fd: int, path: Path, offset: int, length: int) -> None:
    # Without this a full /dev/shm kills the process with SIGBUS at the first touch.
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        os.ftruncate(fd, offset)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BufferFailed(path, str(error.strerror)) from error
        reason = f"{os.strerror(error.errno)} ({path.resolve().parent})"
        advice = "free some space, or set buffer_dir= to a file system that has it"
        raise NoSpace(path, length, reason, advice) from error
