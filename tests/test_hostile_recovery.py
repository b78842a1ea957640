"""Directories that somebody else made, brought to an end or watched: nothing outside is touched."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from merging import record, shard

from merge import merge_experiment
from shardwriter import ExperimentLoader
from shardwriter.errors import BufferDamaged, ShardDamaged, ShardOutside
from shardwriter.files.buffer import Buffer
from shardwriter.files.layout import buffer_name, run_note_path, scratch_name
from shardwriter.files.run_note import joined
from shardwriter.recovery import RecoveredEpisode, recover
from shardwriter.system.process import Identity
from shardwriter.watch import Watcher

pytestmark = pytest.mark.leaves_unfinished

DEAD = Identity.own().label.rpartition("-")[0] + "-1"  # a process that never was


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"), range(3))


@pytest.fixture
def experiment(recorded: Path, tmp_path: Path) -> Path:
    target = tmp_path / "mine" / recorded.name
    shutil.copytree(recorded, target)
    return target


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


def one(experiment: Path) -> RecoveredEpisode:
    (result,) = recover(experiment)
    return result


# -- links --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_published", [True, False])
def test_only_a_buffer_is_removed_by_its_link(
    experiment: Path, victim: Path, is_published: bool
) -> None:
    link = experiment / "shards" / "episode_0001.buffer"
    link.symlink_to(victim)
    if not is_published:
        shard(experiment, 1).unlink()
    result = one(experiment)
    assert result.outcome == "failed"
    assert str(victim) in result.reasons[0]
    assert victim.read_bytes() == b"precious"
    assert link.is_symlink()
    Watcher(experiment).snapshot()
    with ExperimentLoader(experiment, live=True) as loader:
        assert 2 in loader.list_episodes()


def test_a_buffer_elsewhere_is_removed_but_not_what_a_link_there_names(
    experiment: Path, victim: Path, tmp_path: Path
) -> None:
    link = experiment / "shards" / "episode_0001.buffer"
    there = tmp_path / buffer_name(DEAD, "ff")
    there.write_bytes(b"")
    link.symlink_to(there)
    assert one(experiment).outcome == "recovered"
    assert not there.exists()
    there.symlink_to(victim)
    link.symlink_to(there)
    assert one(experiment).outcome == "failed"
    assert victim.exists()
    assert there.is_symlink()


def test_a_scratch_folder_that_is_a_link_is_left_alone(experiment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "episode_0001.buffer").write_bytes(b"precious")
    scratch = experiment / scratch_name(DEAD, "ff")
    scratch.symlink_to(other)
    (experiment / "shards" / "episode_0001.buffer").symlink_to(scratch / "episode_0001.buffer")
    assert one(experiment).outcome == "failed"
    assert (other / "episode_0001.buffer").read_bytes() == b"precious"


def test_a_folder_of_shards_that_is_a_link_is_refused(experiment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "episode_10007.buffer").write_bytes(b"precious")
    (experiment / "shards" / "07").symlink_to(other)
    for work in (recover, merge_experiment):
        with pytest.raises(ShardOutside, match=r"shards/07.*put the folder itself"):
            work(experiment)
    assert (other / "episode_10007.buffer").exists()


def test_shards_as_a_whole_may_be_a_link(experiment: Path, tmp_path: Path) -> None:
    (experiment / "shards").rename(tmp_path / "elsewhere")
    (experiment / "shards").symlink_to(tmp_path / "elsewhere")
    (experiment / "shards" / "episode_0001.buffer").write_bytes(b"")
    assert one(experiment).outcome == "recovered"
    merge_experiment(experiment)


# -- parts and journals -------------------------------------------------------------------


def part(experiment: Path, timesteps: Any = (0, 1, 2), **options: Any) -> None:
    """Put a part of one table in the place of the shard of episode 1."""
    shard(experiment, 1).unlink(missing_ok=True)
    path = experiment / "shards" / "episode_0001.h5.part"
    with h5py.File(path, "w", libver=("v110", "v114")) as file:
        table = file.create_group("episodes/episode_0001/behavior")
        dataset = table.create_dataset("timesteps", data=timesteps, **options)
        if options.get("fletcher32"):
            dataset.id.write_direct_chunk((0,), b"ab")


def journal(size: int, offset: int, data: bytes = b"OWNED", count: int = 1) -> bytes:
    body = struct.pack("<QQQQ", size, count, offset, len(data)) + data
    return b"SWREDO\0\1" + zlib.crc32(body).to_bytes(8, "little") + body


def test_a_journal_writes_through_no_link(experiment: Path, victim: Path) -> None:
    shard(experiment, 1).unlink()
    shards = experiment / "shards"
    (shards / "episode_0001.h5.part").symlink_to(victim)
    (shards / "episode_0001.h5.journal").write_bytes(journal(20, 0))
    assert one(experiment).outcome == "failed"
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("suffix", ["part", "journal"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_file_stands_for_no_part(
    experiment: Path, victim: Path, suffix: str, kind: str
) -> None:
    part(experiment)
    path = experiment / "shards" / f"episode_0001.h5.{suffix}"
    path.unlink(missing_ok=True)
    other = shard(experiment, 2).read_bytes()
    if kind == "link":
        path.symlink_to(shard(experiment, 2))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    result = one(experiment)
    assert result.outcome == "failed" or suffix == "journal"
    assert shard(experiment, 2).read_bytes() == other


@pytest.mark.parametrize(
    "content",
    [journal(1 << 63, 0), journal(20, 1 << 63), journal(20, 0, count=1 << 60)],
    ids=["size", "offset", "count"],
)
def test_a_journal_of_no_file_is_noted(experiment: Path, content: bytes) -> None:
    part(experiment, chunks=(3,))
    (experiment / "shards" / "episode_0001.h5.journal").write_bytes(content)
    result = one(experiment)
    assert result.outcome == "recovered"
    assert "of no file that there can be" in " ".join(result.reasons)


def test_what_is_hidden_under_a_known_name_is_written_through_no_link(
    experiment: Path, victim: Path
) -> None:
    part(experiment)
    shards = experiment / "shards"
    for name in (".episode_0001.h5.journal.tmp", ".episode_0001.h5.tmp"):
        (shards / name).symlink_to(victim)
    recover(experiment)
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["shards/damaged", "experiment"])
def test_no_folder_of_the_experiment_leads_elsewhere(
    experiment: Path, tmp_path: Path, name: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "episode_0001.h5.part").write_bytes(b"precious")
    shutil.rmtree(experiment / name, ignore_errors=True)
    (experiment / name).symlink_to(other)
    part(experiment, chunks=(3,))
    if name == "experiment":
        with pytest.raises(ShardOutside, match="experiment: expected a file inside"):
            recover(experiment)
    else:
        assert one(experiment).outcome == "failed"
    assert [path.name for path in other.iterdir()] == ["episode_0001.h5.part"]
    assert (other / "episode_0001.h5.part").read_bytes() == b"precious"


def test_an_experiment_whose_own_folder_is_a_file_is_refused(experiment: Path) -> None:
    shutil.rmtree(experiment / "experiment")
    (experiment / "experiment").write_bytes(b"")
    with pytest.raises(ShardDamaged, match="folder: cannot be opened"):
        recover(experiment)


def test_a_folder_in_the_place_of_a_hidden_file_stays(experiment: Path) -> None:
    hidden = experiment / "experiment" / f".x~{DEAD}.tmp"
    hidden.mkdir()
    assert recover(experiment) == []
    assert hidden.is_dir()


# -- columns of a part --------------------------------------------------------------------


def outcome(experiment: Path) -> RecoveredEpisode:
    """Recover, with an intact episode 2 beside the one that is not."""
    shards = experiment / "shards"
    shutil.copyfile(shard(experiment, 2), shards / "episode_0002.h5.part")
    shard(experiment, 2).unlink()
    first, second = recover(experiment)
    assert (first.episode, second.episode, second.outcome) == (1, 2, "recovered")
    return first


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (3,), "fletcher32": True},
        {},  # contiguous
        {"timesteps": 5},  # scalar
        {"external": [("/etc/hostname", 0, 24)]},
        {"timesteps": [b"a", b"b"], "dtype": h5py.string_dtype(), "chunks": (2,)},
        {"timesteps": np.zeros(3, [("a", "<i8")]), "chunks": (3,)},
    ],
)
def test_a_column_that_no_part_has_is_refused(experiment: Path, options: dict[str, Any]) -> None:
    part(experiment, **options)
    result = outcome(experiment)
    assert result.outcome == "failed"
    assert "expected" in result.reasons[0]
    assert "timesteps" in result.reasons[0]


def test_a_filter_from_a_plugin_path_is_never_looked_for(experiment: Path) -> None:
    part(experiment)
    with h5py.File(experiment / "shards" / "episode_0001.h5.part", "r+") as file:
        table = file["episodes/episode_0001/behavior"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((3,))
        properties.set_filter(h5py.h5z.FILTER_NBIT, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((3,), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(table.id, b"x", h5py.h5t.NATIVE_INT64, space, properties)
        del table["timesteps"]
        table["x"][:] = 1
        table.move("x", "timesteps")
    assert "expected a filter of this package" in outcome(experiment).reasons[0]


def group_for_a_column(table: h5py.Group) -> None:
    table.create_group("x")


def type_for_a_column(table: h5py.Group) -> None:
    table["x"] = np.dtype("<i8")


def link_for_a_column(table: h5py.Group) -> None:
    table["x"] = h5py.ExternalLink("/etc/hostname", "/x")


def no_timesteps(table: h5py.Group) -> None:
    table.move("timesteps", "x")


def table_for_an_episode(table: h5py.Group) -> None:
    episodes = table.file["episodes"]
    del episodes["episode_0001"]
    episodes["episode_0001"] = np.arange(3)


def dataset_for_a_table(table: h5py.Group) -> None:
    table.parent["rewards"] = np.arange(3)


def dataset_for_events(table: h5py.Group) -> None:
    table.parent["events"] = np.arange(3)


@pytest.mark.parametrize(
    "change",
    [
        group_for_a_column,
        type_for_a_column,
        link_for_a_column,
        no_timesteps,
        table_for_an_episode,
        dataset_for_a_table,
        dataset_for_events,
    ],
)
def test_an_object_of_another_kind_is_refused(
    experiment: Path, change: Callable[[h5py.Group], None]
) -> None:
    part(experiment, chunks=(3,))
    with h5py.File(experiment / "shards" / "episode_0001.h5.part", "r+") as file:
        change(file["episodes/episode_0001/behavior"])
    result = outcome(experiment)
    assert result.outcome == "failed"
    assert "expected" in result.reasons[0]


@pytest.mark.parametrize("value", [10**15, -5, float("inf"), float("nan"), "x", [1, 2]])
@pytest.mark.parametrize("name", ["timesteps", "late"])
def test_a_first_row_that_is_none_ends(experiment: Path, name: str, value: Any) -> None:
    part(experiment, np.arange(30), chunks=(3,), maxshape=(None,))
    with h5py.File(experiment / "shards" / "episode_0001.h5.part", "r+") as file:
        table = file["episodes/episode_0001/behavior"]
        table.create_dataset("late", data=np.arange(30.0), chunks=(3,), maxshape=(None,))
        if name == "timesteps" and value == 10**15:
            for column in table.values():
                column.resize(10**15, axis=0)
                column.attrs["first_row"] = value
        table[name].attrs["first_row"] = value
    assert outcome(experiment).outcome in ("recovered", "failed")


def test_a_published_shard_is_vetted_before_it_is_described(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (experiment / "shards" / "episode_0001.buffer").write_bytes(b"")
    seen: list[Path] = []

    def vet(path: Path, *_: str) -> None:
        seen.append(path)
        raise ShardDamaged(path, "structure", "reading it crashes the HDF5 library")

    monkeypatch.setattr("shardwriter.files.quick_description.vet", vet)
    with h5py.File(shard(experiment, 1), "r+") as file:
        file["episodes/episode_0001/unfamiliar"] = h5py.Empty("f4")
    result = one(experiment)
    assert (result.outcome, seen) == ("failed", [shard(experiment, 1)])
    assert (experiment / "shards" / "episode_0001.buffer").exists()


# -- buffers ------------------------------------------------------------------------------


def buffer(experiment: Path, *records: tuple[int, str]) -> Path:
    """Put a buffer with records, each of a kind and a text, in the place of the shard."""
    shard(experiment, 1).unlink()
    data = bytearray(b"SWBUF\0\0\1" + (4096).to_bytes(8, "little")).ljust(4096, b"\0")
    for i, (kind, text) in enumerate(records):
        payload = text.encode()
        extent = -(-(64 + len(payload) + 100_000 * (kind == 1)) // 4096) * 4096
        following = len(data) + extent if i < len(records) - 1 else 0
        crc = zlib.crc32(payload)
        header = struct.pack("<8Q", following, kind, len(payload), extent, crc, 0, 0, 0)
        data += (header + payload).ljust(extent, b"\0")
    path = experiment / "shards" / "episode_0001.buffer"
    path.write_bytes(data)
    return path


OWN = {**Identity.own().to_json(), "pid": 1, "start_ticks": 1}
START = json.dumps(
    {"owner": OWN, "seed": 0, "start_time": "", "compression": {}, "flush_interval_s": 1.0}
)


def tables(text: str = "", **changes: Any) -> tuple[int, str]:
    entry = {"name": "behavior", "rows_per_chunk": 10, "slots": 4, "first_row": 0}
    column = ["timesteps", "<i8", [], None]
    return 1, text or json.dumps([{**entry, "columns": [column], **changes}])


def assert_goes_on(experiment: Path) -> None:
    """Watch and recover: what is wrong with episode 1 ends neither."""
    Watcher(experiment).snapshot()
    recover(experiment, dry_run=True)
    first = outcome(experiment)
    assert first.outcome in ("failed", "removed", "recovered")
    assert first.reasons
    assert all(len(reason) < 1000 for reason in first.reasons)


def test_a_whole_buffer_made_here_is_recovered(experiment: Path) -> None:
    buffer(experiment, (0, START), tables())
    first = outcome(experiment)
    assert (first.outcome, first.status, first.reasons) == ("recovered", "empty", ())


@pytest.mark.parametrize(
    "start",
    [
        "1",
        '{"owner": "x"}',
        "{",
        "[" * 200_000,
        json.dumps({"owner": {**OWN, "other": 1}}),
        json.dumps({"owner": {**OWN, "pid": "\0"}}),
        json.dumps({"owner": {"pid": 1}}),
        json.dumps({"owner": {**OWN, "host": []}}),
        json.dumps({"owner": OWN}),
        json.dumps({**json.loads(START), "compression": 1}),
    ],
    ids=range(10),
)
def test_a_start_record_that_is_none_ends_one_episode(experiment: Path, start: str) -> None:
    buffer(experiment, (0, start), tables())
    assert_goes_on(experiment)


@pytest.mark.parametrize(
    "record",
    [
        tables(rows_per_chunk=-5),
        tables(rows_per_chunk=0),
        tables(rows_per_chunk=1 << 62, columns=[["timesteps", "<i8", [0], None]]),
        tables(slots=0),
        tables(slots=-3),
        tables(slots=10**9, columns=[["timesteps", "<i8", [0], None]]),
        tables(first_row=-1),
        tables('[{"name": "x", "rows_per_chunk": 1, "columns": [], "slots": 1e400}]'),
        tables("[" * 200_000),
        tables("1"),
        tables(columns=[]),
        tables(columns=[["timesteps", "O", [], None]]),
        tables(columns=[["timesteps", "<i8", [-1], None]]),
        tables(columns=[["timesteps", "M8[s]", [], None]]),
        tables(columns=[["timesteps", "x" * 10_000, [], None]]),
        (2, "[]"),
        (2, "\0" * 8 + "[]"),
        (3, "[]"),
        (3, "[" * 200_000),
    ],
    ids=range(19),
)
def test_a_record_that_is_none_ends_one_episode(experiment: Path, record: tuple[int, str]) -> None:
    path = buffer(experiment, (0, START), record)
    if record[0] == 1:
        reading = Buffer.open(path)
        assert [found.kind for found, _ in reading.read_new()] == ["start"]
        with pytest.raises(BufferDamaged):
            reading.read_new()
    assert_goes_on(experiment)


@pytest.mark.parametrize("kind", range(4))
def test_a_payload_of_a_sparse_buffer_is_not_read(experiment: Path, kind: int) -> None:
    path = buffer(experiment, (kind, START))
    size = 1 << 40
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(struct.pack("<8Q", 0, kind, size - 65536, size - 4096, 0, 0, 0, 0))
        file.truncate(size)
    with pytest.raises(BufferDamaged, match="has 1099511562240 bytes"):
        Buffer.open(path).read_new()
    assert_goes_on(experiment)


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_a_buffer_that_is_no_file_ends_one_episode(experiment: Path, kind: str) -> None:
    path = experiment / "shards" / "episode_0001.buffer"
    shard(experiment, 1).unlink()
    (path.mkdir if kind == "folder" else lambda: os.mkfifo(path))()
    with pytest.raises(BufferDamaged):
        Buffer.open(path)
    Watcher(experiment).snapshot()
    outcome(experiment)


# -- notes of runs ------------------------------------------------------------------------


def note(experiment: Path, tag: str, ranges: Any) -> Path:
    path = run_note_path(experiment, Identity.own().label, tag)
    path.write_text(json.dumps({"episodes": ranges}))
    return path


def test_ranges_are_counted_and_not_made_into_ids(experiment: Path) -> None:
    for i in range(4):
        note(experiment, f"{i:08x}", [[i * 10**6, (i + 1) * 10**6 + 5]])
    watcher = Watcher(experiment)
    assert watcher.snapshot().expected == 4 * 10**6 + 5
    note(experiment, "0000000f", [[10**15, 10**15 + 1]])
    assert watcher.snapshot().expected == 4 * 10**6 + 6


def test_notes_of_too_many_ranges_are_left_out(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardwriter.files.run_note._MOST_RANGES", 10)
    for i in range(20):
        note(experiment, f"{i:08x}", [[10 * i, 10 * i + 1], [10 * i + 2, 10 * i + 3]])
    expected = Watcher(experiment).snapshot().expected
    assert expected is not None
    assert 10 <= expected <= 13  # of five notes, and the three episodes that are there


def test_joined_ranges_hold_the_same_ids() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        starts = rng.integers(0, 50, 8)
        ranges = [
            range(start, start + size)
            for start, size in zip(starts, rng.integers(1, 9, 8), strict=True)
        ]
        found = joined(ranges)
        assert [i for each in found for i in each] == sorted({i for each in ranges for i in each})
