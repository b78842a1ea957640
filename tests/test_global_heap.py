"""The search for global heaps that would keep HDF5 busy for ever: compiled and in Python."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from shardwriter.errors import ShardDamaged
from shardwriter.files import global_heap
from shardwriter.files.global_heap import check_heaps

HEAD = 16
LOOP = bytes(16)  # free space of no length


def heap(*entries: bytes, size: int | None = None) -> bytes:
    """Return a heap of entries, head included."""
    body = b"".join(entries)
    return b"GCOL\x01\0\0\0" + struct.pack("<Q", size or HEAD + len(body)) + body


def entry(data: bytes, number: int = 1) -> bytes:
    return struct.pack("<HHIQ", number, 0, 0, len(data)) + data + bytes(-len(data) % 8)


def free(size: int) -> bytes:
    return struct.pack("<HHIQ", 0, 0, 0, size) + bytes(size - HEAD)


SOUND = heap(entry(b"text"), entry(b"x" * 100), free(64))
ENDLESS = heap(entry(b"text"), LOOP)


def is_refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        check_heaps(path, whole=True)
    except ShardDamaged:
        return True
    return False


def blocks_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_heap, "_BLOCK_BYTES", size)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("block", [32, 100, 1000])
@pytest.mark.parametrize("endless", [ENDLESS, heap(entry(b"x" * 500), LOOP)])
def test_heaps_that_lie_across_blocks_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, endless: bytes
) -> None:
    blocks_of(block, monkeypatch)
    for before in range(120):
        data = SOUND + b"G" * before
        assert not is_refused(tmp_path / "file", data + SOUND + b"GCOL")
        assert is_refused(tmp_path / "file", data + endless + SOUND)


@pytest.mark.usefixtures("both_ways")
def test_what_a_heap_does_not_have_is_not_searched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (
        b"",
        SOUND[:20],
        ENDLESS[: HEAD + 24 + 15],  # cut off within the entry
        heap(entry(b""), size=HEAD + 16) + LOOP,
        heap(size=2**64 - 1),
        heap(entry(b"x"), struct.pack("<HHIQ", 1, 0, 0, 2**64 - 1), size=2**64 - 1) + LOOP,
        heap(struct.pack("<HHIQ", 0, 0, 0, 2**64 - 8)) + LOOP,
    ):
        assert not is_refused(path, data)
    assert is_refused(path, heap(entry(b""), LOOP, size=2**64 - 1))


def _changed(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(4)):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 8, 16, 24, 255))
    return bytes(data)


@pytest.mark.skipif(global_heap.compiled is None, reason="the package was built without a compiler")
def test_both_ways_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    pieces: list[Callable[[], bytes]] = [
        lambda: SOUND,
        lambda: ENDLESS,
        lambda: heap(entry(rng.randbytes(rng.randrange(60)), rng.randrange(3)), free(16)),
        lambda: heap(entry(SOUND), size=rng.randrange(200)),
        lambda: b"GCOL\x01"[: rng.randrange(6)] * rng.randrange(4),
        lambda: rng.randbytes(rng.randrange(300)),
    ]
    found = []
    for _ in range(1500):
        blocks_of(rng.choice((32, 57, 320, 4096)), monkeypatch)
        data = bytearray(b"-" + b"".join(rng.choice(pieces)() for _ in range(rng.randrange(9))))
        changed = _changed(data, rng)
        outcomes = [is_refused(tmp_path / "file", changed)]
        with monkeypatch.context() as pure:
            pure.setattr(global_heap, "compiled", None)
            outcomes.append(is_refused(tmp_path / "file", changed))
        assert outcomes[0] == outcomes[1], changed
        found += outcomes
    assert 0.1 < sum(found) / len(found) < 0.9


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("step", [48, 4096])
def test_heaps_within_heaps_do_not_keep_the_search_busy(tmp_path: Path, step: int) -> None:
    """Each of them goes on to the file's end, so that going through them one by one is endless."""
    number = (1 << 20) // step
    size = number * step
    parts = [
        entry(heap(size=size - i * step).ljust(step - HEAD - 16, b"\0"), 2)
        + struct.pack("<HHIQ", 1, 0, 0, 0)
        for i in range(number)
    ]
    assert len(parts[0]) == step
    assert is_refused(tmp_path / "file", b"".join(parts))


def test_a_search_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(SOUND * 20_000)
    tracemalloc.start()
    try:
        check_heaps(path, whole=True)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size // 4
    finally:
        tracemalloc.stop()
