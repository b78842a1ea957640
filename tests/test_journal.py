"""The redo journal: all of a change, or nothing, however often it is applied."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from shardwriter.errors import ShardDamaged
from shardwriter.files.journal import Overlay, replay

OLD = bytes(range(200))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def changed(overlay: Overlay) -> bytes:
    """Write into an overlay: over old bytes, over its own, and beyond the end."""
    overlay.seek(10)
    overlay.write(memoryview(b"a" * 20))
    overlay.seek(20)
    overlay.write(memoryview(b"b" * 20))
    overlay.seek(5, os.SEEK_END)
    overlay.write(memoryview(b"end"))
    return OLD[:10] + b"a" * 10 + b"b" * 20 + OLD[40:] + bytes(5) + b"end"


def whole(overlay: Overlay) -> bytes:
    size = overlay.seek(0, os.SEEK_END)
    overlay.seek(0)
    found = bytearray(size)
    assert overlay.readinto(memoryview(found)) == size
    return bytes(found)


def test_an_overlay_shows_its_writes_and_keeps_the_file(file: Path) -> None:
    with Overlay(file) as overlay:
        expected = changed(overlay)
        assert whole(overlay) == expected
        overlay.seek(15)
        middle = bytearray(10)
        overlay.readinto(memoryview(middle))
        assert bytes(middle) == expected[15:25]
    assert file.read_bytes() == OLD


def test_commit_applies_all_and_leaves_no_journal(file: Path) -> None:
    with Overlay(file) as overlay:
        expected = changed(overlay)
        overlay.commit(file.with_name("journal"))
    assert file.read_bytes() == expected
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_a_truncation_is_part_of_the_change(file: Path) -> None:
    with Overlay(file) as overlay:
        overlay.truncate(50)
        overlay.commit(file.with_name("journal"))
    assert file.read_bytes() == OLD[:50]


def test_a_journal_may_be_applied_any_number_of_times(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = file.with_name("journal")
    with Overlay(file) as overlay:
        expected = changed(overlay)
        # Killed after publishing the journal, before applying it.
        monkeypatch.setattr("shardwriter.files.journal.replay", lambda *_: None)
        overlay.commit(journal)
    assert file.read_bytes() == OLD
    saved = journal.read_bytes()
    for _ in range(3):
        journal.write_bytes(saved)
        replay(journal, file)
        assert file.read_bytes() == expected
        assert not journal.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "magic", "empty"])
def test_a_damaged_journal_is_refused(
    file: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = file.with_name("journal")
    with Overlay(file) as overlay:
        changed(overlay)
        monkeypatch.setattr("shardwriter.files.journal.replay", lambda *_: None)
        overlay.commit(journal)
    data = bytearray(journal.read_bytes())
    if damage == "flipped":
        data[-1] ^= 1
    if damage == "magic":
        data[0] ^= 1
    journal.write_bytes(data[: {"cut": 60, "empty": 0}.get(damage, len(data))])
    with pytest.raises(ShardDamaged, match="journal: it fails its checksum"):
        replay(journal, file)
    assert file.read_bytes() == OLD


def test_hdf5_works_through_an_overlay(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file["kept"] = np.arange(1000)
    before = path.read_bytes()
    overlay = Overlay(path)
    with h5py.File(overlay, "r+") as file:
        file["added"] = np.arange(5000.0)
        del file["kept"]
    assert path.read_bytes() == before
    overlay.commit(tmp_path / "journal")
    overlay.close()
    with h5py.File(path, "r") as file:
        assert list(file) == ["added"]
        np.testing.assert_array_equal(file["added"], np.arange(5000.0))
