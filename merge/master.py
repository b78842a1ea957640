"""Merging experiments: from their shards to one master file.

Invariant: a visible master is complete; it is written under a hidden name and then renamed.
Shards are only read.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from merge.concatenated import check_descriptors
from merge.describing import describe_all
from merge.differences import SchemaDifference, differences
from merge.front import Amendment, Front, amended
from merge.master_file import link_episodes
from merge.options import MergeOptions, MergeReport
from merge.output import hidden
from merge.plan import (
    EpisodePlan,
    MasterPlan,
    check_expected,
    index_of,
    plan,
    renumbered,
)
from merge.previous import Notes, Previous, read_previous, schema_text
from merge.sources import SourceFile, Sources, check_name
from shardwriter.errors import ConfigError, EpisodesGone, IdsCollide
from shardwriter.files.episode_index import index_dtype
from shardwriter.files.layout import MASTER
from shardwriter.files.publication import publish, remove
from shardwriter.progress import progress_bar
from shardwriter.system.locks import locked

__all__ = ["merge_experiment", "merge_experiments"]

_MOST_REPLACED = 0.1  # a master of which more has changed is written anew


def merge_experiment(
    directory: Path, output: Path | None = None, *, progress: bool = False
) -> Path:
    """Build, or bring up to date, the master over all finished shards of an experiment.

    Parameters
    ----------
    directory
        The experiment's directory.
    output
        Where the master goes; by default ``experiment_data.h5`` in the directory. It names its
        shards relative to its own folder.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The master.

    Raises
    ------
    ExperimentNotFound
        The directory is not an experiment's.
    ShardDamaged, FormatError
        A shard cannot be read; the master is as before.
    EpisodesGone
        Shards that the last master shows are not among those of the directory; it is as before.
    """
    return merge_experiments([directory], output, MergeOptions(progress=progress)).path


def merge_experiments(
    directories: Sequence[Path], output: Path | None = None, options: MergeOptions | None = None
) -> MergeReport:
    """Build, or bring up to date, one master over the shards of one or more experiments.

    Parameters
    ----------
    directories
        The experiments' directories; the first one's configuration and metadata come to the
        master's root, those of the others below ``sources/``.
    output
        The master; needed where there are several directories.
    options
        How to merge.

    Raises
    ------
    ExperimentNotFound
        A directory is not an experiment's.
    ConfigError
        One is given twice, or `output` is needed, or is nowhere that a file can be.
    IdsCollide, EpisodesMissing, EpisodesGone
        Episodes are not those that they should be; the master is as before.
    ShardDamaged, FormatError
        A shard cannot be read; the master is as before.
    """
    sources = Sources.of(directories, output)
    if not sources.target.parent.is_dir():
        raise ConfigError("output", "a path in an existing directory", str(sources.target))
    chosen = options or MergeOptions()
    with locked(sources.lock(), is_for_reading=True):
        return _Merge(sources, chosen).run()


class _Merge:
    def __init__(self, sources: Sources, options: MergeOptions) -> None:
        self._sources = sources
        self._options = options
        self._files = sources.shards()
        own = sources.experiment_files()
        self._own = tuple((file.name, file.size, file.mtime_ns) for file in own)
        folder = sources.target.parent
        self._names = tuple(os.path.relpath(path, folder) for path in sources.directories)
        is_own = sources.target in (directory / MASTER for directory in sources.directories)
        last = self._before = read_previous(sources.target, is_own=is_own)
        self._last = last if last and last.notes.sources == self._names else None
        self._known = last.known() if last else {}

    def run(self) -> MergeReport:
        options = self._options
        kept, new = self._split()
        planned = self._planned(new)
        self._check_gone(planned.episodes)
        self._check_collisions(kept, planned.episodes)
        schemas = {each.episode: each.shard.tables for each in (*kept, *planned.episodes)}
        if options.expected is not None:
            check_expected(list(schemas), options.expected)
        if options.concat:
            check_descriptors(planned.episodes)
        report = self._report(planned.episodes, kept, differences(schemas))
        if not options.dry_run and not self._is_current(report):
            self._write(kept, planned.episodes, report)
        return report

    def _planned(self, files: Sequence[SourceFile]) -> MasterPlan:
        """Read shards, and plan their episodes."""
        options = self._options
        workers = options.workers or len(os.sched_getaffinity(0))
        with progress_bar("read", "shard", len(files), shown=options.progress) as bar:
            shards = describe_all([file.path for file in files], workers, bar.update)
        names = {file.path: file.name for file in files}
        for shard in shards:
            check_name(shard)
        ids = [shard.episode for shard in shards]
        if options.renumber:
            ids = renumbered(shards, self._before.ids() if self._before else {})
        return plan(shards, [names[shard.path] for shard in shards], ids)

    def _split(self) -> tuple[list[EpisodePlan], list[SourceFile]]:
        """Divide the shards into episodes of the last master and files to be read."""
        last = self._last
        if last is None or self._reads_all():
            if last and self._is_same(last):
                every = range(len(last.index))
                return [last.episode(row, self._sources) for row in every], []
            return [], self._files
        kept, new = [], []
        for file in self._files:
            rows = self._known.get(file.name, [])
            if rows and last.is_unchanged(file, rows):
                kept += [last.episode(row, self._sources) for row in rows]
            else:
                new.append(file)
        return kept, new

    def _reads_all(self) -> bool:
        return self._options.rebuild or self._options.renumber or self._options.concat

    def _is_same(self, last: Previous) -> bool:
        """Tell whether the last merge, renumbered too, had these very files."""
        if not last.notes.is_renumbered or self._options.rebuild or self._options.concat:
            return False
        known = self._known
        return set(known) == {file.name for file in self._files} and all(
            last.is_unchanged(file, known[file.name]) for file in self._files
        )

    def _check_gone(self, new: Sequence[EpisodePlan]) -> None:
        """Refuse to lose an episode of the last master whose shard is not among those given."""
        last = self._before
        if last is None or self._options.forget_missing:
            return
        there = {file.name for file in self._files}
        folder = self._sources.target.parent
        ids = last.index["episode_id"]
        gone = {
            int(ids[row]): (Path(os.path.normpath(folder / name)), last.identity(row))
            for name, rows in self._known.items()
            if name not in there
            for row in rows
        }
        moved = {(each.shard.uuid, each.shard.episode) for each in new} if gone else set()
        lost = {episode: path for episode, (path, shard) in gone.items() if shard not in moved}
        if any(os.path.exists(path) for path in lost.values()):
            advice = "name every directory that has some, or merge with --forget-missing"
            raise EpisodesGone(lost, self._sources.target, advice)
        if lost:
            raise EpisodesGone(lost, self._sources.target)

    @staticmethod
    def _check_collisions(kept: Sequence[EpisodePlan], new: Sequence[EpisodePlan]) -> None:
        places = {each.episode: each.source for each in kept}
        twice = {
            each.episode: [places[each.episode], each.source]
            for each in new
            if each.episode in places
        }
        if twice:
            raise IdsCollide(twice)

    def _report(
        self,
        new: Sequence[EpisodePlan],
        kept: Sequence[EpisodePlan],
        found: tuple[SchemaDifference, ...],
    ) -> MergeReport:
        last = self._before
        before = set() if last is None else set(last.index["episode_id"].tolist())
        ids = [each.episode for each in new]
        now = {*ids, *(each.episode for each in kept)}
        return MergeReport(
            self._sources.target,
            len(now),
            tuple(i for i in ids if i not in before),
            tuple(i for i in ids if i in before),
            tuple(sorted(before - now)),
            {
                e.episode: (e.shard.path, e.shard.episode)
                for e in new
                if e.episode != e.shard.episode
            },
            found,
            Path(os.path.commonpath([self._sources.target.parent, *self._sources.directories])),
        )

    def _is_current(self, report: MergeReport) -> bool:
        last = self._last
        if last is None or self._options.rebuild or self._options.concat:
            return False
        if last.notes.files != self._own:
            return False
        return report.is_unchanged and last.notes.is_renumbered == self._options.renumber

    # -- writing --------------------------------------------------------------------------

    def _write(
        self, kept: Sequence[EpisodePlan], new: Sequence[EpisodePlan], report: MergeReport
    ) -> None:
        target = self._sources.target
        replaced = len(report.changed) + len(report.removed)
        with hidden(target) as temporary:
            groups: dict[bytes, int] = {}
            if kept and replaced <= _MOST_REPLACED * len(kept):
                groups = self._amended(temporary, kept, new)
            if not groups:
                remove(temporary)
                every = self._planned(self._files).episodes if kept else new
                self._front(temporary, [], every).write(every if self._options.concat else ())
                new = every
            shown = self._options.progress
            with progress_bar("merge", "episode", len(new), shown=shown) as bar:
                link_episodes(temporary, new, groups, bar.update)
            publish(temporary, target, replace=True)

    def _amended(
        self, temporary: Path, kept: Sequence[EpisodePlan], new: Sequence[EpisodePlan]
    ) -> dict[bytes, int]:
        """Amend a copy of the last master; return the groups of the episodes that stay in it.

        None stay where the copy cannot be amended.
        """
        last = self._last
        if last is None:
            return {}
        front = self._front(temporary, kept, new)
        if not amended(Amendment(front, self._sources.target, last.notes.files == self._own)):
            return {}
        return {each.name: last.groups[each.name] for each in kept}

    def _front(self, path: Path, kept: Sequence[EpisodePlan], new: Sequence[EpisodePlan]) -> Front:
        """Return what a file holds besides these episodes; the index is in order of id."""
        every = sorted([*kept, *new], key=lambda each: each.episode)
        index = np.zeros(len(every), index_dtype([each.source for each in every]))
        ids = np.array([each.episode for each in every], np.int64)
        last = self._last
        if kept and last is not None:
            rows = np.searchsorted(last.index["episode_id"], [each.episode for each in kept])
            index[np.searchsorted(ids, [each.episode for each in kept])] = last.index[rows]
        if new:
            index[np.searchsorted(ids, [each.episode for each in new])] = index_of(new)
        texts: dict[int, str] = {}
        for each in every:  # most episodes share one schema
            texts.setdefault(id(each.shard.tables), schema_text(each.shard.tables))
        numbers: dict[str, int] = {}
        of = [numbers.setdefault(texts[id(e.shard.tables)], len(numbers)) for e in every]
        is_renumbered = self._options.renumber
        notes = Notes(self._names, self._own, is_renumbered, tuple(numbers), tuple(of))
        return Front(path, self._sources, index, notes)
