"""Names and paths of everything on disk, in one place.

Invariant: no other module spells a file name, a group name or the format's version.
"""

import re
from pathlib import Path

__all__ = [
    "ATTRIBUTES",
    "CONFIG_JSON",
    "EPISODES",
    "EVENTS",
    "EXPERIMENT",
    "FIELD_TABLES",
    "FINAL_STATE",
    "FORMAT",
    "FORMAT_VERSION",
    "INDEX",
    "MASTER",
    "SHARDS",
    "SUMMARY",
    "TABLES",
    "TIMESTEPS",
    "EpisodePaths",
    "episode_group",
    "listed_episodes",
    "unfinished_episodes",
]

FORMAT = "shardwriter"
FORMAT_VERSION = "1.0"

MASTER = "experiment_data.h5"
CONFIG_JSON = "config.json"
SHARDS = "shards"
EXPERIMENT = "experiment"  # folder of small HDF5 files, one per root group of the master

ATTRIBUTES = "attributes"  # of these files, the one whose attributes go to the root

EPISODES = "episodes"
INDEX = "episode_index"
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

_SHARD_NAME = re.compile(r"episode_(\d{4,})\.h5")
_UNFINISHED_NAME = re.compile(r"episode_(\d{4,})\.(?:buffer|h5\.part|h5\.journal)")


def episode_group(episode: int) -> str:
    """Return an episode's group in shard and master, ``episodes/episode_0003``."""
    return f"{EPISODES}/episode_{episode:04d}"


class EpisodePaths:
    """The files of one episode, as long as they exist.

    Parameters
    ----------
    directory
        The experiment's directory.
    episode
        The episode's id.
    """

    __slots__ = ("buffer", "directory", "episode", "journal", "part", "shard", "temporary")

    def __init__(self, directory: Path, episode: int) -> None:
        name = f"episode_{episode:04d}"
        shards = directory / SHARDS
        self.directory = directory
        self.episode = episode
        self.shard = shards / f"{name}.h5"
        self.part = shards / f"{name}.h5.part"
        self.journal = shards / f"{name}.h5.journal"
        self.temporary = shards / f".{name}.h5.tmp"
        self.buffer = shards / f"{name}.buffer"


def listed_episodes(directory: Path) -> dict[int, Path]:
    """Return the finished shards of an experiment by episode id, in order of id."""
    return _matching(directory, _SHARD_NAME)


def unfinished_episodes(directory: Path) -> list[int]:
    """Return the ids of episodes that still have a buffer, part or journal, in order."""
    return list(_matching(directory, _UNFINISHED_NAME))


def _matching(directory: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    shards = directory / SHARDS
    if not shards.is_dir():
        return {}
    found = {}
    for path in shards.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))
