"""Checking that a master's virtual datasets show what its index says, and nothing else.

A merge writes them as bytes, so these are compared first; HDF5, which takes a hundred times as
long, is asked about the episodes whose bytes are any different. Invariant: a problem is returned,
never raised, unless the file as a whole cannot be read.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h5py import h5d, h5g

from shardwriter.files.encoding import encoded, mapping
from shardwriter.files.global_heap import check_heaps
from shardwriter.files.layout import EPISODES, TIMESTEPS, episode_group
from shardwriter.files.links import DEEPEST, MOST_NODES, entries, open_child
from shardwriter.files.stored_objects import is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure, Unfamiliar, are_sound
from shardwriter.files.untrusted import opened

__all__ = ["MasterPart", "check_part"]


@dataclass(frozen=True, slots=True)
class MasterPart:
    """Some episodes of a master, to be checked: rows of its index."""

    path: Path
    rows: tuple[dict[str, Any], ...]


def check_part(part: MasterPart) -> list[str]:
    """Return what is wrong with some episodes of a master.

    Raises
    ------
    ShardDamaged
        It cannot be read.
    """
    try:
        with Structure(part.path) as structure:
            place = structure.links(structure.messages(structure.root))[EPISODES.encode()]
            groups = structure.links(structure.messages(place))
            others = [row for row in part.rows if not _is_as_written(structure, groups, row)]
        if not are_sound([structure])[0]:
            others = list(part.rows)
    except UNCERTAIN:
        others = list(part.rows)
    return _by_hdf5(part.path, others) if others else []


def _name(row: dict[str, Any]) -> bytes:
    return os.path.basename(episode_group(row["episode_id"])).encode()


# -- by bytes -----------------------------------------------------------------------------------


def _is_as_written(structure: Structure, groups: dict[bytes, int], row: dict[str, Any]) -> bool:
    """Tell whether all that an episode shows is what a merge writes for its row of the index."""
    place = b"/" + episode_group(row["shard_episode_id"]).encode()
    try:
        return _shows(structure, groups[_name(row)], encoded(row["shard"]), place, 0)
    except UNCERTAIN:
        return False


def _shows(structure: Structure, address: int, source: bytes, place: bytes, depth: int) -> bool:
    messages = structure.messages(address)
    if is_group(messages):
        if depth > DEEPEST:
            raise Unfamiliar
        return all(
            _shows(structure, member, source, place + b"/" + name, depth + 1)
            for name, member in structure.links(messages).items()
        )
    shown = structure.virtual_mapping(messages)
    if shown is not None:
        return shown[:-4] == mapping(source, place)
    is_timesteps = place.endswith(b"/" + TIMESTEPS.encode())
    return not is_timesteps or stored_dataset(messages).shape == (0,)


# -- by HDF5 ------------------------------------------------------------------------------------


def _by_hdf5(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    check_heaps(path, whole=True)
    with opened(path) as root:
        if EPISODES.encode() not in entries(path, root):
            return [f"expected a group {EPISODES}"]
        episodes = h5g.open(root, EPISODES.encode())
        names = set(entries(path, episodes, 10 * MOST_NODES))
        for row in rows:
            if _name(row) not in names:
                found.append(f"episode {row['episode_id']}: expected a group, got none")
                continue
            place = episode_group(row["shard_episode_id"])
            group = open_child(path, episodes, _name(row))
            found += _check_group(path, group, row["shard"], place, "", 0)
    return found


def _check_group(
    path: Path, group: h5g.GroupID, source: str, place: str, below: str, depth: int
) -> list[str]:
    found: list[str] = []
    for raw in entries(path, group):
        node = open_child(path, group, raw)
        name = f"{below}/{os.fsdecode(raw)}"
        if isinstance(node, h5g.GroupID):
            if depth > DEEPEST:
                return [f"{name}: expected groups at most {DEEPEST} deep"]
            found += _check_group(path, node, source, place, name, depth + 1)
            continue
        properties = node.get_create_plist()
        if properties.get_external_count():
            found.append(f"{name}: expected a virtual dataset, got external storage")
        if properties.get_layout() != h5d.VIRTUAL:
            if os.fsdecode(raw) == TIMESTEPS and node.shape != (0,):
                found.append(f"{name}: expected a virtual dataset, got a copy")
            continue
        sources = [
            (
                properties.get_virtual_filename(i).replace("%%", "%"),
                properties.get_virtual_dsetname(i).replace("%%", "%"),
            )
            for i in range(properties.get_virtual_count())
        ]
        if sources != [(source, f"/{place}{name}")]:
            found.append(f"{name}: expected {source} as its source, got {sources}")
    return found
