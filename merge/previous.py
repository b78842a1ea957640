"""The master of an earlier merge, from which unchanged shards are known without opening them.

Invariant: whatever is wrong with it, the answer is "there is none", and the merge starts anew.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g

from merge.plan import EpisodePlan
from merge.sources import SourceFile, Sources
from shardwriter.errors import FormatError, ShardDamaged, TooLarge
from shardwriter.files.column_reader import read_value, read_whole
from shardwriter.files.episode_index import lacking_fields
from shardwriter.files.layout import EPISODES, INDEX, MERGE, episode_group
from shardwriter.files.links import entries, open_child
from shardwriter.files.shard_description import (
    ColumnDescription,
    ShardDescription,
    TableDescription,
    check_format,
)
from shardwriter.files.structure import UNCERTAIN, Structure
from shardwriter.files.untrusted import check_tree, is_inside, read_attributes_of
from shardwriter.files.vetting import Vetter

__all__ = ["Notes", "Previous", "read_previous"]

_TO_WRITE = "a master or no file, to be written"


@dataclass(frozen=True, slots=True)
class Notes:
    """What a master says of the merge that made it.

    ``sources`` are the directories relative to the master's folder, ``files`` the experiments'
    own files, ``schemas`` the different schemas of episodes and ``schema_of`` one number of a
    schema for each row of the index.
    """

    sources: tuple[str, ...]
    files: tuple[tuple[str, int, int], ...]
    is_renumbered: bool
    schemas: tuple[str, ...]
    schema_of: tuple[int, ...]

    def to_json(self) -> dict[str, str]:
        """Return the notes as texts by name."""
        return {
            "sources": json.dumps([self.sources, self.is_renumbered]),
            "files": json.dumps(self.files),
            "schemas": json.dumps(self.schemas),
        }


def schema_text(tables: Mapping[str, TableDescription]) -> str:
    """Return the schema of an episode as text, without its rows."""
    return json.dumps(
        {
            name: [[c.name, c.dtype.str, c.shape, c.is_text] for c in table.columns]
            for name, table in sorted(tables.items())
        }
    )


@lru_cache(maxsize=1024)
def schema_of(text: str) -> Mapping[str, TableDescription]:
    """Return the tables, without rows, that ``schema_text`` wrote; one object for one text."""
    return {
        name: TableDescription(
            0,
            tuple(
                ColumnDescription(str(n), np.dtype(d), tuple(map(int, s)), bool(t))
                for n, d, s, t in columns
            ),
        )
        for name, columns in dict(json.loads(text)).items()
    }


@dataclass(frozen=True, slots=True)
class Previous:
    """An earlier master: its index, its notes, and where each episode's group is in it."""

    index: np.ndarray[Any, Any]
    notes: Notes
    groups: Mapping[bytes, int]

    def known(self) -> dict[str, list[int]]:
        """Return the rows of the index by the shard's name."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.index["shard"].tolist()):
            rows.setdefault(name.decode("utf-8", "surrogateescape"), []).append(row)
        return rows

    def identity(self, row: int) -> tuple[str, int]:
        """Return the uuid of an episode's shard, and the episode's id there."""
        values = self.index[row]
        return values["uuid"].decode(), int(values["shard_episode_id"])

    def ids(self) -> dict[tuple[str, int], list[int]]:
        """Return the episodes' ids by ``identity``, which copies of a shard share."""
        found: dict[tuple[str, int], list[int]] = {}
        for row, episode in enumerate(self.index["episode_id"].tolist()):
            found.setdefault(self.identity(row), []).append(episode)
        return found

    def is_unchanged(self, file: SourceFile, rows: Sequence[int]) -> bool:
        """Tell whether a shard is, by size and time of change, the one of these rows."""
        size, mtime = self.index["size"], self.index["mtime_ns"]
        return all(size[i] == file.size and mtime[i] == file.mtime_ns for i in rows)

    def episode(self, row: int, sources: Sources) -> EpisodePlan:
        """Return what the plan needs of an episode that is taken over as it is."""
        values = self.index[row]
        name = values["shard"].decode("utf-8", "surrogateescape")
        shard = ShardDescription(
            sources.target.parent / name,
            "",
            int(values["shard_episode_id"]),
            values["uuid"].decode(),
            int(values["size"]),
            int(values["mtime_ns"]),
            {},
            schema_of(self.notes.schemas[self.notes.schema_of[row]]),
            (),
        )
        return EpisodePlan(int(values["episode_id"]), shard, name)


def read_previous(path: Path, *, is_own: bool) -> Previous | None:
    """Read an earlier master, None where there is none that can be gone on from.

    Parameters
    ----------
    path
        Its path.
    is_own
        It is where an experiment's master has to be: a damaged file there can only be that.

    Raises
    ------
    FormatError
        There is another file of that name, which is not to be overwritten.
    """
    if not path.exists() or not is_inside(path, path.parent):
        return None
    try:
        vetter = Vetter(path, whole=True)
        with vetter.opened() as root:
            check_format(path, read_attributes_of(path, root))
            names = entries(path, root)
            if INDEX.encode() not in names:
                raise FormatError(path, _TO_WRITE, "a shard; give another path")
            if MERGE.encode() not in names and not is_own:
                raise FormatError(path, _TO_WRITE, "a packed file; give another path")
            if not all(name.encode() in names for name in (EPISODES, MERGE)):
                return None
            vetter.check(INDEX)
            vetter.check(MERGE)
            return _previous(path, root)
    except (ShardDamaged, TooLarge) as error:
        if is_own and h5py.is_hdf5(path):
            return None
        problem = str(error).removeprefix(f"{path}: ")
        got = f"what cannot be read ({problem}); move it away, or give another path"
        raise FormatError(path, _TO_WRITE, got) from error


def _previous(path: Path, root: h5g.GroupID) -> Previous | None:
    index, merge = (open_child(path, root, name.encode()) for name in (INDEX, MERGE))
    for node in (index, merge):  # they are written to, so no other file may be behind them
        check_tree(path, node)
    notes = read_attributes_of(path, merge)
    numbers = h5d.open(merge, b"schema_of")
    sources, is_renumbered = json.loads(notes["sources"])
    rows = read_whole(h5py.Dataset(index))
    texts = read_value(h5py.Dataset(h5d.open(merge, b"schemas")))
    schemas = tuple(json.loads(texts))
    if rows.ndim != 1 or lacking_fields(rows.dtype):
        return None
    for text in schemas:
        schema_of(text)
    for uuid in rows["uuid"].tolist():
        uuid.decode()
    of = tuple(map(int, read_whole(h5py.Dataset(numbers)).tolist()))
    ids = rows["episode_id"].tolist()
    if (
        len(of) != len(rows)
        or any(not 0 <= number < len(schemas) for number in of)
        or ids != sorted(set(ids))
    ):
        return None
    files = tuple((str(a), int(b), int(c)) for a, b, c in json.loads(notes["files"]))
    groups = _groups(path)
    if groups.keys() != {os.path.basename(episode_group(i)).encode() for i in ids}:
        return None
    noted = Notes(tuple(sources), files, bool(is_renumbered), schemas, of)
    return Previous(rows, noted, groups)


def _groups(path: Path) -> Mapping[bytes, int]:
    """Return the addresses of the episodes' groups, none where they are not as we write them."""
    try:
        with Structure(path) as structure:
            return structure.links(structure.find(EPISODES) or [])
    except UNCERTAIN:
        return {}
