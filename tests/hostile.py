"""What tests of hostile files share: a file that nobody may read, and a master that vouches."""

from pathlib import Path

import h5py
import numpy as np
from merging import shard

from shardwriter.files.layout import MASTER

SECRET = b"root:x:0:0: a secret that no merge may copy"


def secret_file(folder: Path) -> Path:
    secret = folder / "secret.h5"
    with h5py.File(secret, "w", userblock_size=512) as file:
        file["data"] = np.frombuffer(SECRET, np.uint8)
    with secret.open("r+b") as data:
        data.write(SECRET)
    return secret


def adopt(experiment: Path) -> None:
    """Make the master's index agree with a shard that was changed, as an attacker would."""
    with h5py.File(experiment / MASTER, "r+") as file:
        index = file["episode_index"][()]
        index["size"][1] = shard(experiment, 1).stat().st_size
        file["episode_index"][...] = index
