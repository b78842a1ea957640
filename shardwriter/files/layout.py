"""Names and paths of everything on disk, in one place.

Invariant: no other module spells a file name, a group name or the format's version.
"""

import os
import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from shardwriter.errors import (
    ExperimentNotFound,
    ShardOutside,
    command,
    episodes_text,
    not_opened,
)

__all__ = [
    "ATTEMPTS",
    "ATTRIBUTES",
    "CHECKPOINTS",
    "CONCATENATED",
    "CONFIG_JSON",
    "DAMAGED",
    "EPISODES",
    "EVENTS",
    "EXPERIMENT",
    "FIELD_TABLES",
    "FINAL_STATE",
    "FORMAT",
    "FORMAT_VERSION",
    "INDEX",
    "MASTER",
    "MERGE",
    "MERGE_LOCK",
    "RECOVER_LOCK",
    "SHARDS",
    "SOURCES",
    "SUMMARY",
    "TABLES",
    "TIMESTEPS",
    "UNITS",
    "EpisodePaths",
    "buffer_label",
    "buffer_name",
    "buffer_target",
    "check_experiment",
    "episode_group",
    "episode_shards",
    "group_id",
    "is_pack_name",
    "is_scratch_name",
    "leftover_episodes",
    "leftovers_in",
    "listed_episodes",
    "pack_name",
    "packed_shards",
    "run_note_path",
    "run_notes",
    "scratch_name",
    "setup_owners",
    "setup_path",
    "shard_id",
    "temporaries_of",
    "temporary_files",
    "temporary_path",
    "unfinished_buffers",
    "unfinished_episodes",
    "unfinished_text",
]

FORMAT = "shardwriter"
FORMAT_VERSION = "1.1"

MASTER = "experiment_data.h5"
CONFIG_JSON = "config.json"
SHARDS = "shards"
ATTEMPTS = "attempts"  # below shards: failed attempts of episodes that were run again
DAMAGED = "damaged"  # below shards: what recovery could not read in full
EXPERIMENT = "experiment"  # folder of small HDF5 files, one per root group of the master
MERGE_LOCK = "merge.lock"  # there, and
RECOVER_LOCK = "recover.lock"  # locked while a merge or a recovery runs

ATTRIBUTES = "attributes"  # of these files, the one whose attributes go to the root

UNITS = "units"  # units of fields as attributes
CHECKPOINTS = "checkpoints"  # one file and one group below it for each
EPISODES = "episodes"
INDEX = "episode_index"
CONCATENATED = "concatenated"
SOURCES = "sources"  # in the master of several experiments: what the later ones have of their own
MERGE = "merge"  # in the master: what the next merge needs to know of this one
TIMESTEPS = "timesteps"
FINAL_STATE = "final_state"
SUMMARY = "summary"

NEURAL_STATES = "neural_states"
SPIKES = "spikes"
BEHAVIOR = "behavior"
REWARDS = "rewards"
WEIGHT_CHANGES = "weight_changes"
EVENTS = "events"
TABLES = (NEURAL_STATES, SPIKES, BEHAVIOR, REWARDS, WEIGHT_CHANGES)
FIELD_TABLES = (NEURAL_STATES, BEHAVIOR)  # their columns are the user's own fields

# From this id on, files lie in folders named for the last two digits of the id: 100 small
# directories instead of a huge one, and nodes that record ids in turn write to different ones.
_FIRST_IN_FOLDER, _FOLDERS = 10_000, 100
_FOLDER_NAME = re.compile(r"\d\d")

_PACK_NAME = re.compile(r"pack_(\d{4,})\.h5")  # a shard of many episodes
_SHARD_NAME = re.compile(r"episode_(\d{4,})\.h5")
_BUFFER_NAME = re.compile(r"shardwriter-(.+)-[0-9a-f]+\.buffer")
_SCRATCH_NAME = re.compile(r"shardwriter-(.+)-[0-9a-f]+\.scratch")
_SETUP_NAME = re.compile(r"\.rollout-(.+)-[0-9a-f]+\.pickle")
_RUN_NAME = re.compile(r"(.+)-[0-9a-f]+\.run")
_LEFTOVER_NAME = re.compile(
    r"\.?episode_(\d{4,})\.(?:buffer|h5\.part|h5\.journal|h5\.tmp|h5\.journal\.tmp)"
)
_BUFFER_IN_PLACE = re.compile(r"episode_(\d{4,})\.buffer")
_UNFINISHED_NAME = re.compile(r"episode_(\d{4,})\.(?:buffer|h5\.part|h5\.journal)")
_UNFINISHED_ENDS = (".buffer", ".part", ".journal")  # told sooner than the whole pattern


def episode_group(episode: int) -> str:
    """Return an episode's group in shard and master, ``episodes/episode_0003``."""
    return f"{EPISODES}/episode_{episode:04d}"


def group_id(name: str) -> int:
    """Return the id of the episode whose group below ``episodes/`` has that name.

    Raises
    ------
    ValueError
        It is no such name.
    """
    return int(name.removeprefix("episode_"))


class EpisodePaths:
    """The files of one episode, as long as they exist.

    They lie beside the shard, or in a scratch folder on a disk of the node that records. That one
    is found by the link which then stands for the buffer, so the paths have to be made anew once
    that link exists or is gone.

    Parameters
    ----------
    directory
        The experiment's directory.
    episode
        The episode's id.
    scratch
        The episode's scratch folder, where it is about to get one.
    """

    __slots__ = (
        "attempts",
        "buffer",
        "damaged",
        "directory",
        "episode",
        "journal",
        "part",
        "scratch",
        "shard",
        "temporaries",
        "temporary",
    )

    def __init__(self, directory: Path, episode: int, scratch: Path | None = None) -> None:
        name = f"episode_{episode:04d}"
        shards = directory / SHARDS
        self.attempts = shards / ATTEMPTS
        self.damaged = shards / DAMAGED
        if episode >= _FIRST_IN_FOLDER:
            shards /= f"{episode % _FOLDERS:02d}"
        self.directory = directory
        self.episode = episode
        self.shard = shards / f"{name}.h5"
        self.buffer = shards / f"{name}.buffer"
        self.scratch = scratch or _scratch_of(self.buffer)
        work = self.scratch or shards
        self.part = work / f"{name}.h5.part"
        self.journal = work / f"{name}.h5.journal"
        self.temporary = work / f".{name}.h5.tmp"
        hidden = shards / self.temporary.name  # what is copied from a scratch folder, meanwhile
        self.temporaries = (hidden, self.temporary, work / f".{name}.h5.journal.tmp")

    def make_folder(self) -> None:
        """Make the folder below ``shards/`` that the files belong in, where there is one."""
        if self.episode >= _FIRST_IN_FOLDER:
            self.shard.parent.mkdir(exist_ok=True)


def check_experiment(directory: Path) -> None:
    """Make sure that a directory is an experiment's.

    Raises
    ------
    ExperimentNotFound
        It is none; one that is inside is named.
    """
    if (directory / SHARDS).is_dir():
        return
    advice = "give the directory of one" if directory.exists() else "check the path"
    inside = [shards.parent for shards in directory.glob(f"*/{SHARDS}")]
    if inside:
        advice += f", such as {max(inside)}"
    raise ExperimentNotFound(directory, f"an experiment with a folder {SHARDS}/", advice)


def listed_episodes(directory: Path) -> dict[int, Path]:
    """Return the finished shards of an experiment by episode id, in order of id."""
    return _matching(directory, _SHARD_NAME)


def episode_shards(directory: Path) -> list[Path]:
    """Return every file of finished episodes: shards in order of id, then packed ones."""
    return [*listed_episodes(directory).values(), *packed_shards(directory)]


def packed_shards(directory: Path) -> list[Path]:
    """Return the shards of many episodes, in order."""
    return list(_matching(directory, _PACK_NAME).values())


def setup_path(directory: Path, owner: str, tag: str) -> Path:
    """Return the file that tells the workers of another engine what to run, while it runs."""
    return directory / f".rollout-{owner}-{tag}.pickle"


def setup_owners(directory: Path) -> dict[Path, str]:
    """Return such files with the labels of the processes that wrote them."""
    found = ((path, _SETUP_NAME.fullmatch(path.name)) for path in directory.glob(".rollout-*"))
    return {path: match[1] for path, match in found if match}


def run_note_path(directory: Path, owner: str, tag: str) -> Path:
    """Return the file that says which episodes a process is to record, while it runs them."""
    return directory / EXPERIMENT / f"{owner}-{tag}.run"


def run_notes(directory: Path) -> dict[Path, str]:
    """Return such files with the labels of their processes."""
    found = (
        (path, _RUN_NAME.fullmatch(path.name)) for path in (directory / EXPERIMENT).glob("*.run")
    )
    return {path: match[1] for path, match in found if match}


def pack_name(number: int) -> str:
    """Return the name of a shard of many episodes."""
    return f"pack_{number:04d}.h5"


def is_pack_name(path: Path) -> bool:
    """Tell whether a file is named as a shard of many episodes."""
    return _PACK_NAME.fullmatch(path.name) is not None


def shard_id(path: Path) -> int:
    """Return the episode that a shard is named for, -1 for another name."""
    match = _SHARD_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def unfinished_episodes(directory: Path) -> list[int]:
    """Return the ids of episodes that still have a buffer, part or journal, in order."""
    return list(_matching(directory, _UNFINISHED_NAME, _UNFINISHED_ENDS))


def unfinished_text(directory: Path) -> str:
    """Say which episodes are unfinished, and what to do about it; "" where none is."""
    unfinished = unfinished_episodes(directory)
    if not unfinished:
        return ""
    whose = "its" if len(unfinished) == 1 else "their"
    mend = f"wait for {whose} end, or run {command('recover', directory)}"
    return f"unfinished: {episodes_text(unfinished)}; {mend}"


def unfinished_buffers(directory: Path) -> list[Path]:
    """Return the buffers of an experiment."""
    return list(_matching(directory, _BUFFER_IN_PLACE).values())


def leftover_episodes(directory: Path) -> list[int]:
    """Return the ids of episodes that have any file other than a finished shard, in order."""
    return list(_matching(directory, _LEFTOVER_NAME))


def buffer_name(owner: str, tag: str) -> str:
    """Return the name of a buffer that lies elsewhere than beside its shard."""
    return f"shardwriter-{owner}-{tag}.buffer"


def buffer_label(path: Path) -> str | None:
    """Return the owner in the name of a buffer that lies elsewhere, or of its scratch folder."""
    match = _BUFFER_NAME.fullmatch(path.name) or _SCRATCH_NAME.fullmatch(path.parent.name)
    return match[1] if match else None


def buffer_target(path: Path) -> Path:
    """Return the file that is a buffer: the one at a path, or the one that a link there names.

    Raises
    ------
    ShardOutside
        The link names what is no buffer, or another link.
    """
    if not path.is_symlink():
        return path
    target = path.parent / path.readlink()
    is_known = _BUFFER_NAME.fullmatch(target.name) or (
        target.name == path.name
        and is_scratch_name(target.parent)
        and not target.parent.is_symlink()
    )
    if not is_known or target.is_symlink():
        raise ShardOutside(target, path.parent, f"remove the link {path}")
    return target


def temporary_path(path: Path, owner: str) -> Path:
    """Return the hidden path under which a process writes a file of the experiment's own."""
    return path.with_name(f".{path.name}~{owner}.tmp")


def temporary_files(directory: Path) -> dict[Path, str]:
    """Return the hidden files of ``temporary_path`` in an experiment, with their owners."""
    found = [*directory.glob(".*~*.tmp"), *(directory / EXPERIMENT).rglob(".*~*.tmp")]
    return {path: path.name.removesuffix(".tmp").rpartition("~")[2] for path in found}


def temporaries_of(path: Path) -> dict[Path, str]:
    """Return the hidden paths of ``temporary_path`` that there are for a file, with owners."""
    found = path.parent.glob(f".{escape(path.name)}~*.tmp")
    return {hidden: hidden.name.removesuffix(".tmp").rpartition("~")[2] for hidden in found}


def scratch_name(owner: str, tag: str) -> str:
    """Return the name of an episode's folder below a scratch directory."""
    return f"shardwriter-{owner}-{tag}.scratch"


def is_scratch_name(path: Path) -> bool:
    """Tell whether a folder is named as an episode's scratch folder."""
    return _SCRATCH_NAME.fullmatch(path.name) is not None


def leftovers_in(folder: Path) -> list[Path]:
    """Return the files of unfinished episodes that lie in a folder."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _LEFTOVER_NAME.fullmatch(path.name)]


def _scratch_of(buffer: Path) -> Path | None:
    """Return the scratch folder that a buffer's link points into, None where it is no such link."""
    try:
        folder = buffer.parent / Path(os.readlink(buffer)).parent
    except OSError:  # an ordinary file, or none
        return None
    return folder if is_scratch_name(folder) and not folder.is_symlink() else None


def _matching(
    directory: Path, pattern: re.Pattern[str], ends: str | tuple[str, ...] = ""
) -> dict[int, Path]:
    """Return the files whose names match, and end so, by the episode's id and in its order."""
    found = {}
    for folder, names in _listings(directory / SHARDS):
        for name in [name for name in names if name.endswith(ends)]:
            match = pattern.fullmatch(name)
            if match:
                found[int(match[1])] = folder / name
    return dict(sorted(found.items()))


def _listings(shards: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder of shards, if there is one, and those below it, with the names in each.

    Raises
    ------
    ShardOutside
        A folder below it is a link.
    """
    try:
        names = os.listdir(shards)
    except (FileNotFoundError, NotADirectoryError):
        return
    yield shards, names
    for name in names:
        if len(name) == 2 and _FOLDER_NAME.fullmatch(name):
            if os.path.islink(shards / name):
                advice = "put the folder itself in the place of the link"
                raise ShardOutside(shards / name, shards, advice)
            try:
                inner = os.listdir(shards / name)
            except NotADirectoryError:
                continue
            except OSError as error:  # shards in it would be missed
                raise not_opened(shards / name, "folder", error) from error
            yield shards / name, inner
