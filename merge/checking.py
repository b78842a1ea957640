"""Checking one shard against what a master says of it, down to every byte if wanted.

Invariant: a problem is returned, never raised, so that one bad file does not hide another.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib

from merge.describing import MEND
from shardwriter.errors import NotPermitted, ShardWriterError, TooManyOpenFiles
from shardwriter.files.column_reader import read_rows, read_value, read_whole
from shardwriter.files.layout import SPIKES, TABLES, TIMESTEPS
from shardwriter.files.quick_description import describe_several
from shardwriter.files.shard_description import ShardDescription
from shardwriter.files.static_digest import STATIC_DIGEST, StaticObject, static_digest
from shardwriter.files.untrusted import UNREADABLE, check_column, check_filters, file_of, is_inside
from shardwriter.files.vetting import vetted

__all__ = ["Problem", "ShardCheck", "ShardJob", "check_shards", "decode"]


_READ_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be: where, what, and how to mend it."""

    where: str
    problem: str
    mend: str

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}"
        return f"{text}; {self.mend}" if self.mend else text

    @classmethod
    def of(cls, where: Path, error: BaseException, mend: str = MEND) -> "Problem":
        """Return an error at a file as a problem; some say themselves what to do."""
        says_itself = isinstance(error, (NotPermitted, TooManyOpenFiles))
        return cls(str(where), _without(str(error), str(where)), "" if says_itself else mend)


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A shard to check: its file and root, and the rows of the master's index that it serves.

    Without rows it is checked by itself.
    """

    path: Path
    root: Path
    rows: tuple[dict[str, Any], ...]
    is_deep: bool


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What came of it: problems, and the episodes, chunks and bytes that were looked at."""

    problems: tuple[Problem, ...]
    episodes: tuple[int, ...] = ()
    chunks: int = 0
    raw_bytes: int = 0


def check_shards(jobs: Sequence[ShardJob]) -> list[ShardCheck]:
    """Check some shards."""
    there = [job.path for job in jobs if os.path.isfile(job.path) and is_inside(job.path, job.root)]
    described = dict(zip(there, describe_several(there), strict=True))
    return [_checked(job, described.get(job.path)) for job in jobs]


def _checked(job: ShardJob, shards: list[ShardDescription] | ShardWriterError | None) -> ShardCheck:
    """Check a shard that is described, or could not be; None: it is not there, or not inside."""
    where = str(job.path)
    if not os.path.isfile(job.path):  # also where its name cannot be that of one
        expected = ", ".join(str(row["episode_id"]) for row in job.rows)
        mend = "put it back, run `shardwriter relink` if it was moved, or merge with "
        mend += "--forget-missing"
        return ShardCheck((Problem(where, f"missing; it holds episode {expected}", mend),))
    if shards is None:
        mend = f"move it below {job.root}, or give a --root that holds both"
        return ShardCheck((Problem(where, f"it lies outside {job.root}", mend),))
    if isinstance(shards, ShardWriterError):
        return ShardCheck((Problem.of(job.path, shards),))
    found = decode(job.path, shards) if job.is_deep else ShardCheck(())
    mismatches = tuple(Problem(where, *found) for found in _mismatches(job, shards))
    return replace(
        found,
        problems=mismatches + found.problems,
        episodes=tuple(shard.episode for shard in shards),
    )


def decode(path: Path, shards: Sequence[ShardDescription]) -> ShardCheck:
    """Decode every chunk of some episodes of a file, and compare them with their digests."""
    if not shards:
        return ShardCheck(())
    where = str(path)
    problems: list[Problem] = []
    chunks, raw = 0, 0
    try:
        with vetted(path, *(shard.group for shard in shards), whole=True) as root:
            for shard in shards:
                deep = _Deep(h5py.Group(root)[shard.group], shard)
                problems += [Problem(where, text, MEND) for text in deep.problems()]
                chunks, raw = chunks + deep.chunks, raw + deep.raw_bytes
    except (*UNREADABLE, ShardWriterError) as error:
        problems.append(Problem.of(path, error))
    return ShardCheck(tuple(problems), (), chunks, raw)


def _without(text: str, where: str) -> str:
    return text.removeprefix(f"{where}: ")


def _mismatches(job: ShardJob, shards: list[ShardDescription]) -> Iterator[tuple[str, str]]:
    """Compare a shard with the rows of the index; yield what differs, and how to mend that."""
    merge = "if it is meant to be there, run `shardwriter merge`"
    by_id = {shard.episode: shard for shard in shards}
    size = os.stat(job.path).st_size
    for row in job.rows:
        name = f"episode {row['episode_id']}"
        shard = by_id.get(row["shard_episode_id"])
        if shard is None:
            problem = f"expected episode {row['shard_episode_id']} in it, got {sorted(by_id)}"
            yield f"{name}: {problem}", "give each shard the name of the episode in it, and merge"
            continue
        if row["shard"] and row["uuid"] != shard.uuid:
            yield f"{name}: expected shard {row['uuid']}, got {shard.uuid}", merge
            continue  # another shard has other sizes
        if row["shard"] and row["size"] != size:
            yield f"{name}: expected {row['size']} bytes, got {size}", merge
        for table in TABLES:
            if row[f"rows_{table}"] != shard.rows(table):
                expected = row[f"rows_{table}"]
                problem = f"expected {expected} rows, got {shard.rows(table)}"
                yield f"{name}, {table}: {problem}", merge


def _chunks(dataset: h5py.Dataset, first: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the rows of each chunk from a number on, several read at a time, by several threads."""
    rows, length = dataset.chunks[0], len(dataset) if dataset.size else 0
    step = rows * max(1, _READ_BYTES // (math.prod(dataset.chunks) * dataset.dtype.itemsize))
    for start in range(first * rows, length, step):
        several = read_rows(dataset, start, min(length, start + step))
        for at in range(0, len(several), rows):
            yield several[at : at + rows]


def _values(node: h5py.Group | h5py.Dataset) -> "np.ndarray[Any, Any] | None":
    """Return the data of a dataset outside of the tables, None for a group."""
    if not isinstance(node, h5py.Dataset):
        return None
    check_filters(file_of(node), node.id, node.id.get_create_plist())
    if node.dtype.kind == "O":
        return np.asarray(read_value(node, "surrogateescape"), object)
    return np.asarray(read_whole(node))


class _Deep:
    """Reads every byte of an episode.

    Attributes
    ----------
    chunks, raw_bytes
        What was read so far.
    """

    def __init__(self, group: h5py.Group, shard: ShardDescription) -> None:
        self._group = group
        self._shard = shard
        self.chunks = 0
        self.raw_bytes = 0

    def problems(self) -> Iterator[str]:
        spikes = self._shard.attributes.get("total_spikes")
        if spikes is not None and int(spikes) != max(self._shard.rows(SPIKES), 0):
            yield f"{SPIKES}: expected {spikes} rows, as total_spikes says, got another number"
        for table, description in self._shard.tables.items():
            for column in description.columns:
                try:
                    yield from self._column(f"{table}/{column.name}", column.name == TIMESTEPS)
                except (*UNREADABLE, ShardWriterError) as error:
                    reason = str(error).removeprefix(f"{self._group.file.filename}: ")
                    yield f"{self._shard.group}/{table}/{column.name}: cannot be read: {reason}"
        yield from self._static()

    def _static(self) -> Iterator[str]:
        """Read all that is outside of the tables."""
        objects: list[StaticObject] = []
        for path in ("", *(node.path for node in self._shard.static)):
            try:
                found = self._group[path] if path else self._group
                objects.append((path, dict(found.attrs), _values(found)))
            except (*UNREADABLE, ShardWriterError) as error:
                reason = str(error).removeprefix(f"{self._group.file.filename}: ")
                yield f"{self._shard.group}/{path}: cannot be read: {reason}"
                return
        digest = objects[0][1].get(STATIC_DIGEST)  # shards of format 1.0 may have none
        if digest is not None and int(digest) != static_digest(objects):
            text = "its texts and static data are not those that were recorded (CRC-32 differs)"
            yield f"{self._shard.group}: {text}"

    def _column(self, name: str, is_timesteps: bool) -> Iterator[str]:
        dataset = self._group[name]
        check_column(self._shard.path, dataset.id)
        rows = dataset.chunks[0]
        first = int(dataset.attrs.get("first_row", 0)) // rows if dataset.size else 0
        digests = []
        last = None
        is_sorted = True
        for values in _chunks(dataset, first):
            octets = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            digests.append(isal_zlib.crc32(octets).to_bytes(4, "little"))
            self.chunks += 1
            self.raw_bytes += octets.nbytes
            if is_timesteps:
                is_sorted &= bool(np.all(values[1:] >= values[:-1]))
                is_sorted &= last is None or bool(values[0] >= last)
                last = values[-1]
        digest = dataset.attrs.get("crc32")
        if digest is not None and int(digest) != isal_zlib.crc32(b"".join(digests)):
            yield f"{dataset.name}: its rows are not those that were recorded (CRC-32 differs)"
        if is_timesteps and bool(dataset.attrs.get("is_sorted", False)) and not is_sorted:
            yield f"{dataset.name}: expected timesteps that do not fall, got some that do"
