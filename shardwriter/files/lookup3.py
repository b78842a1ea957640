"""Jenkins' lookup3 hash, the checksum of HDF5's metadata.

Invariant: equal to ``hashlittle(data, len(data), 0)`` of https://burtleburtle.net/bob/c/lookup3.c.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["lookup3", "lookup3_of_many"]

_MASK = 0xFFFFFFFF
_MIX = ((0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4))
_FINAL = (
    (2, 1, 14),
    (0, 2, 11),
    (1, 0, 25),
    (2, 1, 16),
    (0, 2, 4),
    (1, 0, 14),
    (2, 1, 24),
)


def lookup3(data: bytes) -> int:
    """Return the 32-bit hash of some bytes, a few dozen of them: it is slow."""
    state = [(0xDEADBEEF + len(data)) & _MASK] * 3
    if not data:
        return state[2]
    last = (len(data) - 1) // 12
    for block in range(last + 1):
        words = data[12 * block : 12 * block + 12].ljust(12, b"\0")
        for i in range(3):
            word = int.from_bytes(words[4 * i : 4 * i + 4], "little")
            state[i] = (state[i] + word) & _MASK
        if block < last:
            _mix(state)
    for target, source, bits in _FINAL:
        rotated = _rotated(state[source], bits)
        state[target] = ((state[target] ^ state[source]) - rotated) & _MASK
    return state[2]


def _mix(state: list[int]) -> None:
    for target, source, other, bits in _MIX:
        difference = (state[target] - state[source]) & _MASK
        state[target] = difference ^ _rotated(state[source], bits)
        state[source] = (state[source] + state[other]) & _MASK


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def lookup3_of_many(blocks: Sequence[bytes]) -> "np.ndarray[Any, Any]":
    """Return the hashes of many byte strings as uint32, all hashed side by side."""
    lengths = np.array([len(block) for block in blocks], np.int64)
    rounds = np.maximum(1, -(-lengths // 12))
    order = np.argsort(-rounds, kind="stable")
    longest = int(rounds.max(initial=1))
    data = b"".join(blocks[i].ljust(12 * longest, b"\0") for i in order.tolist())
    words = np.ascontiguousarray(np.frombuffer(data, "<u4").reshape(-1, 3 * longest).T)
    state = [(lengths[order] + 0xDEADBEEF).astype(np.uint32) for _ in range(3)]
    active = np.searchsorted(-rounds[order], -np.arange(longest + 1), "left").tolist()
    for i in range(longest):
        for j in range(3):
            state[j][: active[i]] += words[3 * i + j, : active[i]]
        views = [each[: active[i + 1]] for each in state]
        for target, source, other, bits in _MIX if len(views[0]) else ():
            views[target] -= views[source]
            views[target] ^= views[source] << bits | views[source] >> (32 - bits)
            views[source] += views[other]
    for target, source, bits in _FINAL:
        state[target] ^= state[source]
        state[target] -= state[source] << bits | state[source] >> (32 - bits)
    hashes = np.empty(len(blocks), np.uint32)
    hashes[order] = np.where(lengths[order] > 0, state[2], 0xDEADBEEF)
    return hashes
