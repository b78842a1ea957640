"""Giving a master that was moved alone its shards back.

Invariant: a master is relinked only to the very shards that it was built from.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from merge.describing import describe_all
from merge.master import merge_experiments
from merge.options import MergeOptions, MergeReport
from merge.sources import Sources
from merge.verify import read_index
from shardwriter.errors import ExperimentNotFound, ShardsNotFound
from shardwriter.files.layout import SHARDS

__all__ = ["relink"]


def relink(master: Path, directories: Sequence[Path], *, progress: bool = False) -> MergeReport:
    """Make a master name its shards where they are now.

    Parameters
    ----------
    master
        The master.
    directories
        The experiments that it shows, or their folders of shards; every episode keeps its id.
    progress
        Show a progress bar.

    Raises
    ------
    ExperimentNotFound
        The master or a directory is not there.
    ShardsNotFound
        Not every shard of the master is in the directories; it is as before.
    """
    master = Path(os.path.abspath(master))
    if not master.is_file():
        raise ExperimentNotFound(master, "a master", "check the path")
    experiments = [_experiment(Path(os.path.abspath(each))) for each in directories]
    sources = Sources.of(experiments, master)
    paths = [file.path for file in sources.shards()]
    found = describe_all(paths, len(os.sched_getaffinity(0)))
    there = {(shard.uuid, shard.episode) for shard in found}
    rows = read_index(master) or []
    lost = {
        row["episode_id"]: row["uuid"]
        for row in rows
        if (row["uuid"], row["shard_episode_id"]) not in there
    }
    if lost:
        raise ShardsNotFound(lost, experiments)
    renumber = any(row["episode_id"] != row["shard_episode_id"] for row in rows)
    options = MergeOptions(rebuild=True, renumber=renumber, forget_missing=True, progress=progress)
    report = merge_experiments(experiments, master, options)
    return _against(report, _identities(rows), _identities(read_index(master) or []))


def _identities(rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[str, int]]:
    return {row["episode_id"]: (row["uuid"], row["shard_episode_id"]) for row in rows}


def _against(
    report: MergeReport, before: Mapping[int, object], now: Mapping[int, object]
) -> MergeReport:
    """Return a report that compares episodes, wherever their shards were before."""
    changed = [i for i in now if i in before and now[i] != before[i]]
    added, removed = ([i for i in a if i not in b] for a, b in ((now, before), (before, now)))
    return replace(report, added=tuple(added), changed=tuple(changed), removed=tuple(removed))


def _experiment(directory: Path) -> Path:
    """Return the experiment that a directory is, or whose shards it holds."""
    if (directory / SHARDS).is_dir() or directory.name != SHARDS:
        return directory
    return directory.parent
