"""Comparing copied episodes with their originals, as the bytes that are stored.

Chunks are compared as they are, compressed: equal chunks under equal headers decode to equal rows.
Invariant: what is not named as left over was found equal, with the checksums of both files'
headers; whatever these have that is read by HDF5 alone is left over.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merge.describing import in_children
from shardwriter.errors import ShardDamaged, ShardWriterError
from shardwriter.files.chunk_index import chunks_of
from shardwriter.files.layout import EPISODES
from shardwriter.files.shard_description import ShardDescription
from shardwriter.files.stored_episode import StoredEpisode, is_same
from shardwriter.files.stored_objects import Messages, StoredDataset, is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar, are_sound

__all__ = ["Copied", "compare"]

_TOGETHER = 64  # episodes whose checksums are compared at once
_FEW = 500  # that are compared sooner than processes start
_BLOCK_BYTES = 256 * 1024  # of which two stay in the processor's cache
_OF_VALUES = (0x03, 0x05, 0x0B)  # messages: datatype, fill value, filters


@dataclass(frozen=True, slots=True)
class Copied:
    """An episode, and its group's name and address in the file that it was copied to."""

    original: ShardDescription
    group: str
    address: int


@dataclass(frozen=True, slots=True)
class _Place:
    """What a comparison needs to know: it is sent to another process."""

    path: Path
    group: str
    size: int
    mtime_ns: int
    address: int

    @classmethod
    def of(cls, copied: Copied) -> "_Place":
        shard = copied.original
        return cls(shard.path, shard.group, shard.size, shard.mtime_ns, copied.address)


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    places: tuple[_Place, ...]


def compare(path: Path, copies: Sequence[Copied]) -> list[Copied]:
    """Compare the episodes in a file with their originals.

    Parameters
    ----------
    path
        The file with the copies.
    copies
        Those to compare.

    Returns
    -------
    list
        Those that cannot be compared so, and have to be decoded.

    Raises
    ------
    ShardDamaged
        A copy differs from its original, or the original changed since it was described.
    """
    if not _are_linked(path, copies):
        return list(copies)
    workers = len(os.sched_getaffinity(0))
    rest = _not_known_as_same(path, copies, workers)
    parts = [
        _Part(path, tuple(_Place.of(each) for each in rest[i : i + _TOGETHER]))
        for i in range(0, len(rest), _TOGETHER)
    ]
    left: list[Copied] = []
    results: Iterable[Any] = map(compare_part, parts)
    if len(rest) >= _FEW:
        results = in_children("merge.comparing:compare_part", parts, workers, lambda count: None, 1)
    for i, result in enumerate(results):
        if isinstance(result, ShardWriterError):
            raise result
        left += [rest[i * _TOGETHER + number] for number in result]
    return left


def _not_known_as_same(path: Path, copies: Sequence[Copied], workers: int) -> list[Copied]:
    """Compare what compiled code can compare, which several threads do at once; return the rest."""
    parts = [copies[i : i + _TOGETHER] for i in range(0, len(copies), _TOGETHER)]
    pool = ThreadPoolExecutor(workers)
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size

        def rest(part: Sequence[Copied]) -> list[Copied]:
            return [each for each in part if not _is_known_as_same(each, fd, size)]

        try:
            return [each for part in pool.map(rest, parts) for each in part]
        finally:
            pool.shutdown(cancel_futures=True)  # after an interruption


def _is_known_as_same(copied: Copied, fd: int, size: int) -> bool:
    shard = copied.original
    if shard.address < 0:
        return False
    try:
        own = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        stat = os.fstat(own)
        if (stat.st_size, stat.st_mtime_ns) != (shard.size, shard.mtime_ns):
            return False
        original = StoredEpisode(own, shard.size, shard.address)
        return is_same(original, StoredEpisode(fd, size, copied.address))
    finally:
        os.close(own)


def _are_linked(path: Path, copies: Sequence[Copied]) -> bool:
    """Tell whether the names of the copies lead to their addresses."""
    try:
        with Structure(path, is_read_whole=False) as structure:
            place = structure.links(structure.messages(structure.root))[EPISODES.encode()]
            found = structure.links(structure.messages(place))
    except UNCERTAIN:
        return False
    if are_sound([structure]) != [True]:
        return False
    expected = {os.path.basename(each.group).encode(): each.address for each in copies}
    return found == expected


def compare_part(part: _Part) -> list[int]:
    """Compare some copies; return the numbers of those that have to be decoded."""
    originals: list[Structure] = []
    left: list[int] = []
    compared: list[int] = []
    with Structure(part.path, is_read_whole=False) as copy:
        for number, each in enumerate(part.places):
            try:
                with Structure(each.path) as original:
                    if (original.size, original.mtime_ns) != (each.size, each.mtime_ns):
                        problem = "it changed while it was copied"
                        raise ShardDamaged(each.path, "file", problem, "do it again")
                    _Comparison(part.path, each, original, copy).run()
                originals.append(original)
                compared.append(number)
            except UNCERTAIN:
                left.append(number)
    copy_is_sound, *are = are_sound([copy, *originals])
    sound = [copy_is_sound and original_is for original_is in are]
    return left + [number for number, is_sound in zip(compared, sound, strict=True) if not is_sound]


class _Comparison:
    def __init__(self, path: Path, place: _Place, original: Structure, copy: Structure) -> None:
        self._path = path
        self._place = place
        self._original = original
        self._copy = copy

    def run(self) -> None:
        place = self._place
        original = self._original.find(place.group)
        if original is None:
            raise Unfamiliar
        self._object(place.group, original, self._copy.messages(place.address))

    def _expect(self, is_same: bool, place: str, what: str) -> None:
        if not is_same:
            problem = f"expected {what} of {self._place.path}, got another"
            raise ShardDamaged(self._path, place, problem, "the originals are as before; try again")

    def _object(self, place: str, one: Messages, other: Messages) -> None:
        original, copy = self._original, self._copy
        attributes = original.attributes(one), copy.attributes(other)
        self._expect(_are_equal(*attributes), place, "the attributes")
        has_members = is_group(one)
        self._expect(has_members == is_group(other), place, "the kind of object")
        if not has_members:
            self._dataset(place, one, other)
            return
        members, copies = original.links(one), copy.links(other)
        self._expect(list(members) == list(copies), place, "the members")
        for name, address in members.items():
            below = f"{place}/{name.decode('utf-8', 'replace')}"
            self._object(below, original.messages(address), copy.messages(copies[name]))

    def _dataset(self, place: str, one: Messages, other: Messages) -> None:
        original, copy = stored_dataset(one), stored_dataset(other)
        forms = [(each.shape, each.chunk, each.filters) for each in (original, copy)]
        self._expect(forms[0] == forms[1], place, "the shape, chunks and filters")
        if any(dict(one).get(kind) != dict(other).get(kind) for kind in _OF_VALUES):
            raise Unfamiliar
        if original.chunk:
            self._chunks(place, original, copy)
        elif original.dtype is None:
            texts = (self._texts(self._original, original), self._texts(self._copy, copy))
            self._expect(texts[0] == texts[1], place, "the texts")
        elif original.nbytes:
            if original.address < 0 or copy.address < 0:
                raise Unfamiliar
            self._bytes(place, original.address, copy.address, original.nbytes)

    def _chunks(self, place: str, original: StoredDataset, copy: StoredDataset) -> None:
        if original.dtype is None:
            raise Unfamiliar
        grid = zip(original.shape, original.chunk, strict=True)
        count = math.prod(-(-length // chunk) for length, chunk in grid)
        chunks = chunks_of(self._original, original, count), chunks_of(self._copy, copy, count)
        for number, (one, other) in enumerate(zip(*chunks, strict=True)):
            where = f"{place}, chunk {number}"
            if one is None or other is None:
                self._expect(one is other, where, "the chunk")
                continue
            self._expect(one[1:] == other[1:], where, "the size")
            self._bytes(where, one[0], other[0], one[1])

    def _bytes(self, place: str, one: int, other: int, size: int) -> None:
        read, read_copy = self._original.read, self._copy.read
        for at in range(0, size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size - at)
            is_same = read(one + at, length) == read_copy(other + at, length)
            self._expect(is_same, place, "the bytes")

    @staticmethod
    def _texts(structure: Structure, dataset: StoredDataset) -> list[bytes]:
        if dataset.address < 0 and dataset.nbytes:
            raise Unfamiliar
        data = structure.read(dataset.address, dataset.nbytes) if dataset.nbytes else b""
        return [structure.text(data, place) for place in range(0, len(data), 16)]


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        _stored(value) == _stored(other[name]) for name, value in one.items()
    )


def _stored(value: Any) -> tuple[np.dtype[Any], tuple[int, ...], bytes]:
    """Return what tells a value from any other, NaN with the same bits being the same."""
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()
