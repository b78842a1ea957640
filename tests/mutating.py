"""Files with bytes changed: anywhere, or where checksums are, which are then made to fit."""

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shardwriter.files.chunk_index import chunks_of
from shardwriter.files.lookup3 import lookup3
from shardwriter.files.stored_objects import is_group, stored_dataset
from shardwriter.files.structure import UNCERTAIN, Structure

Span = tuple[int, int]  # of a block: where it starts, and where its checksum does

_VALUES = (0, 1, 2, 3, 4, 8, 16, 127, 128, 255)


def mutations(whole: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield copies with flipped, overwritten, doubled, zeroed or missing bytes."""
    for _ in range(count):
        data = bytearray(whole)
        kind = rng.randrange(5)
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            at = rng.randrange(len(data) - 16)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), rng.randbytes(4)])
            elif kind == 2:
                data[at : at + 8] = rng.randrange(2**64).to_bytes(8, "little")
            elif kind == 3:
                other = rng.randrange(len(data) - 16)
                data[at : at + 16] = data[other : other + 16]
        if kind == 4:
            del data[rng.randrange(len(data)) :]
        yield bytes(data)


def spans(path: Path) -> list[Span]:
    """Return the blocks of a file that end in a checksum."""
    data = path.read_bytes()
    with Structure(path) as structure:
        seen = [structure.root]
        for address in seen:  # grows while it is gone through
            messages = structure.messages(address)
            structure.attributes(messages)
            if is_group(messages):
                seen += [each for each in structure.links(messages).values() if each not in seen]
                continue
            with suppress(*UNCERTAIN):  # a virtual dataset, or another index
                dataset = stored_dataset(messages)
                if dataset.chunk:
                    chunks_of(structure, dataset, -(-dataset.shape[0] // dataset.chunk[0]))
        blocks = dict.fromkeys(structure.checksummed)
    places = [(data.find(block), len(block) - 4) for block in blocks]
    return [(at, at + length) for at, length in places if at >= 0]


def repaired(data: bytearray, blocks: list[Span]) -> bytes:
    """Return bytes of which each of some blocks is followed by its checksum."""
    for start, end in blocks:
        data[end : end + 4] = lookup3(bytes(data[start:end])).to_bytes(4, "little")
    return bytes(data)


def hostile_mutations(path: Path, rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield copies of a file with some fields of its blocks changed, whose checksums fit."""
    whole = path.read_bytes()
    every = spans(path)
    kinds = sorted({whole[start : start + 4] for start, _ in every})
    for _ in range(count):
        data = bytearray(whole)
        changed: list[Span] = []
        for _ in range(rng.choice((1, 1, 2))):
            kind = rng.choice(kinds)  # as often as any other, though there may be few of it
            some = [each for each in every if whole[each[0] : each[0] + 4] == kind]
            start, end = rng.choice(some)
            at = rng.randrange(start, end)
            width = min(rng.choice((1, 1, 1, 2, 4, 8)), end - at)
            value = rng.choice((*_VALUES, data[at] ^ 1 << rng.randrange(8)))
            words = (0, 256**width - 1, len(whole), rng.choice(every)[0])
            value = value if width == 1 else rng.choice(words) % 256**width
            data[at : at + width] = value.to_bytes(width, "little")
            changed.append((start, end))
        yield repaired(data, changed)
