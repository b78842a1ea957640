"""The structure of an HDF5 file, read from its bytes: links, attributes and datasets.

Asking HDF5 what is in a small shard takes milliseconds; its bytes say it in a tenth of that, and
nothing in them can hang or crash. Source: HDF5 File Format Specification 3.0. Invariant: what is
returned is what HDF5 would say once ``are_sound`` has compared the checksums; whatever else a
file may hold raises ``Unfamiliar``, and HDF5 has to be asked.
"""

import math
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from shardwriter.files.dense_storage import Inconsistent, Unfamiliar, dense_messages, is_name
from shardwriter.files.lookup3 import lookup3_of_many
from shardwriter.files.stored_objects import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    CONTINUATION,
    LAYOUT,
    LINK,
    LINK_INFO,
    SYMBOL_TABLE,
    UNDEFINED,
    Messages,
    attribute_form,
    is_group,
)
from shardwriter.files.symbol_table import HEAD, HEADER_BYTES, members

__all__ = [
    "UNCERTAIN",
    "Inconsistent",
    "Structure",
    "Unfamiliar",
    "are_sound",
]

# What reading may raise: damaged bytes are decoded before their checksum is looked at.
UNCERTAIN = (
    Unfamiliar,
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_BLOCKS = 256  # of one header
_MOST_BYTES = 64 << 20  # of one thing that is read
_MOST_NOTED = 4  # times the size of the file, and
_MOST_NOTED_BYTES = 4 << 20, 1 << 30  # beyond that, and in all
_MOST_TEXTS = 16  # times the size of the file, as what is asked for may be the same again
_WHOLE_BYTES = 1 << 20  # smaller files are read at once
_FIRST_BYTES = 512  # of a header, as most have fewer

_message = struct.Struct("<BHB").unpack_from
_heap_entry = struct.Struct("<HH4xQ").unpack_from
_heap_reference = struct.Struct("<IQI").unpack_from
_word = struct.Struct("<Q").unpack_from


class Structure:
    """The objects of one file.

    Parameters
    ----------
    path
        The file; not a symbolic link. Or its descriptor.
    is_read_whole
        Read a small file at once, as is best where more than its root is wanted.

    Attributes
    ----------
    checksummed
        Every block noted so far that ends in a checksum.
    size, mtime_ns
        Of the file when it was opened.
    whole
        All of a small file, b"" where it was not read at once.

    Raises
    ------
    OSError
        It cannot be read.
    Unfamiliar
        It is no HDF5 file of the kind that is known here.
    """

    def __init__(self, path: Path | str | int, *, is_read_whole: bool = True) -> None:
        if isinstance(path, int):
            self._fd = os.dup(path)
        else:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            stat = os.fstat(self._fd)
            if not S_ISREG(stat.st_mode):
                raise Unfamiliar
            self.size, self.mtime_ns = stat.st_size, stat.st_mtime_ns
            is_small = is_read_whole and self.size <= _WHOLE_BYTES
            self.whole = os.pread(self._fd, self.size, 0) if is_small else b""
            head = self.read(0, 48)
            # Superblock 2 or 3, 8-byte offsets and lengths, no base address, no extension.
            if head[:8] != _SIGNATURE or head[8] not in (2, 3) or head[9:11] != b"\x08\x08":
                raise Unfamiliar
            base, extension, end, root = struct.unpack_from("<Q8sQQ", head, 12)
            if head[11] or base or extension != UNDEFINED or end > self.size:
                raise Unfamiliar
        except BaseException:
            os.close(self._fd)
            raise
        self.checksummed = [head]
        self._kept_bytes = 0  # of blocks, which may be one block again and again
        self.root: int = root
        self._heaps: dict[int, dict[int, bytes]] = {}
        self._text_bytes = 0  # of those returned: many references may lead to one text

    def __enter__(self) -> "Structure":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was noted for ``are_sound`` stays."""
        self.whole = b""
        os.close(self._fd)

    def fileno(self) -> int:
        """Return the file's descriptor, while it is open."""
        return self._fd

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, exactly so many."""
        if size > _MOST_BYTES or offset + size > self.size:
            raise Unfamiliar
        if self.whole:
            return self.whole[offset : offset + size]
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise Unfamiliar
        return data

    def note(self, block: bytes) -> None:
        """Keep a block that ends in a checksum for ``are_sound``."""
        self._keep(len(block))
        self.checksummed.append(block)

    def _keep(self, size: int) -> None:
        self._kept_bytes += size
        beyond, most = _MOST_NOTED_BYTES
        if self._kept_bytes > min(_MOST_NOTED * self.size + beyond, most):
            raise Unfamiliar

    def messages(self, address: int) -> Messages:
        """Return the messages of the object whose header is at an address."""
        first = self.read(address, min(_FIRST_BYTES, self.size - min(address, self.size)))
        if first[:5] != b"OHDR\x02":
            if first[: len(HEAD)] == HEAD:
                return [(SYMBOL_TABLE, first[len(HEAD) : HEADER_BYTES])]
            raise Unfamiliar
        flags = first[5]
        width = 1 << (flags & 3)
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0) + width
        length = start + int.from_bytes(first[start - width : start], "little") + 4
        block = first[:length] if length <= len(first) else self.read(address, length)
        step = 6 if flags & 4 else 4
        self.note(block)
        found: Messages = []
        blocks = [(block, start)]
        for data, first_place in blocks:
            place, end = first_place, len(data) - 4
            while place + step <= end:
                kind, length, sharing = _message(data, place)
                place += step
                following = place + length
                if following > end or sharing & 2:
                    raise Unfamiliar
                if kind == CONTINUATION:
                    blocks.append((self._continuation(data[place:following], len(blocks)), 4))
                elif kind:
                    found.append((kind, data[place:following]))
                place = following
        single = [kind for kind, _ in found if kind not in (LINK, ATTRIBUTE)]
        if len(set(single)) != len(single):  # HDF5 takes the first
            raise Inconsistent("an object that says something twice")
        return found

    def _continuation(self, body: bytes, count: int) -> bytes:
        if len(body) != 16 or count > _MOST_BLOCKS:
            raise Unfamiliar
        block = self.read(*struct.unpack("<QQ", body))
        if block[:4] != b"OCHK":
            raise Unfamiliar
        self.note(block)
        return block

    def find(self, path: str) -> Messages | None:
        """Return the messages of the object at a path from the root, None where there is none."""
        address = self.place(path)
        return None if address is None else self.messages(address)

    def place(self, path: str) -> int | None:
        """Return the address of the object at a path from the root, None where there is none."""
        address = self.root
        for name in path.encode("utf-8", "surrogateescape").split(b"/"):
            messages = self.messages(address)
            found = self.links(messages).get(name) if is_group(messages) else None
            if found is None:
                return None
            address = found
        return address

    # -- groups ---------------------------------------------------------------------------

    def links(self, messages: Messages) -> dict[bytes, int]:
        """Return the addresses of a group's members by name, in the order of names."""
        found: dict[bytes, int] = {}
        for kind, body in self._every(messages, LINK, LINK_INFO, 8):
            if kind == SYMBOL_TABLE:
                found = members(self.read, *struct.unpack("<QQ", body))
            elif kind == LINK:
                flags = body[1]
                if body[0] != 1 or flags & 8:  # a link of another type than hard
                    raise Unfamiliar
                place = 2 + (8 if flags & 4 else 0) + (1 if flags & 0x10 else 0)
                width = 1 << (flags & 3)
                name = place + width
                end = name + int.from_bytes(body[place:name], "little")
                if len(body) != end + 8 or body[name:end] in found:
                    raise Unfamiliar
                found[body[name:end]] = _word(body, end)[0]
        if not all(map(is_name, found)):
            raise Inconsistent("a name that is a path")
        return dict(sorted(found.items()))

    def _every(self, messages: Messages, kind: int, about: int, counter_bytes: int) -> Messages:
        """Return messages, those that lie elsewhere because they are many among them.

        Parameters
        ----------
        messages
            Those of the header.
        kind, about
            The kind wanted, and that of the message which says where they are.
        counter_bytes
            Width of a counter in that, where it has one.
        """
        elsewhere: list[bytes] = []
        for each, body in messages:
            if each == about:
                place = 2 + (counter_bytes if body[1] & 1 else 0)
                if body[0]:
                    raise Unfamiliar
                if body[place : place + 8] != UNDEFINED:
                    places = struct.unpack_from("<QQ", body, place)
                    elsewhere += dense_messages(self.read, self.note, *places)
        return messages + [(kind, body) for body in elsewhere] if elsewhere else messages

    # -- attributes -----------------------------------------------------------------------

    def attributes(self, messages: Messages, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return an object's attributes, as h5py gives them, but for some."""
        found: dict[str, Any] = {}
        for kind, body in self._every(messages, ATTRIBUTE, ATTRIBUTE_INFO, 2):
            if kind == ATTRIBUTE:
                name, dtype, shape, start = attribute_form(body)
                if name in found:
                    raise Unfamiliar
                if name not in without:
                    found[name] = self._value(dtype, shape, body[start:])
        return dict(sorted(found.items()))

    def decoded(self, stored: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
        """Return attributes, each given by what comes before its value, and that; texts as such."""
        found: dict[str, Any] = {}
        for head, data in stored:
            name, dtype, shape, _ = attribute_form(head)
            found[name] = data.decode() if dtype is None else self._value(dtype, shape, data)
        return dict(sorted(found.items()))

    def _value(self, dtype: np.dtype[Any] | None, shape: tuple[int, ...], data: bytes) -> Any:
        if dtype is None:
            if shape:
                raise Unfamiliar
            return self.text(data).decode()
        if len(data) < math.prod(shape) * dtype.itemsize:
            raise Unfamiliar
        if dtype.kind == "S":
            if shape:
                raise Unfamiliar
            return data[: dtype.itemsize].rstrip(b"\0").decode()
        return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape).copy()[()]

    def text(self, reference: bytes, place: int = 0) -> bytes:
        """Return the bytes of a text of variable length."""
        if len(reference) < place + 16:
            raise Unfamiliar
        length, address, number = _heap_reference(reference, place)
        if not length:
            return b""
        data = self._in_heap(address, number)
        self._text_bytes += length
        if len(data) != length or self._text_bytes > _MOST_TEXTS * self.size:
            raise Unfamiliar
        return data

    def _in_heap(self, address: int, number: int) -> bytes:
        """Return an object of a global heap, b"" where there is none of that number."""
        if address not in self._heaps:
            self._heaps[address] = self._heap(address)
        return self._heaps[address].get(number, b"")

    def _heap(self, address: int) -> dict[int, bytes]:
        """Read a global heap collection."""
        head = self.read(address, 16)
        if head[:5] != b"GCOL\x01":
            raise Unfamiliar
        data = self.read(address, _word(head, 8)[0])
        self._keep(len(data))
        found: dict[int, bytes] = {}
        place = 16
        while place + 16 <= len(data):
            number, _, length = _heap_entry(data, place)
            if number == 0:  # the free space comes last
                if length != len(data) - place:  # HDF5 goes on behind it
                    raise Unfamiliar
                break
            place += 16
            found[number] = data[place : place + length]
            place += -(-length // 8) * 8
        return found

    # -- datasets -------------------------------------------------------------------------

    def virtual_mapping(self, messages: Messages) -> bytes | None:
        """Return what a virtual dataset shows, as it is stored, None for any other dataset."""
        layout = dict(messages)[LAYOUT]
        if layout[:2] != b"\x04\x03":
            return None
        found = self._in_heap(*struct.unpack_from("<QI", layout, 2))
        self.note(found)
        return found


def are_sound(several: Sequence[Structure]) -> list[bool]:
    """Tell, for each of some files, whether all blocks that were read match their checksums."""
    blocks = [block for each in several for block in each.checksummed]
    hashes = lookup3_of_many([block[:-4] for block in blocks])
    expected = np.frombuffer(b"".join(block[-4:] for block in blocks), "<u4")
    owners = np.repeat(np.arange(len(several)), [len(each.checksummed) for each in several])
    wrong = set(owners[hashes != expected].tolist())
    return [i not in wrong for i in range(len(several))]
