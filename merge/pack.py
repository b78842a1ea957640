"""Packing: many shards into one self-contained file, or into few shards, and back.

Compressed chunks are copied as they are. Invariant: the originals are only read; what is made
has a hidden name until it is complete, and was compared with them.
"""

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py

from merge.checking import decode
from merge.comparing import Copied, compare
from merge.copying import Copying, copied_in_child
from merge.describing import MEND, describe_all
from merge.episode_copy import copy_episodes
from merge.master import merge_experiment
from merge.master_file import MasterWriter, open_master
from merge.output import hidden, new_output
from merge.own_files import config_text, copy_into_group, copy_own_files, unpack_own_files
from merge.plan import EpisodePlan, MasterPlan, index_of, plan
from merge.sources import Sources, check_name
from merge.verify import read_index
from shardwriter.errors import (
    ConfigError,
    EpisodesGone,
    ExperimentNotFound,
    FormatError,
    ShardDamaged,
    command,
)
from shardwriter.files.journal import sync_directory, sync_file
from shardwriter.files.layout import (
    ATTRIBUTES,
    CONFIG_JSON,
    EPISODES,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    MASTER,
    SHARDS,
    EpisodePaths,
    check_experiment,
    episode_shards,
    pack_name,
)
from shardwriter.files.publication import publish
from shardwriter.files.refusal import completed, named_refusals
from shardwriter.files.shard import create
from shardwriter.files.shard_description import ShardDescription
from shardwriter.progress import Bar, progress_bar
from shardwriter.system.locks import locked

__all__ = ["pack", "pack_shards", "unpack"]

_UUID = re.compile("[0-9a-f]{32}")


def pack(directory: Path, output: Path, *, deep: bool = False, progress: bool = False) -> Path:
    """Write an experiment into one file of the master's layout that needs no other.

    Parameters
    ----------
    directory
        The experiment's directory.
    output
        The file; it must not exist.
    deep
        Decode every chunk as well, and compare it with the digests kept when it was recorded.
    progress
        Show a progress bar.

    Raises
    ------
    ExperimentNotFound, ShardDamaged, FormatError
        The experiment is none, or a shard or its master cannot be read.
    EpisodesGone
        Shards that its master shows are not there, or are another experiment's.
    ConfigError
        `output` exists.
    """
    target = new_output(output)
    sources = Sources.of([directory], target)
    planned = _planned(sources, progress)
    with hidden(target) as temporary:
        copies = _write_pack(temporary, planned.episodes, sources, progress)
        _check(temporary, copies, deep)
        new_output(target)  # nobody else made it meanwhile
        publish(temporary, target)
    return target


def pack_shards(
    directory: Path, output: Path, shards: int, *, deep: bool = False, progress: bool = False
) -> Path:
    """Write an experiment anew with fewer shards, each of many episodes, and merge it.

    Parameters
    ----------
    directory
        The experiment's directory.
    output
        The new experiment's directory; it must not exist.
    shards
        The number of shards.
    deep
        Decode every chunk as well, and compare it with the digests kept when it was recorded.
    progress
        Show a progress bar.

    Raises
    ------
    ExperimentNotFound, ShardDamaged, FormatError
        The experiment is none, or a shard or its master cannot be read.
    EpisodesGone
        Shards that its master shows are not there, or are another experiment's.
    ConfigError
        `output` exists, or `shards` is not above 0.
    """
    if shards < 1:
        raise ConfigError("shards", "a number above 0", shards)
    target = new_output(output)
    sources = Sources.of([directory], target / INDEX)
    episodes = _planned(sources, progress).episodes
    with hidden(target) as temporary:
        (temporary / SHARDS).mkdir(parents=True)
        copy_own_files(sources.directories[0], temporary)
        size = max(1, -(-len(episodes) // shards))
        for number, first in enumerate(range(0, len(episodes), size)):
            part = episodes[first : first + size]
            path = temporary / SHARDS / pack_name(number)
            _check(path, _write_pack(path, part, None, progress), deep)
        _publish_directory(temporary, target)
    merge_experiment(target)
    return target


def unpack(source: Path, output: Path, *, deep: bool = False, progress: bool = False) -> Path:
    """Write a packed file, or an experiment of packed shards, as one of a shard per episode.

    Parameters
    ----------
    source
        A file from ``pack``, or a directory from ``pack_shards``.
    output
        The new experiment's directory; it must not exist.
    deep
        Decode every chunk as well, and compare it with the digests kept when it was recorded.
    progress
        Show a progress bar.

    Raises
    ------
    ExperimentNotFound, ShardDamaged, FormatError
        The source is none, or cannot be read.
    EpisodesGone
        Shards that its master shows are not there, or are another experiment's.
    ConfigError
        `output` exists.
    """
    target = new_output(output)
    source = Path(os.path.abspath(source))
    if source.is_dir():
        check_experiment(source)
        _check_gone(source)
    elif not source.exists():
        raise ExperimentNotFound(source, "a packed file or experiment", "check the path")
    packs = episode_shards(source) if source.is_dir() else [source]
    with hidden(target) as temporary:
        (temporary / SHARDS).mkdir(parents=True)
        indexes = {path: _own_index(path) for path in packs}
        total = sum(len(index) or 1 for index in indexes.values())
        with progress_bar("unpack", "episode", total, shown=progress) as bar:
            for path, index in indexes.items():
                _unpack_episodes(path, index, temporary, deep, bar)
        if source.is_dir():
            copy_own_files(source, temporary)
        else:
            unpack_own_files(source, temporary)
        _publish_directory(temporary, target)
    merge_experiment(target)
    return target


def _publish_directory(temporary: Path, target: Path) -> None:
    """Write a whole directory to stable storage, and give it its name."""
    for path in (*temporary.rglob("*"), temporary):
        sync_file(path)
    new_output(target)  # nobody else made it meanwhile
    temporary.rename(target)
    sync_directory(target.parent)


def _planned(sources: Sources, progress: bool) -> MasterPlan:
    directory = sources.directories[0]
    _check_gone(directory)
    with locked(sources.lock(), is_for_reading=True):
        paths = [file.path for file in sources.shards()]
        bar = progress_bar("read", "shard", len(paths), shown=progress)
        with bar:
            workers = len(os.sched_getaffinity(0))
            shards = describe_all(paths, workers, bar.update)
        for shard in shards:
            check_name(shard)
        return plan(shards, [""] * len(shards))


def _check_gone(directory: Path) -> None:
    """Refuse to write fewer episodes than the experiment's master shows."""
    master = directory / MASTER
    rows = (read_index(master) if master.exists() else None) or ()
    own = set(episode_shards(directory))
    shards = {row["episode_id"]: _normal(directory / row["shard"]) for row in rows if row["shard"]}
    gone = {episode: path for episode, path in shards.items() if path not in own}
    if any(os.path.exists(path) for path in gone.values()):
        merge = command("merge", directory, "--forget-missing")
        mend = f"run {merge}, and take each by itself"
        advice = f"they are another experiment's: {mend}"
        raise EpisodesGone(gone, master, advice)
    if gone:
        raise EpisodesGone(gone, master)


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _write_pack(
    path: Path, episodes: Sequence[EpisodePlan], sources: Sources | None, progress: bool
) -> list[Copied]:
    """Write episodes with all their data, and the experiment's own files where given."""
    left_over: list[Copying] = []
    with open_master(path, "w") as file:
        writer = MasterWriter(file)
        writer.group(file.id, EPISODES)
        if sources is not None:
            for place_name, own in sources.own_files(sources.directories[0]):
                group = "" if place_name == ATTRIBUTES else place_name
                left_over += copy_into_group(own, writer, path, group)
            config = config_text(sources.directories[0])
            if config is not None:
                file.create_dataset(CONFIG_JSON, data=config)
        for key, value in (
            ("format", FORMAT),
            ("format_version", FORMAT_VERSION),
            ("episode_count", len(episodes)),
            ("end_time", datetime.now(UTC).isoformat()),
            ("uuid", uuid.uuid4().hex),
        ):
            file.attrs[key] = value
        own_ids = [_packed(each) for each in episodes]
        file.create_dataset(INDEX, data=index_of(own_ids), maxshape=(None,), chunks=(1024,))
    bar = progress_bar("pack", "episode", len(episodes), shown=progress)
    with bar:
        copies, left = copy_episodes(path, episodes, bar.update)
        items = [Copying(e.shard.path, e.shard.group, path, e.group) for e in left]
        for each, address in zip(left, copied_in_child(items), strict=True):
            copies.append(Copied(each.shard, each.group, address))
            bar.update()
        list(copied_in_child(left_over))
    return copies


def _packed(each: EpisodePlan) -> EpisodePlan:
    """Return what the index says of an episode that lies in the index's own file."""
    return EpisodePlan(each.episode, replace(each.shard, episode=each.episode), "")


def _check(path: Path, copies: Sequence[Copied], deep: bool) -> None:
    """Compare a new file with what it was made of, by what is stored in both."""
    left = compare(path, copies)
    again = copies if deep else left
    problems = decode(path, [_in_copy(each) for each in again]).problems
    if not problems:
        return
    for shard in (each.original for each in again):
        own = decode(shard.path, [shard]).problems
        if own:
            raise ShardDamaged(shard.path, "decoded", own[0].problem, MEND)
    raise ShardDamaged(path, "after copying", problems[0].problem, "try again")


def _in_copy(copied: Copied) -> ShardDescription:
    return replace(copied.original, group=copied.group)


def _own_index(path: Path) -> dict[int, dict[str, Any]]:
    """Return what a packed file says of its episodes, by id; a shard says nothing.

    Raises
    ------
    FormatError
        It is a master, or no HDF5 file.
    ShardDamaged
        It cannot be read.
    """
    if not h5py.is_hdf5(path):
        raise FormatError(path, "a packed file", "no HDF5 file; check the path")
    try:
        rows = read_index(path) or []
    except ShardDamaged as damage:
        raise damage.with_advice(MEND) from damage
    if any(row["shard"] for row in rows):
        raise FormatError(path, "a packed file", "a master, whose shards are files already")
    return {row["episode_id"]: row for row in rows}


def _unpack_episodes(
    path: Path, index: Mapping[int, Mapping[str, Any]], target: Path, deep: bool, bar: Bar
) -> None:
    seen: set[str] = set()
    shards = describe_all([path], 1)
    items = []
    for shard in shards:
        paths = EpisodePaths(target, shard.episode)
        paths.make_folder()
        with (
            named_refusals(paths.shard),
            completed(create(paths.temporary, shard.episode)) as file,
        ):
            given = index[shard.episode]["uuid"] if shard.episode in index else shard.uuid
            if _UUID.fullmatch(given) is None:
                problem = f"expected a uuid of 32 hexadecimal digits, got {given!r}"
                raise ShardDamaged(path, shard.group, problem, MEND)
            if given not in seen:
                file.attrs["uuid"] = given
            seen.add(given)
            del file[shard.group]
        items.append(Copying(path, shard.group, paths.temporary, shard.group))
    for shard, item, address in zip(shards, items, copied_in_child(items), strict=True):
        _check(item.target, [Copied(shard, shard.group, address)], deep)
        publish(item.target, EpisodePaths(target, shard.episode).shard)
        bar.update()
