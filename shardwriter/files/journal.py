"""A redo journal: changes to a closed file that survive a kill at any instant.

HDF5 changes a file's structure in place, and a process killed in between leaves a file that
nobody can open. So structure is changed through an ``Overlay``, which holds the writes back in
memory; ``commit`` puts them into a journal file, publishes that by rename, and only then applies
them. Invariant: with a journal beside it, a file's content is the file with the journal applied,
however often; and neither is ever a link.
"""

import io
import os
import zlib
from io import FileIO
from pathlib import Path
from stat import S_ISREG
from typing import Literal

from shardwriter.errors import ShardDamaged, not_opened
from shardwriter.system.instants import reached

__all__ = ["Overlay", "replay", "sync_directory", "sync_file"]

_MAGIC = b"SWREDO\x00\x01"
_MOST_BYTES = 1 << 62  # of a file


class Overlay(io.RawIOBase):
    """A file-like view of a file whose writes stay in memory until ``commit``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ShardDamaged
        It is a link, or no regular file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = _opened(path, "rb")
        self._size = os.fstat(self._file.fileno()).st_size
        self._writes: list[tuple[int, bytes]] = []
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte offset."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the byte offset."""
        return self._position

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]  # h5py's own call
        """Fill `target` from the file as it will be; zeros beyond its end."""
        view = memoryview(target).cast("B")
        start, stop = self._position, self._position + len(view)
        old = os.pread(self._file.fileno(), len(view), start)
        view[: len(old)] = old
        view[len(old) :] = bytes(len(view) - len(old))
        for offset, data in self._writes:
            low, high = max(offset, start), min(offset + len(data), stop)
            if low < high:
                view[low - start : high - start] = data[low - offset : high - offset]
        self._position = stop
        return len(view)

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # h5py's own call
        """Hold a write back."""
        held = bytes(data)
        self._writes.append((self._position, held))
        self._position += len(held)
        self._size = max(self._size, self._position)
        return len(held)

    def truncate(self, size: int | None = None) -> int:
        """Set the size that the file will have."""
        self._size = self._position if size is None else size
        return self._size

    def close(self) -> None:
        """Let go of the file; what was not committed is gone."""
        self._file.close()
        super().close()

    def foresee(self, journal: Path) -> None:
        """Show the file as a published journal makes it, if there is one.

        Raises
        ------
        ShardDamaged
            The journal fails its checksum, or is of a file that has taken this one's place.
        """
        try:
            self._size, writes = _content(journal)
            is_same = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return
        if not is_same:
            raise ShardDamaged(self._path, "file", "another has taken its place")
        self._writes = [(offset, bytes(data)) for offset, data in writes]

    def commit(self, journal: Path) -> None:
        """Make the held writes durable in `journal`, then apply them and remove it."""
        parts = [self._size.to_bytes(8, "little"), len(self._writes).to_bytes(8, "little")]
        for offset, data in self._writes:
            parts += [offset.to_bytes(8, "little"), len(data).to_bytes(8, "little"), data]
        body = b"".join(parts)
        temporary = journal.with_name(f".{journal.name}.tmp")
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(_MAGIC + zlib.crc32(body).to_bytes(8, "little") + body)
            file.flush()
            os.fsync(file.fileno())
        reached("journal written")
        temporary.replace(journal)
        reached("journal published")
        sync_directory(journal.parent)
        replay(journal, self._path)


def replay(journal: Path, path: Path) -> None:
    """Apply a journal to its file and remove it.

    Raises
    ------
    ShardDamaged
        The journal fails its checksum, or writes where no file can be written; or one of both is
        a link, or no regular file. Nothing was applied.
    """
    size, writes = _content(journal)
    with _opened(path, "r+b") as file:
        for offset, data in writes:
            file.seek(offset)
            rest = data
            while rest:
                rest = rest[file.write(rest) :]
        file.truncate(size)
        os.fsync(file.fileno())
    reached("journal applied")
    journal.unlink()
    sync_directory(journal.parent)  # a journal that came back would undo what is written next
    reached("journal removed")


def _content(journal: Path) -> tuple[int, list[tuple[int, memoryview]]]:
    """Return the size that a journal gives its file, and what it writes where."""
    with _opened(journal, "rb") as file:
        data = file.readall()
    body = memoryview(data)[16:]
    if data[:8] != _MAGIC or zlib.crc32(body) != int.from_bytes(data[8:16], "little"):
        raise ShardDamaged(journal, "journal", "it fails its checksum")
    size = int.from_bytes(body[:8], "little")
    writes = []
    position = 16
    for _ in range(int.from_bytes(body[8:16], "little")):
        offset = int.from_bytes(body[position : position + 8], "little")
        length = int.from_bytes(body[position + 8 : position + 16], "little")
        position += 16
        if max(size, offset + length) > _MOST_BYTES or position + length > len(body):
            raise ShardDamaged(journal, "journal", "it is of no file that there can be")
        writes.append((offset, body[position : position + length]))
        position += length
    return size, writes


def _opened(path: Path, mode: Literal["rb", "r+b"]) -> FileIO:
    """Open a regular file that is no link, without waiting for anybody, as for a FIFO.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ShardDamaged
        It is something else, or cannot be opened.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | (os.O_RDONLY if mode == "rb" else os.O_RDWR))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise not_opened(path, "file", error) from error
    if not S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ShardDamaged(path, "file", "expected a regular file, got something else")
    return FileIO(fd, mode)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in a directory durable."""
    sync_file(directory)


def sync_file(path: Path) -> None:
    """Write what the system holds of a file to stable storage."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
