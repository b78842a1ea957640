"""Many shards at once: copies of one recorded shard, each with an id and a uuid of its own.

Only these are patched, with the checksums of the blocks that they are in, so that a hundred
thousand are made in a minute.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from shardwriter.files.layout import EpisodePaths, episode_group
from shardwriter.files.lookup3 import lookup3_of_many
from shardwriter.files.structure import Structure

__all__ = ["ShardCopies"]

_TOGETHER = 500


class ShardCopies:
    """Copies of a recorded episode for ids of as many digits as its own has.

    Parameters
    ----------
    directory
        The experiment with that episode.
    episode
        Its id.
    """

    def __init__(self, directory: Path, episode: int) -> None:
        path = EpisodePaths(directory, episode).shard
        self._data = bytearray(path.read_bytes())
        name = episode_group(episode).rpartition("/")[2].encode()
        with Structure(path) as structure:
            root = structure.messages(structure.root)
            given = structure.attributes(root)["uuid"].encode()
            structure.attributes(structure.find(episode_group(episode)) or [])
        marks = self._data.index(b"\0episode_id\0")
        number = self._data.index(np.int64(episode).tobytes(), marks)
        self._number = slice(number, number + 8)
        at = self._data.index(name)
        self._name = slice(at, at + len(name))
        at = self._data.index(given)
        self._uuid = slice(at, at + len(given))
        patched = (self._number.start, self._name.start, self._uuid.start)
        blocks = [self._block(block) for block in structure.checksummed]
        self._blocks = [
            (span, at) for span, at in blocks if any(span.start <= i < span.stop for i in patched)
        ]

    def _block(self, noted: bytes) -> tuple[slice, int]:
        """Return where a block is that ends in its checksum, as it is noted, and where that is."""
        if not noted.startswith(b"FHDB"):  # which has it inside, and counts it as zero
            start = self._data.index(noted)
            return slice(start, start + len(noted) - 4), start + len(noted) - 4
        start = self._data.index(noted[:13])
        return slice(start, start + len(noted) - 4), self._data.index(noted[-4:], start)

    def write(self, directory: Path, numbers: range) -> None:
        """Write the shards of some ids into an experiment."""
        for first in range(0, len(numbers), _TOGETHER):
            several = numbers[first : first + _TOGETHER]
            copies = [self._patched(number) for number in several]
            parts = []
            for copy in copies:
                for span, at in self._blocks:
                    copy[at : at + 4] = bytes(4)
                    parts.append(bytes(copy[span]))
            hashes = iter(lookup3_of_many(parts).tolist())
            for number, copy in zip(several, copies, strict=True):
                for _, at in self._blocks:
                    copy[at : at + 4] = next(hashes).to_bytes(4, "little")
                paths = EpisodePaths(directory, number)
                paths.make_folder()
                paths.shard.write_bytes(copy)

    def _patched(self, number: int) -> bytearray:
        copy = bytearray(self._data)
        copy[self._number] = np.int64(number).tobytes()
        copy[self._name] = episode_group(number).rpartition("/")[2].encode()
        copy[self._uuid] = uuid.UUID(int=number).hex.encode()
        if len(copy) != len(self._data):
            raise ValueError(f"expected an id of as many digits as the copied one, got {number}")
        return copy
