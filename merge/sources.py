"""What a merge reads: the experiments' directories, their shards, their own small files.

Invariant: finding sources opens no file.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK

from shardwriter.errors import ConfigError, ShardDamaged
from shardwriter.files.experiment_file import lock_file
from shardwriter.files.layout import (
    CONCATENATED,
    EPISODES,
    EXPERIMENT,
    INDEX,
    MASTER,
    MERGE,
    MERGE_LOCK,
    SHARDS,
    SOURCES,
    check_experiment,
    episode_shards,
    is_pack_name,
    shard_id,
)
from shardwriter.files.shard_description import ShardDescription
from shardwriter.files.untrusted import check_own

__all__ = ["SourceFile", "Sources", "check_name", "is_own_name"]

_OF_MASTERS = {CONCATENATED, EPISODES, INDEX, MERGE, SOURCES}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file with its size and time of change; ``name`` is relative to the master's folder."""

    path: Path
    name: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, folder: Path) -> "SourceFile":
        """Return the file as it is now, for a master in `folder`.

        Raises
        ------
        ShardOutside, ShardDamaged
            It is a link to a file in another folder, or to nowhere.
        """
        try:
            stat = path.lstat()
            if S_ISLNK(stat.st_mode):
                check_own(path, path.parent)
                stat = path.stat()
        except OSError as error:
            raise ShardDamaged(path, "file", f"cannot be read: {error}") from error
        return cls(path, os.path.relpath(path, folder), stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Sources:
    """The experiments that one master shows, and where it goes."""

    directories: tuple[Path, ...]
    target: Path

    @classmethod
    def of(cls, directories: Sequence[Path], output: Path | None) -> "Sources":
        """Check directories, and name the master.

        Raises
        ------
        ExperimentNotFound
            A directory is not an experiment's.
        ConfigError
            One is given twice, there are several and no `output`, or that is a directory.
        """
        absolute = tuple(Path(os.path.abspath(directory)) for directory in directories)
        for directory in absolute:
            check_experiment(directory)
        if len({os.path.realpath(directory) for directory in absolute}) < len(absolute):
            raise ConfigError("directories", "different experiments", "one of them twice")
        if output is None and len(absolute) > 1:
            raise ConfigError("output", "a file for the master of several experiments", None)
        target = Path(os.path.abspath(output)) if output else absolute[0] / MASTER
        if target.is_dir():
            raise ConfigError("output", "a file", f"the directory {target}")
        if any(target.is_relative_to(directory / SHARDS) for directory in absolute):
            raise ConfigError("output", f"a path outside of the folder {SHARDS}/", str(target))
        return cls(absolute, target)

    def lock(self) -> Path:
        """Return the file to lock for a merge, once its folder is there.

        Raises
        ------
        ShardOutside, ShardDamaged
            The folder is a link that leads out of the experiment, or cannot be made.
        """
        return lock_file(self.directories[0], MERGE_LOCK)

    def shards(self) -> list[SourceFile]:
        """Return all finished shards, directory by directory, in order of id."""
        folder = self.target.parent
        return [
            SourceFile.of(path, folder)
            for directory in self.directories
            for path in episode_shards(directory)
        ]

    def experiment_files(self) -> list[SourceFile]:
        """Return the experiments' own files, in order of name."""
        return [
            SourceFile.of(path, self.target.parent)
            for directory in self.directories
            for _, path in self.own_files(directory)
        ]

    def own_files(self, directory: Path) -> Iterator[tuple[str, Path]]:
        """Yield one experiment's own files by the name of the group that each becomes.

        Raises
        ------
        ShardOutside
            One is a link to a file outside the experiment.
        ShardDamaged
            One has a name that no group of theirs can have.
        """
        root = directory / EXPERIMENT
        for path in sorted(root.rglob("[!.]*.h5")):
            check_own(path, directory)
            name = path.relative_to(root).with_suffix("").as_posix()
            if not is_own_name(name):
                problem = "expected another name, as the group that it gives has to be another's"
                raise ShardDamaged(path, "name", problem, "rename it, or move it away")
            yield name, path


def is_own_name(name: str) -> bool:
    """Tell whether a group of a master may be an experiment's own file."""
    is_text = name == name.encode("utf-8", "replace").decode()
    return is_text and name.partition("/")[0] not in _OF_MASTERS


def check_name(shard: ShardDescription) -> None:
    """Make sure that a shard's file is named for the episode in it.

    Raises
    ------
    ShardDamaged
        It was renamed, or swapped with another.
    """
    if is_pack_name(shard.path):
        return
    expected = shard_id(shard.path)
    if expected != shard.episode:
        name = f"episode_{shard.episode:04d}.h5"
        advice = f"rename it to {name}"
        if (shard.path.parent / name).exists():
            advice = f"{name} is there as well: swap the names of the two, or move a copy away"
        problem = f"expected episode {expected}, as it is named, got {shard.episode}"
        raise ShardDamaged(shard.path, "episode_id", problem, advice)
