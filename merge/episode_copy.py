"""One episode's group, copied to another file as bytes: chunks as they are, headers anew.

HDF5 takes a fifth of a millisecond for an object. Invariant: what is copied decodes to what it
was; a dataset that could grow has the index of one that cannot, as nothing is added to an episode
that is finished. What cannot be copied so is ``Unfamiliar``, and HDF5 has to.
"""

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge.comparing import Copied
from merge.master_file import Appending, appending, batches
from merge.plan import EpisodePlan
from shardwriter.files.chunk_index import StoredChunk, chunks_of
from shardwriter.files.encoding import AttributeTooLarge, Encoder
from shardwriter.files.links import DEEPEST, MOST_NODES
from shardwriter.files.stored_episode import StoredEpisode, copied
from shardwriter.files.stored_objects import Messages, StoredDataset, is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar, are_sound

__all__ = ["EpisodeCopy", "copy_episodes"]

_DATASPACE, _LAYOUT = 0x01, 0x08
_FORM = (0x03, 0x05, 0x0B)  # datatype, fill value, filters
_BLOCK_BYTES = 256 * 1024
_MOST_AT_ONCE = 32
_BYTES_AT_ONCE = 2 << 20
_NOWHERE = b"\xff" * 8

_Extent = tuple[int, int]  # address, bytes


@dataclass(slots=True)
class _Group:
    attributes: Mapping[str, Any]
    members: dict[str, "_Group | _Dataset"]


@dataclass(slots=True)
class _Dataset:
    attributes: Mapping[str, Any]
    messages: dict[int, bytes]
    stored: StoredDataset
    chunks: list[StoredChunk | None]
    texts: list[str] | None


def copy_episodes(
    path: Path, episodes: Iterable[EpisodePlan], done: Callable[[int], object]
) -> tuple[list[Copied], list[EpisodePlan]]:
    """Copy episodes into a closed file with a group ``episodes``, which is made anew.

    Parameters
    ----------
    path
        The file.
    episodes
        Those to copy.
    done
        Called with the number of episodes copied since it was last called.

    Returns
    -------
    list, list
        The copies, and the episodes that HDF5 has to copy.
    """
    copies: list[Copied] = []
    left: list[EpisodePlan] = []
    with appending(path, {}) as out:
        for several in batches(episodes):
            others: list[EpisodePlan] = []
            for few in _few(several):
                found, unknown = _copy_at_once(few, out)
                copies += found
                others += unknown
                done(len(found))
            found, unknown = _copy_some(others, out)
            copies += found
            left += unknown
            done(len(found))
    return copies, left


def _few(episodes: Iterable[EpisodePlan]) -> Iterator[list[EpisodePlan]]:
    """Yield as many as are worth copying at once: few bytes, and few open files."""
    few: list[EpisodePlan] = []
    size = 0
    for each in episodes:
        if few and (len(few) == _MOST_AT_ONCE or size + each.shard.size > _BYTES_AT_ONCE):
            yield few
            few, size = [], 0
        few.append(each)
        size += each.shard.size
    if few:
        yield few


def _copy_at_once(
    episodes: Sequence[EpisodePlan], out: Appending
) -> tuple[list[Copied], list[EpisodePlan]]:
    """Copy those that are as short shards have them; return what came of it, and the others."""
    there: list[EpisodePlan] = []
    stored: list[StoredEpisode] = []
    try:
        for each in episodes:
            shard = each.shard
            if shard.address >= 0 and shard.size <= _BYTES_AT_ONCE:
                with suppress(OSError):
                    fd = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                    there.append(each)
                    stored.append(StoredEpisode(fd, shard.size, shard.address))
        data, addresses = copied(stored, out.end)
    finally:
        for one in stored:
            os.close(one.fd)
    out.write(data)
    copies = []
    for each, address in zip(there, addresses, strict=True):
        if address >= 0:
            out.addresses[each.name] = address
            copies.append(Copied(each.shard, each.group, address))
    done = {copy.group for copy in copies}
    return copies, [each for each in episodes if each.group not in done]


def _copy_some(
    episodes: Sequence[EpisodePlan], out: Appending
) -> tuple[list[Copied], list[EpisodePlan]]:
    read: list[tuple[EpisodePlan, Structure, EpisodeCopy]] = []
    left: list[EpisodePlan] = []
    for each in episodes:
        try:
            structure = Structure(each.shard.path)
        except UNCERTAIN:
            left.append(each)
            continue
        with structure:
            try:
                copy = EpisodeCopy(structure, each.shard.group)
            except UNCERTAIN:
                left.append(each)
                continue
            try:
                copy.write_data(out)
            except Unfamiliar:
                left.append(each)
                continue
        read.append((each, structure, copy))
    copies: list[Copied] = []
    encoder = Encoder(out.end)
    sound = are_sound([structure for _, structure, _ in read])
    for (each, _, copy), is_sound in zip(read, sound, strict=True):
        try:
            if not is_sound:
                raise Unfamiliar
            address = copy.encode(encoder)
        except (*UNCERTAIN, AttributeTooLarge):
            left.append(each)
            continue
        out.addresses[each.name] = address
        copies.append(Copied(each.shard, each.group, address))
    out.write(encoder.finish())
    return copies, left


class EpisodeCopy:
    """An episode to copy.

    Parameters
    ----------
    structure
        The file that it is in.
    group
        Its group there.

    Raises
    ------
    Unfamiliar, or what else is in ``UNCERTAIN``
        HDF5 has to copy it.
    """

    def __init__(self, structure: Structure, group: str) -> None:
        self._structure = structure
        self._extents: set[_Extent] = set()
        self._nodes = 0
        messages = structure.find(group)
        if messages is None:
            raise Unfamiliar
        self._root = self._object(messages, 0)
        if any(address + size > structure.size for address, size in self._extents):
            raise Unfamiliar
        if sum(size for _, size in self._extents) > structure.size:  # they overlap
            raise Unfamiliar
        self._moved: dict[_Extent, int] = {}

    def _object(self, messages: Messages, depth: int) -> _Group | _Dataset:
        self._nodes += 1
        if depth > DEEPEST or self._nodes > MOST_NODES:
            raise Unfamiliar
        structure = self._structure
        attributes = structure.attributes(messages)
        if not is_group(messages):
            return self._dataset(messages, attributes)
        members = {
            name.decode("utf-8", "surrogateescape"): self._object(
                structure.messages(address), depth + 1
            )
            for name, address in structure.links(messages).items()
        }
        return _Group(attributes, members)

    def _dataset(self, messages: Messages, attributes: Mapping[str, Any]) -> _Dataset:
        stored = stored_dataset(messages)
        chunks: list[StoredChunk | None] = []
        texts = None
        if stored.chunk:
            if stored.dtype is None:
                raise Unfamiliar
            grid = zip(stored.shape, stored.chunk, strict=True)
            count = math.prod(-(-length // chunk) for length, chunk in grid)
            chunks = chunks_of(self._structure, stored, count)
            self._extents |= {each[:2] for each in chunks if each}
        elif stored.nbytes and stored.address < 0:
            raise Unfamiliar
        elif stored.dtype is None:
            data = self._structure.read(stored.address, stored.nbytes) if stored.nbytes else b""
            places = range(0, len(data), 16)
            texts = [self._structure.text(data, place).decode() for place in places]
        elif stored.nbytes:
            self._extents.add((stored.address, stored.nbytes))
        return _Dataset(attributes, dict(messages), stored, chunks, texts)

    def write_data(self, out: Appending) -> None:
        """Copy chunks and arrays, those that follow one another in one go."""
        start = stop = 0
        for address, size in sorted(self._extents):
            if address != stop:
                self._copy(start, stop, out)
                start = address
            self._moved[address, size] = out.end + address - start
            stop = address + size
        self._copy(start, stop, out)

    def _copy(self, start: int, stop: int, out: Appending) -> None:
        for place in range(start, stop, _BLOCK_BYTES):
            try:
                data = self._structure.read(place, min(_BLOCK_BYTES, stop - place))
            except OSError as error:
                raise Unfamiliar from error
            out.write(data)  # a full disk is an error

    def encode(self, encoder: Encoder) -> int:
        """Add the group and all below it, once the data are written; return its address."""
        return self._encoded(encoder, self._root)

    def _encoded(self, encoder: Encoder, node: _Group | _Dataset) -> int:
        if isinstance(node, _Group):
            members = {name: self._encoded(encoder, each) for name, each in node.members.items()}
            return encoder.group(members, node.attributes)
        space, layout = self._placed(encoder, node)
        form = [(kind, node.messages[kind]) for kind in _FORM if kind in node.messages]
        return encoder.dataset([(_DATASPACE, space), *form, (_LAYOUT, layout)], node.attributes)

    def _placed(self, encoder: Encoder, node: _Dataset) -> tuple[bytes, bytes]:
        """Return the messages of a dataset's shape and of where its data are now."""
        stored = node.stored
        space, layout = node.messages[_DATASPACE], node.messages[_LAYOUT]
        if not stored.chunk:
            address = _NOWHERE
            if node.texts:
                address = _address(encoder.texts(node.texts))
            elif stored.nbytes:
                address = _address(self._moved[stored.address, stored.nbytes])
            return space, layout[:2] + address + layout[10:]
        if not node.chunks or stored.address < 0:
            return space, layout[:-8] + _NOWHERE
        (one, *others) = node.chunks
        if stored.index[1] == 1 and one and not others:
            return space, layout[:-8] + _address(self._moved[one[:2]])
        index, place = encoder.fixed_array([self._element(node, each) for each in node.chunks])
        form = layout[: len(layout) - 8 - len(stored.index) + 1]
        return _fixed_shape(stored.shape), form + index + _address(place)

    def _element(self, node: _Dataset, chunk: StoredChunk | None) -> bytes:
        """Return what an index says of a chunk."""
        width = 0
        if node.stored.filters:
            width = min(8, 1 + (node.stored.chunk_bytes.bit_length() - 1 + 8) // 8)
        if chunk is None:
            return _NOWHERE + bytes(width + 4 if width else 0)
        address, size, mask = chunk
        moved = _address(self._moved[address, size])
        return moved + size.to_bytes(width, "little") + struct.pack("<I", mask) if width else moved


def _address(place: int) -> bytes:
    return struct.pack("<Q", place)


def _fixed_shape(shape: tuple[int, ...]) -> bytes:
    """Return the message of a shape that cannot grow."""
    return struct.pack(f"<BBBB{len(shape)}Q", 2, len(shape), 0, 1, *shape)
