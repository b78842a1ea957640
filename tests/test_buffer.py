"""The buffer: rows and records that exist once committed, seen from another mapping."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from shardwriter.errors import BufferDamaged
from shardwriter.files.buffer import Buffer
from shardwriter.files.schema import Column, Table

pytestmark = pytest.mark.leaves_unfinished

START = {"episode": 3, "owner": {"pid": 1}}
COLUMNS = (Column("x", np.dtype("f4"), (3,)), Column("n", np.dtype("i8")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "episode_0003.buffer"


def test_a_reader_sees_records_in_order(path: Path) -> None:
    buffer = Buffer.create(path, START)
    reader = Buffer.open(path)
    buffer.add_record("static", b"first" * 5_000)
    buffer.add_record("end", b"")
    found = [(record.kind, record.payload) for record, _ in reader.read_new()]
    assert [kind for kind, _ in found] == ["start", "static", "end"]
    assert found[1][1] == b"first" * 5_000
    assert reader.read_new() == []
    buffer.add_record("static", b"second")
    assert [record.payload for record, _ in reader.read_new()] == [b"second"]


def test_rows_are_shared_once_they_are_counted(path: Path) -> None:
    buffer = Buffer.create(path, START)
    table = Table.of("behavior", COLUMNS, 10)
    new = buffer.add_tables([table], [2], [0])
    reader = Buffer.open(path)
    assert [record.kind for record, _ in reader.read_new()] == ["start"]
    new.commit()
    ((record, (slots,)),) = reader.read_new()
    assert record.kind == "tables"
    assert slots.table == table
    assert (len(slots.slots), slots.rows) == (2, 0)
    timesteps, x, n = new.slots[0].slots[1]
    timesteps[4], x[4], n[4] = 7, [1, 2, 3], -5
    new.slots[0].counter[0] = 15
    assert slots.rows == 15
    assert slots.slots[1][0][4] == 7
    assert slots.slots[1][1][4].tolist() == [1, 2, 3]
    assert slots.slots[1][2][4] == -5
    assert [column.shape for column in slots.slots[0]] == [(10,), (10, 3), (10,)]


def test_an_existing_file_is_left_alone(path: Path) -> None:
    path.write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError):
        Buffer.create(path, START)
    assert path.read_bytes() == b"somebody else's"


def test_one_process_at_a_time_has_the_lock(path: Path) -> None:
    buffer = Buffer.create(path, START)
    first, second = Buffer.open(path), Buffer.open(path)
    assert first.lock()
    assert not second.lock()
    first.unlock()
    assert second.lock()
    del buffer


def test_the_file_goes_and_the_mapping_stays(path: Path) -> None:
    buffer = Buffer.create(path, START)
    new = buffer.add_tables([Table.of("behavior", COLUMNS, 10)], [2], [0])
    assert buffer.is_linked
    buffer.unlink()
    assert not path.exists()
    assert not buffer.is_linked
    new.slots[0].slots[0][0][:] = 5
    assert new.slots[0].slots[0][0].tolist() == [5] * 10


@pytest.mark.parametrize("harm", ["empty", "text", "cut", "payload", "link"])
def test_what_is_no_buffer_is_refused(path: Path, harm: str) -> None:
    buffer = Buffer.create(path, START)
    buffer.add_record("static", b"something")
    data = bytearray(path.read_bytes())
    if harm == "empty":
        data = bytearray()
    if harm == "text":
        data = bytearray(b"not a buffer" * 1000)
    if harm == "cut":
        data = data[: len(data) - 4096]
    if harm == "payload":
        data[data.index(b"episode")] ^= 1
    if harm == "link":
        data[8:16] = (2**40).to_bytes(8, "little")
    other = path.with_name("harmed.buffer")
    other.write_bytes(data)
    with pytest.raises(BufferDamaged) as caught:  # noqa: PT012  (either call may refuse)
        reader = Buffer.open(other)
        reader.read_new()
        reader.read_new()
    assert str(caught.value).startswith(f"{other}: not a usable episode buffer: ")


def test_records_are_read_while_they_are_added(path: Path) -> None:
    """A reader that is faster or slower than the file grows sees no damage."""
    buffer = Buffer.create(path, START)
    reader = Buffer.open(path)
    count = 400
    payloads = [os.urandom(i * 37 % 9000) for i in range(count)]

    def add() -> None:
        for payload in payloads:
            buffer.add_record("static", payload)

    thread = threading.Thread(target=add)
    thread.start()
    found: list[bytes] = []
    while len(found) < count + 1:
        found += [record.payload for record, _ in reader.read_new()]
    thread.join()
    assert found[1:] == payloads
