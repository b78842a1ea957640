"""Every error that shardwriter raises on purpose.

Each class keeps its fields in ``args``, so that it survives pickling, and writes its text in
``__str__``: where, what was expected, what came, what to do.
"""

import errno
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "BufferDamaged",
    "BufferFailed",
    "ConfigError",
    "EpisodeBusy",
    "EpisodeEnded",
    "EpisodeExists",
    "EpisodeNotFound",
    "EpisodeUnfinished",
    "EpisodesFailed",
    "EpisodesGone",
    "EpisodesMissing",
    "ExecutorBroken",
    "ExperimentNotFound",
    "FieldError",
    "FieldsDiffer",
    "FormatError",
    "IdsCollide",
    "LockUnavailable",
    "MasterStale",
    "MissingDependency",
    "NoSpace",
    "NotPermitted",
    "NotWritten",
    "ShardDamaged",
    "ShardMissing",
    "ShardOutside",
    "ShardWriterError",
    "ShardsNotFound",
    "TooLarge",
    "TooManyOpenFiles",
    "TooManyShards",
    "WorkerFailed",
    "WriterFailed",
]


class ShardWriterError(Exception):
    """Root of all errors of this package."""


class ConfigError(ShardWriterError):
    """An option has a value it cannot have; nothing was created."""

    def __init__(self, option: str, expected: str, got: object) -> None:
        super().__init__(option, expected, got)

    def __str__(self) -> str:
        option, expected, got = self.args
        return f"{option}: expected {expected}, got {got!r}"


class FieldError(ShardWriterError):
    """A logged value does not fit; that call logged nothing, every earlier row stays."""

    def __init__(
        self, episode: int | Sequence[int], field: str, expected: str, got: str, advice: str
    ) -> None:
        super().__init__(episode, field, expected, got, advice)

    def __str__(self) -> str:
        episode, field, expected, got, advice = self.args
        where = episodes_text([episode] if isinstance(episode, int) else episode)
        return f"{where}, {field}: expected {expected}, got {got}; {advice}"


class FieldsDiffer(ShardWriterError):
    """A field is not of one dtype and shape in the episodes that were to be read together."""

    def __init__(self, field: str, first: int, form: str, other: int, other_form: str) -> None:
        super().__init__(field, first, form, other, other_form)

    def __str__(self) -> str:
        field, first, form, other, other_form = self.args
        return (
            f"{field}: expected {form}, as in episode {first}, got {other_form} in episode "
            f"{other}; name episodes= that agree"
        )


class EpisodeExists(ShardWriterError):
    """The episode id is already recorded, or being recorded, in this experiment."""

    def __init__(self, episode: int, path: Path) -> None:
        super().__init__(episode, path)

    def __str__(self) -> str:
        episode, path = self.args
        return (
            f"episode {episode}: expected an id not yet used, but {path} exists; take another id, "
            "or start_episode() without one for the next free id"
        )


class EpisodeEnded(ShardWriterError):
    """A call came to an episode that has ended, or to an exporter without a current episode."""

    def __init__(self, episode: int | None, call: str) -> None:
        super().__init__(episode, call)

    def __str__(self) -> str:
        episode, call = self.args
        if episode is None:
            return f"{call}: expected a current episode, got none; call start_episode() first"
        return f"episode {episode}: {call} came after its end; start another episode"


class EpisodeNotFound(ShardWriterError):
    """The experiment has no episode of that id."""

    def __init__(
        self, episode: int, available: Sequence[int], where: Path, advice: str = ""
    ) -> None:
        super().__init__(episode, tuple(available), where, advice)

    def __str__(self) -> str:
        episode, available, where, advice = self.args
        got = repr(episode) if isinstance(episode, str) else episode
        text = f"{where}: expected one of the episodes {ranges(available)}, got {got}"
        return f"{text}; {advice}" if advice else text


class EpisodeUnfinished(ShardWriterError):
    """The episode is still being recorded, and what was asked for is only in a finished shard."""

    def __init__(self, episode: int, asked: str) -> None:
        super().__init__(episode, asked)

    def __str__(self) -> str:
        episode, asked = self.args
        return (
            f"episode {episode}: expected a finished one for {asked}, got one that is still being "
            "recorded; use its getters, or wait for its end"
        )


class EpisodesFailed(ShardWriterError):
    """Some episodes of ``run_episodes`` did not complete; what they logged is kept.

    ``failures`` maps each failed episode's id to the text of its error; ``results`` holds the
    result of every episode, the good ones included.
    """

    def __init__(self, failures: dict[int, str], results: Sequence[object]) -> None:
        super().__init__(failures, results)
        self.failures = failures
        self.results = results

    def __str__(self) -> str:
        first = list(self.failures.items())[:10]
        shown = [f"  episode {i}: {(text.splitlines() or [''])[0][:200]}" for i, text in first]
        more = len(self.failures) - len(shown)
        if more:
            shown.append(f"  … and {more} more")
        head = (
            f"{len(self.failures)} of {len(self.results)} episodes failed "
            f"({ranges(list(self.failures))}); what they logged is kept"
        )
        return "\n".join([head, *shown])


class EpisodesMissing(ShardWriterError):
    """Episodes that were expected are not there; nothing was written."""

    def __init__(self, missing: Sequence[int], expected: int) -> None:
        super().__init__(tuple(missing), expected)

    def __str__(self) -> str:
        missing, expected = self.args
        return (
            f"expected {expected} episodes, got {expected - len(missing)}: {ranges(missing)} "
            "missing; run `shardwriter recover` for those that were interrupted, or record them"
        )


class EpisodesGone(ShardWriterError):
    """Shards that the last master shows are not among those given; nothing was written."""

    def __init__(
        self,
        gone: Mapping[int, Path],
        master: Path,
        advice: str = "put them back, or merge with --forget-missing",
    ) -> None:
        super().__init__(dict(gone), master, advice)

    def __str__(self) -> str:
        gone, master, advice = self.args
        first = next(iter(gone.values()))
        return (
            f"{master}: expected the shards of {episodes_text(list(gone))}, which the last "
            f"merge had, such as {first}, got none; {advice}"
        )


class IdsCollide(ShardWriterError):
    """Several shards have one episode id; nothing was written."""

    def __init__(self, places: Mapping[int, Sequence[str]]) -> None:
        super().__init__(dict(places))

    def __str__(self) -> str:
        (places,) = self.args
        shown = [f"{i} ({', '.join(found)})" for i, found in list(places.items())[:10]]
        more = f", … {len(places) - 10} more" if len(places) > 10 else ""
        return (
            f"episodes: expected ids that occur once, got several of {', '.join(shown)}{more}; "
            "merge with --renumber to give the later ones new ids"
        )


class ExperimentNotFound(ShardWriterError):
    """No experiment, or no master file, at that path."""

    def __init__(self, path: Path, expected: str, advice: str) -> None:
        super().__init__(path, expected, advice)

    def __str__(self) -> str:
        path, expected, advice = self.args
        return f"{path}: expected {expected}; {advice}"


class ShardMissing(ShardWriterError):
    """A shard that the master names is not there, or cannot be opened."""

    def __init__(self, path: Path, episode: int, advice: str) -> None:
        super().__init__(path, episode, advice)

    def __str__(self) -> str:
        path, episode, advice = self.args
        return f"episode {episode}: expected its shard at {path}, found none; {advice}"


class MasterStale(ShardWriterError):
    """A shard is not the one that the master was built from."""

    def __init__(self, master: Path, shard: Path, expected: str, got: str, advice: str) -> None:
        super().__init__(master, shard, expected, got, advice)

    def __str__(self) -> str:
        master, shard, expected, got, advice = self.args
        return f"{shard}: {master.name} expects {expected}, found {got}; {advice}"


class ShardDamaged(ShardWriterError):
    """A shard or part cannot be read as what it claims to be."""

    def __init__(self, path: Path, place: str, problem: str, advice: str = "") -> None:
        super().__init__(path, place, problem, advice)

    def __str__(self) -> str:
        path, place, problem, advice = self.args
        text = f"{path}: {place}: {problem}"
        return f"{text}; {advice}" if advice else text

    def with_advice(self, advice: str) -> "ShardDamaged":
        """Return this error with what to do about it."""
        path, place, problem, _ = self.args
        return ShardDamaged(path, place, problem, advice)


class ShardsNotFound(ShardWriterError):
    """Shards of a master are in none of the directories that were searched; it is as before."""

    def __init__(self, lost: Mapping[int, str], searched: Sequence[Path]) -> None:
        super().__init__(dict(lost), tuple(searched))

    def __str__(self) -> str:
        lost, searched = self.args
        return (
            f"{', '.join(map(str, searched))}: expected the shards of "
            f"{episodes_text(list(lost))}, by their uuids, got none; name every directory that "
            "has some"
        )


class TooManyOpenFiles(ShardWriterError):
    """A file cannot be opened, as the process, or the machine, has too many open."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    def __str__(self) -> str:
        (path,) = self.args
        return (
            f"{path}: cannot be opened, as too many files are open; close some, or raise the limit "
            "(`ulimit -n`)"
        )


class TooManyShards(ShardWriterError):
    """A dataset over all episodes would need more file descriptors than there may be."""

    def __init__(self, shards: int, limit: int) -> None:
        super().__init__(shards, limit)

    def __str__(self) -> str:
        shards, limit = self.args
        return (
            f"--concat: expected at most {max(0, limit)} shards, got {shards}: past the limit of "
            "open files (ulimit -n) HDF5 answers fill values for data; use `shardwriter pack`, or "
            "loader.concat(), which have no such limit"
        )


class ShardOutside(ShardWriterError):
    """A file lies outside the directory that may be read from; nothing was read."""

    def __init__(
        self,
        path: Path,
        root: Path,
        advice: str = "if you trust the master, give a directory that holds both as root= (--root)",
    ) -> None:
        super().__init__(path, root, advice)

    def __str__(self) -> str:
        path, root, advice = self.args
        return f"{path}: expected a file inside {root}, got one outside; {advice}"


class TooLarge(ShardWriterError):
    """What was asked for does not fit into memory; nothing was read."""

    def __init__(self, path: Path, place: str, needed_bytes: int, available_bytes: int) -> None:
        super().__init__(path, place, needed_bytes, available_bytes)

    def __str__(self) -> str:
        path, place, needed, available = self.args
        return (
            f"{path}: {place}: expected at most the {available / 1e9:.1f} GB of memory that are "
            f"free, got {needed / 1e9:.1f} GB; read it in windows with start= and stop="
        )


class BufferDamaged(ShardWriterError):
    """A buffer file cannot be read as what it claims to be."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)

    def __str__(self) -> str:
        path, problem = self.args
        return f"{path}: not a usable episode buffer: {problem}"


class FormatError(ShardWriterError):
    """A file is of another format, or of a version that this release cannot read."""

    def __init__(self, path: Path, expected: str, got: str) -> None:
        super().__init__(path, expected, got)

    def __str__(self) -> str:
        path, expected, got = self.args
        return f"{path}: expected {expected}, got {got}"


class NoSpace(ShardWriterError):
    """There is no room for an episode's buffer; nothing was created."""

    def __init__(self, where: Path, needed_bytes: int, reason: str, advice: str) -> None:
        super().__init__(where, needed_bytes, reason, advice)

    def __str__(self) -> str:
        where, needed, reason, advice = self.args
        return f"{where}: expected room for a buffer of {needed / 1e6:.3g} MB, {reason}; {advice}"


class NotPermitted(ShardWriterError):
    """A file may not be opened by this user; nothing was read, and it may be sound."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    def __str__(self) -> str:
        (path,) = self.args
        return (
            f"{path}: expected to be permitted to open it, got: permission denied; ask its owner, "
            "or change its mode"
        )


class NotWritten(ShardWriterError):
    """A file could not be written; what was there before is as it was."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(path, cause)

    def __str__(self) -> str:
        path, cause = self.args
        return (
            f"{path}: expected to write it, got: {cause}; nothing was changed: mend the cause, "
            "and try again"
        )


class BufferFailed(ShardWriterError):
    """An episode's buffer could not be written; that call logged nothing, what was logged stays."""

    def __init__(self, where: Path, reason: str) -> None:
        super().__init__(where, reason)

    def __str__(self) -> str:
        where, reason = self.args
        return (
            f"{where}: expected a buffer that can be written, got: {reason}; nothing logged so far "
            "is lost: mend the cause, or set buffer_dir= to another file system"
        )


class LockUnavailable(ShardWriterError):
    """The file system of an experiment has no locks between processes."""

    def __init__(self, path: Path, kind: str, reason: str) -> None:
        super().__init__(path, kind, reason)

    def __str__(self) -> str:
        path, kind, reason = self.args
        return (
            f"{path}: expected a file system with flock, got {kind or 'one'} without ({reason}); "
            "have it mounted with locks, or copy the experiment to a local disk and go on there"
        )


class WriterFailed(ShardWriterError):
    """An episode's rows could not be written to its shard.

    Every row whose call returned is still in the episode's buffer or part.
    """

    def __init__(self, episode: int, where: Path, cause: str) -> None:
        super().__init__(episode, where, cause)

    def __str__(self) -> str:
        episode, where, cause = self.args
        directory = next((p.parent for p in where.parents if p.name == "shards"), where.parent)
        return (
            f"episode {episode}: its shard {where} could not be written: {cause}; nothing logged "
            f"so far is lost: mend the cause, then run {command('recover', directory)}"
        )


class WorkerFailed(ShardWriterError):
    """Worker processes end before they have begun; episodes that ran before are kept."""

    def __init__(self, times: int, how: str) -> None:
        super().__init__(times, how)

    def __str__(self) -> str:
        times, how = self.args
        return (
            f"run_episodes: expected worker processes that start, {times} in a row ended before "
            f"they took an episode ({how}); what they printed on stderr says why"
        )


class ExecutorBroken(ShardWriterError):
    """The executor of ``run_episodes`` broke, and takes no more; what was logged is kept."""

    def __init__(self, kind: str, how: str, lost: Sequence[int]) -> None:
        super().__init__(kind, how, tuple(lost))

    def __str__(self) -> str:
        kind, how, lost = self.args
        return (
            f"run_episodes: expected an executor that outlives its workers, got a {kind} that "
            f"broke while it had {episodes_text(lost)} ({how}); give a function that makes one, "
            f"such as executor=lambda: {kind}(...), so that another can be made, or run again in a "
            "new one with skip_existing=True"
        )


class EpisodeBusy(ShardWriterError):
    """Another living process is writing the episode's shard; nothing was touched."""

    def __init__(self, episode: int, path: Path) -> None:
        super().__init__(episode, path)

    def __str__(self) -> str:
        episode, path = self.args
        return f"episode {episode}: another process is writing from {path}; wait for its end"


class MissingDependency(ShardWriterError):
    """An optional package is needed for this."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)

    def __str__(self) -> str:
        package, extra = self.args
        return f"{package} is not installed; pip install 'shardwriter[{extra}]'"


def not_opened(path: Path, place: str, error: Exception) -> ShardWriterError:
    """Return the error that says why a file cannot be opened."""
    number = getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE):
        return TooManyOpenFiles(path)
    if number in (errno.EACCES, errno.EPERM):
        return NotPermitted(path)
    return ShardDamaged(path, place, f"cannot be opened: {error}")


def command(*words: object) -> str:
    """Write, between backquotes, a command of the command line as a shell takes it."""
    return f"`shardwriter {shlex.join(map(str, words))}`"


def counted(count: int, noun: str) -> str:
    """Write how many there are of something: ``1 episode``, ``1,200 episodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def episodes_text(ids: Sequence[int]) -> str:
    """Name episodes: ``episode 3``, ``episodes 0-2, 7``."""
    return f"episode{'' if len(ids) == 1 else 's'} {ranges(ids)}"


def ranges(ids: Sequence[int]) -> str:
    """Write sorted ids as short ranges: ``[0, 1, 2, 7]`` gives ``0-2, 7``."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    if len(texts) > 20:
        texts = [*texts[:20], "…"]
    return ", ".join(texts) or "(none)"
