"""Which file system a path is on, and whether a mapping of its files is shared as it must be."""

import os
import warnings
from pathlib import Path

import psutil

__all__ = ["NetworkMappingWarning", "default_buffer_directory", "kind_of", "warn_of_mapping"]

_SHARED_MEMORY = Path("/dev/shm")
# What lies on other machines, by the names of Linux.
_CLUSTER = ("beegfs", "ceph", "gfs2", "glusterfs", "gpfs", "lustre", "orangefs", "panfs", "pvfs2")
_NETWORK = frozenset([*_CLUSTER, "9p", "afs", "cifs", "nfs", "nfs4", "ocfs2", "smb3", "wekafs"])
# Of these some are local, as ntfs-3g is.
_LOCAL_FUSE = ("fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g")


class NetworkMappingWarning(UserWarning):
    """Buffers lie on a network file system, on which mapped files are not safe."""


def kind_of(folder: Path) -> str:
    """Return the type of the file system that a folder is on, or will be; "" where unknown."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    folder = folder.resolve()
    return next((mounts[str(at)] for at in (folder, *folder.parents) if str(at) in mounts), "")


def is_network(kind: str) -> bool:
    """Tell whether files of a file system of this type lie on other machines."""
    is_fuse = kind.startswith("fuse.") and kind not in _LOCAL_FUSE
    return kind in _NETWORK or is_fuse


def default_buffer_directory(shards: Path) -> Path | None:
    """Return where buffers go when nobody said: None for beside the shards.

    A mapping of a file on a network file system is not shared as it must be, and its writes
    would travel; buffers then go to the node's shared memory.
    """
    return _SHARED_MEMORY if is_network(kind_of(shards)) else None


def warn_of_mapping(option: str, folder: Path) -> None:
    """Warn where buffers, which are mapped into memory, are to lie on a network file system."""
    kind = kind_of(folder)
    if is_network(kind):
        warnings.warn(
            f"{option}: expected a local file system, got {os.fspath(folder)} on {kind}; buffers "
            "are mapped into memory, and there what is logged can be lost with the node or reach "
            "the writer late; name a local disk, or /dev/shm",
            NetworkMappingWarning,
            stacklevel=5,
        )
