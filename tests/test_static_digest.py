"""A byte that changes in a shard is noticed by ``verify --deep``, or changes nothing read."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from merging import content

from merge import verify
from merge.checking import ShardJob, check_shards
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.files.static_digest import STATIC_DIGEST, static_digest
from shardwriter.recording.episode import Episode

# What no digest covers: of a shard alone its uuid, which a master knows.
NOT_NOTICED = {"@uuid"}


def fill(episode: Episode) -> None:
    episode.log_static_data("maze", {"name": "T-maze", "walls": np.arange(6.0), "n": [1, "a"]})
    for t in range(3):
        episode.log_timestep(t, behavior={"x": float(t)}, reward=1.0)
    episode.end(success=True, summary={"note": "left arm", "of": {"rat": "µ"}}, final_state=[1])


def small(folder: Path) -> Path:
    with DataExporter("small", folder, progress=False) as exporter:
        fill(exporter.start_episode(0))
    return exporter.output_dir


def read(path: Path) -> dict[str, object]:
    with h5py.File(path) as file:
        return content(file["/"])


def problems(path: Path) -> tuple[str, ...]:
    [check] = check_shards([ShardJob(path, path.parent, (), is_deep=True)])
    return tuple(map(str, check.problems))


@pytest.mark.parametrize("part", range(2))
def test_every_byte_of_a_shard_counts(tmp_path: Path, part: int) -> None:
    """Of every four bytes one, as all of them take a minute."""
    path = small(tmp_path) / "shards/episode_0000.h5"
    whole, before = path.read_bytes(), read(path)
    assert problems(path) == ()
    missed: set[str] = set()
    for spot in range(4 * part, len(whole), 8):
        data = bytearray(whole)
        data[spot] ^= 1 << spot // 4 % 8
        path.write_bytes(data)
        if not problems(path):
            after = read(path)
            missed |= {name for name in before | after if before.get(name) != after.get(name)}
    assert missed <= NOT_NOTICED


@pytest.mark.parametrize("text", [b"left arm", b"T-maze", "µ".encode(), b"completed"])
def test_a_text_that_changed_is_named(tmp_path: Path, text: bytes) -> None:
    directory = small(tmp_path)
    path = directory / "shards/episode_0000.h5"
    data = path.read_bytes()
    assert data.count(text) == 1
    path.write_bytes(data.replace(text, text[:-1] + bytes([text[-1] ^ 1])))
    assert verify(directory, workers=1).is_sound
    found = verify(directory, deep=True, workers=1)
    assert "texts and static data are not those that were recorded" in str(found)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"compression": None}])
def test_both_ways_of_writing_give_one_digest_of_what_is_read(
    tmp_path: Path, options: dict[str, object]
) -> None:
    with DataExporter("same", tmp_path, progress=False, **options) as exporter:  # type: ignore[arg-type]
        fill(exporter.start_episode(0))
    assert verify(exporter.output_dir, deep=True, workers=1).is_sound
    with h5py.File(exporter.output_dir / "shards/episode_0000.h5") as file:
        assert file["episodes/episode_0000"].attrs[STATIC_DIGEST].dtype == np.uint32
    with ExperimentLoader(exporter.output_dir) as loader:
        assert STATIC_DIGEST not in loader.get_episode(0).get_metadata()


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}])
def test_values_of_every_kind_are_read_as_they_were_written(
    tmp_path: Path, options: dict[str, int]
) -> None:
    odd = {
        "large": np.arange(100_000.0).reshape(100, 1000).T,
        "wide": np.array([1, 2.5], np.longdouble),
        "scalars": [True, None, 2**62, 1 + 2j, "", b"a\0", np.float16(2)],
        "empty": {"array": np.zeros((0, 3)), "list": [], "dict": {}},
        "other order": np.arange(4, dtype=">i4"),
        "octets": np.array([b"ab", b"c"]),
        "texts": [["ä", ""], ["", "x"]],
        "µ": 1,
    }
    with DataExporter("odd", tmp_path, progress=False, **options) as exporter:
        with exporter.start_episode(0) as episode:
            episode.log_static_data("maze", odd)
            for t in range(5):
                episode.log_timestep(t, behavior={"x": float(t)})
        with pytest.raises(ValueError, match="bad"), exporter.start_episode(1):
            raise ValueError("bad \udc80 text \ud800")
    assert verify(exporter.output_dir, deep=True, workers=1).is_sound


def test_a_shard_without_a_digest_is_sound(tmp_path: Path) -> None:
    directory = small(tmp_path)
    with h5py.File(directory / "shards/episode_0000.h5", "r+") as file:
        del file["episodes/episode_0000"].attrs[STATIC_DIGEST]
    assert problems(directory / "shards/episode_0000.h5") == ()


def test_the_documented_digest() -> None:
    """As docs/format.md says it, byte by byte."""
    objects = [
        ("b", {"kind": "str"}, np.array("µ", object)),
        ("", {"status": "completed", "_crc32": np.uint32(7)}, None),
        ("a", {}, np.array([1, 2], np.int16)),
    ]
    expected = b"\0status\0completed\0" + b"a\0\1\0\2\0" + b"b\0kind\0str\0" + "µ\0".encode()
    assert static_digest(objects) == zlib.crc32(expected)
