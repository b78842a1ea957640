"""Describing episodes from the bytes of their shards: what HDF5 says, or HDF5 itself."""

from pathlib import Path

import numpy as np
import pytest
from known_episode import KnownEpisode

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import EpisodeNotFound, ShardMissing
from shardwriter.files.structure import Structure, Unfamiliar
from shardwriter.reading.description import EpisodeDescription, described


def record(directory: Path, compression: str | None = "gzip", *, adaptive: bool = False) -> Path:
    with DataExporter(
        "described",
        directory,
        neural_sampling_rate=3,
        chunk_size=32,  # so that columns have chunks with an index
        compression=compression,
        adaptive_compression=adaptive,
        progress=False,
    ) as exporter:
        for number in range(2):
            with exporter.start_episode(number) as episode:
                KnownEpisode(number).log(episode)
                summary = {"x": 1.5, "text": "é", "nested": {"list": [1, "a"], "none": None}}
                episode.end(True, summary=summary | {"array": np.arange(5)})
        with exporter.start_episode(2) as episode:  # one chunk, and a summary that is compressed
            episode.log_timestep(0, behavior={"x": 1.0})
            episode.end(True, summary={"large": np.arange(5_000)})
        exporter.start_episode(5)  # logs nothing
    return exporter.output_dir


def by_hdf5_alone(loader: ExperimentLoader) -> dict[int, EpisodeDescription]:
    def unfamiliar(_: int) -> tuple[Structure, str]:
        raise Unfamiliar

    episodes = [loader.get_episode(number) for number in loader.list_episodes()]
    return dict(described(episodes, unfamiliar))


@pytest.mark.parametrize(
    ("compression", "adaptive"), [("gzip", False), ("gzip", True), ("lzf", False), (None, False)]
)
def test_bytes_say_what_hdf5_says(tmp_path: Path, compression: str | None, adaptive: bool) -> None:
    with ExperimentLoader(record(tmp_path, compression, adaptive=adaptive)) as loader:
        quick, slow = dict(loader.describe()), by_hdf5_alone(loader)
        assert list(quick) == list(slow) == [0, 1, 2, 5]
        for number, found in quick.items():
            assert found.columns == slow[number].columns
            np.testing.assert_equal(found.metadata, slow[number].metadata)
            np.testing.assert_equal(found.metadata, loader.get_episode_summary(number))
        assert {column.compression for column in quick[2].columns} == {compression} or adaptive
        assert sum(column.stored_bytes for column in quick[0].columns) > 0


def test_hdf5_is_not_asked_about_shards_of_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExperimentLoader(record(tmp_path)) as loader:
        monkeypatch.delattr("shardwriter.reading.description._slowly")
        assert [number for number, _ in loader.describe([5, 0, 1])] == [5, 0, 1]


def test_a_changed_byte_and_a_lost_shard_are_errors_of_that_episode_alone(tmp_path: Path) -> None:
    directory = record(tmp_path)
    shards = directory / "shards"
    data = bytearray((shards / "episode_0001.h5").read_bytes())
    at = data.index(b"\0total_timesteps\0")
    data[at + 3] ^= 1
    (shards / "episode_0001.h5").write_bytes(data)
    (shards / "episode_0002.h5").unlink()
    with ExperimentLoader(directory) as loader:
        found = dict(loader.describe())
        assert isinstance(found[0], EpisodeDescription)
        assert not isinstance(found[1], EpisodeDescription)
        assert isinstance(found[2], ShardMissing)
        assert isinstance(found[5], EpisodeDescription)
        with pytest.raises(EpisodeNotFound):
            loader.describe([7])
