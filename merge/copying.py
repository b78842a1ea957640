"""Copying by HDF5, in a process that can be lost.

HDF5 trusts more of an object that it copies than of one that it reads. Invariant: an object that
crashes it, hangs it or takes too much memory is an error that names its file.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from h5py import h5o

from merge.describing import MEND, in_children
from merge.master_file import open_master
from shardwriter.errors import ShardDamaged, ShardWriterError
from shardwriter.files.refusal import named_refusals
from shardwriter.files.trial import limited, time_limit_s
from shardwriter.files.untrusted import UNREADABLE, opened

__all__ = ["Copying", "copied_in_child"]


@dataclass(frozen=True, slots=True)
class Copying:
    """An object to copy: its file, its place in that, the file that it goes to, and its place."""

    path: Path
    place: str
    target: Path
    target_place: str


def copied_in_child(items: Sequence[Copying]) -> Iterator[int]:
    """Copy objects, one after the other; yield the address of each copy once it is there.

    Parameters
    ----------
    items
        What to copy; the files that it goes to are closed, and belong to nobody else.

    Raises
    ------
    ShardDamaged
        An object cannot be copied; what its file was to be copied to is of no use.
    """
    limit_s = max(map(time_limit_s, {each.path for each in items}), default=0.0)
    for result in in_children("merge.copying:copy", items, 1, lambda _: None, 1, limit_s):
        if isinstance(result, ShardDamaged):
            raise result.with_advice(MEND)
        if isinstance(result, ShardWriterError):
            raise result
        yield cast(int, result)


def copy(item: Copying) -> int:
    """Copy an object; return the copy's address. Only for a process that can be lost."""
    try:
        with (
            limited(item.path),
            opened(item.path) as source,
            named_refusals(item.target),
            open_master(item.target, "r+") as file,
        ):
            h5o.copy(source, os.fsencode(item.place), file.id, os.fsencode(item.target_place))
            return int(h5o.get_info(file.id, os.fsencode(item.target_place)).addr)
    except UNREADABLE as error:
        raise ShardDamaged(item.path, item.place, f"cannot be copied: {error}") from error
