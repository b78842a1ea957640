"""What a master holds besides its episodes: attributes, own groups of experiments, index, notes.

Invariant: HDF5 changes a copy of an earlier master only in a process that can be lost, since what
it trusts there is more than what can be looked at before.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
from h5py import h5g

from merge.concatenated import write_concatenated
from merge.describing import in_children
from merge.master_file import (
    Array,
    MasterWriter,
    has_episodes,
    open_master,
    replace_rows,
    stored_size,
)
from merge.plan import EpisodePlan
from merge.previous import Notes
from merge.sources import Sources
from shardwriter.errors import ShardDamaged, ShardWriterError
from shardwriter.files.layout import (
    ATTRIBUTES,
    CONCATENATED,
    EPISODES,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    MERGE,
    SOURCES,
)
from shardwriter.files.links import entries
from shardwriter.files.publication import remove
from shardwriter.files.refusal import named_refusals
from shardwriter.files.shard_description import describe_tree
from shardwriter.files.trial import limited, time_limit_s
from shardwriter.files.untrusted import UNREADABLE, read_attributes_of
from shardwriter.files.vetting import vetted

__all__ = ["Amendment", "Front", "amended"]


@dataclass(frozen=True, slots=True)
class Front:
    """What a file at `path` is to hold as a master of `sources`, but for the episodes."""

    path: Path
    sources: Sources
    index: Array
    notes: Notes

    def write(self, concatenated: Sequence[EpisodePlan]) -> None:
        """Write it into a new file, with datasets over all of some episodes."""
        with open_master(self.path, "w") as file:
            self.write_into(file)
            if concatenated:
                write_concatenated(file, concatenated)

    def write_into(self, file: h5py.File, *, has_own: bool = False) -> None:
        """Write it into an open file, which may have the groups of own files already."""
        writer = MasterWriter(file)
        writer.group(file.id, EPISODES)
        if not has_own:
            for i, directory in enumerate(self.sources.directories):
                place = f"{SOURCES}/{directory.name}" if i else ""
                self._write_own_files(writer, directory, writer.group(file.id, place))
        for name, value in (
            ("format", FORMAT),
            ("format_version", FORMAT_VERSION),
            ("episode_count", len(self.index)),
            ("end_time", datetime.now(UTC).isoformat()),
        ):
            file.attrs[name] = value
        self._write_index(file)

    def _write_own_files(self, writer: MasterWriter, directory: Path, root: h5g.GroupID) -> None:
        for name, path in self.sources.own_files(directory):
            relative = os.path.relpath(path, self.sources.target.parent)
            target = root if name == ATTRIBUTES else writer.group(root, name)
            with vetted(path, "") as source:
                writer.attributes(target, read_attributes_of(path, source))
                for key in entries(path, source):
                    nodes = describe_tree(path, source, key.decode())
                    writer.static(target, nodes, relative, "")

    def _write_index(self, file: h5py.File) -> None:
        """Write the index, and the notes for the next merge."""
        notes = self.notes.to_json()
        group = file.require_group(MERGE)
        replace_rows(file, INDEX, self.index)
        replace_rows(group, "schema_of", np.array(self.notes.schema_of, np.uint32))
        if "schemas" in group:
            del group["schemas"]
        group["schemas"] = notes.pop("schemas")
        for name, text in notes.items():
            group.attrs[name] = text


@dataclass(frozen=True, slots=True)
class Amendment:
    """A new front for a copy of an earlier master, whose episodes stay as they are.

    ``has_own``: it has the groups of the experiments' own files already, as they are.
    """

    front: Front
    last: Path
    has_own: bool

    @property
    def path(self) -> Path:
        """Where the copy goes."""
        return self.front.path

    def carry_out(self) -> None:
        """Make the copy, and write the front into it."""
        if self.last.stat().st_size > stored_size(self.last):
            raise ShardDamaged(self.last, "size", "expected no more bytes than HDF5 gave it")
        remove(self.path)  # what an attempt that failed left
        shutil.copyfile(self.last, self.path)
        with open_master(self.path, "r+") as file:
            if not self.has_own:
                for name in [*file.attrs]:
                    del file.attrs[name]
                for name in set(file) - {EPISODES, INDEX, MERGE}:
                    del file[name]
            elif CONCATENATED in file:
                del file[CONCATENATED]  # it lacks what is new
            self.front.write_into(file, has_own=self.has_own)


def amended(amendment: Amendment) -> bool:
    """Have an amendment carried out by another process; tell whether that could be done.

    Raises
    ------
    ShardWriterError
        It could not, for another reason than what is in the earlier master.
    """
    limit_s = time_limit_s(amendment.last)
    (result,) = in_children("merge.front:amend", [amendment], 1, lambda _: None, 1, limit_s)
    if isinstance(result, ShardWriterError) and not isinstance(result, ShardDamaged):
        raise result
    return result is None and has_episodes(amendment.path)


def amend(amendment: Amendment) -> None:
    """Carry an amendment out. Only for a process that can be lost."""
    try:
        with limited(amendment.last), named_refusals(amendment.path):
            amendment.carry_out()
    except UNREADABLE as error:
        raise ShardDamaged(amendment.path, "structure", f"cannot be changed: {error}") from error
