"""Verifying an experiment: is everything there, is it what it was, does nothing point elsewhere.

Invariant: files are opened in child processes only, so that no file can take down the process
that asks.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge.checking import Problem, ShardCheck, ShardJob
from merge.describing import in_children
from merge.master_check import MasterPart
from shardwriter.errors import (
    ExperimentNotFound,
    ShardDamaged,
    ShardWriterError,
    command,
    counted,
    episodes_text,
)
from shardwriter.files.column_reader import read_whole
from shardwriter.files.episode_index import lacking_fields
from shardwriter.files.layout import (
    INDEX,
    MASTER,
    check_experiment,
    episode_shards,
    unfinished_episodes,
)
from shardwriter.files.links import entries, open_dataset
from shardwriter.files.shard_description import check_format
from shardwriter.files.untrusted import check_own, check_tree, read_attributes_of
from shardwriter.files.vetting import vetted
from shardwriter.printable import printable_lines
from shardwriter.progress import progress_bar

__all__ = ["VerifyReport", "verify"]

_EPISODES_AT_A_TIME = 2000
_LIMIT_S = 120.0
_DEEP_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at, and the problems that were found."""

    path: Path
    episodes: int
    shards: int
    chunks: int
    raw_bytes: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Tell whether there are no problems."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        problems = [
            {"where": each.where, "problem": each.problem, "mend": each.mend}
            for each in self.problems
        ]
        return {
            "path": str(self.path),
            "is_sound": self.is_sound,
            "episodes": self.episodes,
            "shards": self.shards,
            "chunks": self.chunks,
            "raw_bytes": self.raw_bytes,
            "problems": problems,
        }

    def __str__(self) -> str:
        episodes, shards = counted(self.episodes, "episode"), counted(self.shards, "shard")
        head = f"{self.path}: {episodes} in {shards}"
        if self.chunks:
            head += f", {counted(self.chunks, 'chunk')} of {self.raw_bytes / 1e6:.1f} MB read"
        if self.is_sound:
            return f"{head}: sound"
        lines = [f"{head}: {counted(len(self.problems), 'problem')}"]
        return printable_lines([*lines, *(f"  {problem}" for problem in self.problems)])


def verify(
    path: Path,
    *,
    deep: bool = False,
    expected: Sequence[int] | None = None,
    root: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> VerifyReport:
    """Check an experiment, a master, a packed file, or a shard.

    Parameters
    ----------
    path
        The experiment's directory or the file.
    deep
        Decode every chunk, and compare it with the digests kept when it was recorded.
    expected
        Ids that have to be there.
    root
        The directory that no shard may lie outside of; by default the master's own.
    workers
        Processes at a time; by default one per core.
    progress
        Show a progress bar.

    Raises
    ------
    ExperimentNotFound
        There is nothing of that kind.
    ShardOutside
        An experiment's master is a link to a file outside.
    """
    path = Path(os.path.abspath(path))
    master = path / MASTER if path.is_dir() else path
    if path.is_dir():
        check_experiment(path)
        check_own(master, path)
    elif not path.exists():
        raise ExperimentNotFound(path, "an experiment's directory or file", "check the path")
    count = workers or len(os.sched_getaffinity(0))
    found = _Verification(master, root or master.parent, deep, count, progress)
    found.run(path)
    if expected is not None:
        found.expect(expected)
    return found.report(path)


class _Verification:
    def __init__(self, master: Path, root: Path, deep: bool, workers: int, progress: bool) -> None:
        self._master = master
        self._root = root
        self._deep = deep
        self._workers = workers
        self._progress = progress
        self._problems: list[Problem] = []
        self._ids: set[int] = set()
        self._shards = 0
        self._chunks = 0
        self._raw_bytes = 0

    def run(self, path: Path) -> None:
        index = self._index(path)
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in index:
            by_name.setdefault(row["shard"], []).append(row)
            self._ids.add(row["episode_id"])
        jobs = [
            ShardJob(
                self._master.parent / name if name else self._master,
                self._root,
                tuple(rows),
                self._deep,
            )
            for name, rows in by_name.items()
        ]
        if path.is_dir():
            jobs += self._unlisted(path, {job.path for job in jobs}, bool(index))
        elif not index and not self._problems:
            jobs = [ShardJob(self._master, self._root, (), self._deep)]
        self._check(jobs)
        self._check_master(index)

    def _index(self, path: Path) -> list[dict[str, Any]]:
        """Read the master's index in a child process."""
        if not self._master.exists():
            mend = f"run {command('merge', path)}"
            self._problems.append(Problem(str(self._master), "there is no master", mend))
            return []
        (result,) = in_children("merge.verify:read_index", [self._master], 1, _ignore)
        if isinstance(result, ShardWriterError):
            mend = "merge again, with --rebuild"
            if not path.is_dir():
                mend = f"check the path, or {mend}"
            self._problems.append(Problem.of(self._master, result, mend))
            return []
        if result is None and path.is_dir():
            mend = "merge again, with --rebuild"
            self._problems.append(Problem(str(self._master), f"it has no {INDEX}", mend))
        return list(result or ())

    def _unlisted(self, directory: Path, listed: set[Path], has_master: bool) -> list[ShardJob]:
        """Name shards that the master does not show, and episodes that have none yet."""
        others = [path for path in episode_shards(directory) if path not in listed]
        if others and has_master:
            names = ", ".join(path.name for path in others[:5]) + (", …" if len(others) > 5 else "")
            mend = f"run {command('merge', directory)}"
            text = f"{counted(len(others), 'shard')} not in it: {names}"
            self._problems.append(Problem(str(self._master), text, mend))
        unfinished = unfinished_episodes(directory)
        if unfinished:
            mend = f"wait for its end, or run {command('recover', directory)}"
            text = f"unfinished: {episodes_text(unfinished)}"
            self._problems.append(Problem(str(directory), text, mend))
        return [ShardJob(path, self._root, (), self._deep) for path in others]

    def _check(self, jobs: Sequence[ShardJob]) -> None:
        bar = progress_bar("verify", "shard", len(jobs), shown=self._progress)
        with bar:
            work = "merge.checking:check_shards*"
            batch, limit_s = (1, _DEEP_LIMIT_S) if self._deep else (64, _LIMIT_S)
            results = in_children(work, jobs, self._workers, bar.update, batch, limit_s)
            for job, result in zip(jobs, results, strict=True):
                self._shards += 1
                if isinstance(result, ShardCheck):
                    self._problems += result.problems
                    if not job.rows:
                        self._ids.update(result.episodes)
                    self._chunks += result.chunks
                    self._raw_bytes += result.raw_bytes
                else:
                    self._problems.append(Problem.of(job.path, result))

    def _check_master(self, index: Sequence[dict[str, Any]]) -> None:
        rows = [row for row in index if row["shard"]]
        parts = [
            MasterPart(self._master, tuple(rows[i : i + _EPISODES_AT_A_TIME]))
            for i in range(0, len(rows), _EPISODES_AT_A_TIME)
        ]
        work = "merge.master_check:check_part"
        for result in in_children(work, parts, self._workers, _ignore, 1):
            texts = [str(result)] if isinstance(result, ShardWriterError) else result
            mend = "do not read it by HDF5 alone; merge again, with --rebuild"
            self._problems += [Problem(str(self._master), text, mend) for text in texts]

    def expect(self, expected: Sequence[int]) -> None:
        missing = [episode for episode in expected if episode not in self._ids]
        if missing:
            mend = "run `shardwriter recover`, or record them"
            text = f"expected {episodes_text(missing)}, got none"
            self._problems.append(Problem(str(self._master), text, mend))

    def report(self, path: Path) -> VerifyReport:
        return VerifyReport(
            path,
            len(self._ids),
            self._shards,
            self._chunks,
            self._raw_bytes,
            tuple(self._problems),
        )


def _ignore(count: int) -> None:
    """Show no progress."""


def read_index(path: Path) -> list[dict[str, Any]] | None:
    """Return the rows of a master's index, None for a file without one, such as a shard.

    Raises
    ------
    FormatError, ShardDamaged
        The file is none, or cannot be read.
    """
    with vetted(path, INDEX) as root:
        check_format(path, read_attributes_of(path, root))
        names = entries(path, root)
        if INDEX.encode() not in names:
            return None
        dataset = open_dataset(path, root, INDEX)
        check_tree(path, dataset.id)
        lacking = lacking_fields(dataset.dtype)
        if lacking:
            raise ShardDamaged(path, INDEX, f"expected fields {', '.join(lacking)}")
        values = read_whole(dataset)
        texts = {name for name in values.dtype.names if values.dtype[name].kind == "S"}
        return [
            {
                name: os.fsdecode(value) if name in texts else value
                for name, value in zip(values.dtype.names, row, strict=True)
            }
            for row in values.tolist()
        ]
