"""Reading back: windows, what is absent, and shards that are not what they were."""

import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import KnownEpisode, assert_same, tables_by_loader

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import (
    ConfigError,
    EpisodeNotFound,
    ExperimentNotFound,
    FormatError,
    MasterStale,
    ShardDamaged,
    ShardMissing,
    ShardWriterError,
    TooManyOpenFiles,
)
from shardwriter.reading.recorded_episode import RecordedEpisode

KNOWN = KnownEpisode(2, steps=300)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record a full episode, an empty one and one of another length."""
    directory = tmp_path_factory.mktemp("loader")
    with DataExporter(
        "known", directory, progress=False, neural_sampling_rate=3, chunk_size=32
    ) as exporter:
        with exporter.start_episode(2) as episode:
            KNOWN.log(episode)
        exporter.start_episode(5).end()
        with exporter.start_episode(12) as episode:
            KnownEpisode(12).log(episode)
    return exporter.output_dir


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    """Return a copy of the experiment, to be harmed."""
    return Path(shutil.copytree(recorded, tmp_path / "copy"))


def every_getter(episode: RecordedEpisode) -> list[Any]:
    return [
        episode.get_metadata,
        episode.get_neural_states,
        episode.get_spikes,
        episode.get_spikes_as_events,
        episode.get_behavior,
        episode.get_rewards,
        episode.get_weight_changes,
        episode.get_events,
        lambda: episode.get_events("lap"),
        episode.get_static_data,
        lambda: episode.get_static_data("maze"),
        episode.get_final_state,
    ]


WINDOWS = [
    (None, None), (0, 10**9), (20, 100), (14, 15), (100, None), (None, 100), (50, 50), (60, 20),
    (-5, 14), (314, 315), (10**6, None),
]  # fmt: skip


@pytest.mark.parametrize(("start", "stop"), WINDOWS)
def test_a_window_holds_its_timesteps(recorded: Path, start: int | None, stop: int | None) -> None:
    low = -(2**63) if start is None else start
    high = 2**63 - 1 if stop is None else stop
    with ExperimentLoader(recorded) as loader:
        episode = loader.get_episode(2)
        tables = {
            "neural_states": episode.get_neural_states(start, stop),
            "spikes": episode.get_spikes(start, stop),
            "behavior": episode.get_behavior(start=start, stop=stop),
            "rewards": episode.get_rewards(start, stop),
            "weight_changes": episode.get_weight_changes(start, stop),
            "events/lap": episode.get_events("lap", start, stop),
            "events/bump": episode.get_events(None, start, stop)["bump"],
        }
        events = episode.get_spikes_as_events(start, stop)
    for table, found in tables.items():
        timesteps = KNOWN.tables[f"{table}/timesteps"]
        inside = (timesteps >= low) & (timesteps < high)
        for name, values in found.items():
            if name == "deltas":
                continue
            expected = np.array(KNOWN.tables[f"{table}/{name}"])[inside]
            np.testing.assert_array_equal(values, expected)
    spikes = tables["spikes"]
    flat = [(t, i) for t, ids in events for i in ids.tolist()]
    assert flat == list(zip(spikes["timesteps"], spikes["neuron_ids"], strict=True))


def test_what_was_not_logged_is_empty_and_of_the_right_form(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        episode = loader.get_episode(5)
        for columns, dtypes in [
            (episode.get_neural_states(), {"timesteps": "int64"}),
            (episode.get_behavior(3, 7), {"timesteps": "int64"}),
            (episode.get_spikes(), {"timesteps": "int64", "neuron_ids": "int32"}),
            (episode.get_rewards(), {"timesteps": "int64", "values": "float64"}),
            (episode.get_events("lap"), {"timesteps": "int64"}),
        ]:
            assert {name: str(values.dtype) for name, values in columns.items()} == dtypes
            assert all(len(values) == 0 for values in columns.values())
        changes = episode.get_weight_changes()
        assert {"timesteps", "old_weights", "new_weights", "deltas"} <= set(changes)
        assert len(changes["deltas"]) == 0
        assert episode.get_spikes_as_events() == []
        assert (episode.get_events(), episode.get_static_data()) == ({}, {})
        assert (episode.get_static_data("maze"), episode.get_final_state()) == ({}, {})
        assert episode.get_metadata()["status"] == "empty"
        assert (loader.get_config(), loader.get_network_structure()) == ({}, {})


def test_an_unknown_episode_is_an_error_that_names_those_there_are(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        for episode in (0, 3, -1, "2"):
            with pytest.raises(EpisodeNotFound) as caught:
                loader.get_episode(episode)
            assert str(caught.value) == (
                f"{loader.path}: expected one of the episodes 2, 5, 12, got {episode!r}"
            )
        assert [episode.id for episode in loader] == loader.list_episodes() == [2, 5, 12]
        assert len(loader) == 3


def test_directory_and_master_are_one(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recorded)
    for path in (
        recorded,
        str(recorded),
        recorded / "experiment_data.h5",
        ".",
        "experiment_data.h5",
    ):
        with ExperimentLoader(path) as loader:
            assert loader.get_metadata()["episode_count"] == 3
            assert len(loader.get_episode(12).get_behavior()["timesteps"]) == 60


def test_what_is_no_experiment_is_said(recorded: Path, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5")
    (copy / "experiment_data.h5").unlink()
    for path, kind, text in [
        (tmp_path / "gone", ExperimentNotFound, "gone: expected an experiment's directory or"),
        (tmp_path, ExperimentNotFound, "give the directory of one"),
        (copy, ExperimentNotFound, f"run `shardwriter merge {copy}`"),
        (tmp_path / "text.h5", FormatError, "text.h5: expected an HDF5 file"),
        (recorded / "shards" / "episode_0002.h5", FormatError, "expected a master"),
    ]:
        with pytest.raises(kind) as caught:
            ExperimentLoader(path)
        assert text in str(caught.value)


def test_a_closed_loader_does_not_say_that_nothing_was_saved(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        loader.get_config()
    for call in (loader.get_metadata, loader.get_config, loader.list_checkpoints):
        with pytest.raises(ConfigError, match="expected an open one, got 'a closed one'"):
            call()
    with pytest.raises(ConfigError, match="expected an open one"):
        loader.get_network_structure()


def test_what_is_asked_for_wrongly_is_said(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        with pytest.raises(ExperimentNotFound, match="one of the checkpoints none, got 'best'"):
            loader.get_checkpoint("best")
        with pytest.raises(ConfigError, match="`shardwriter info` lists them"):
            loader.concat("behaviour/position")
        with pytest.raises(ConfigError, match="start: expected a timestep, an int, got"):
            loader.get_episode(2).get_behavior(start=1.5)
        with pytest.raises(ConfigError, match="stop: expected a timestep, an int, got"):
            loader.concat("behavior/position", stop="end")
        with pytest.raises(IndexError, match="n_neurons: expected ids from 0 to 0, got "):
            loader.get_episode(2).get_spikes().to_dense(1)


@pytest.mark.parametrize("harm", ["missing", "directory", "truncated", "longer", "replaced"])
def test_a_shard_that_is_not_what_it_was_never_reads_as_data(copy: Path, harm: str) -> None:
    shard = copy / "shards" / "episode_0002.h5"
    kind: type[ShardWriterError] = MasterStale
    if harm in ("missing", "directory"):
        shard.unlink()
        kind = ShardMissing
    if harm == "directory":
        shard.mkdir()
        kind = ShardWriterError
    if harm == "truncated":
        os.truncate(shard, shard.stat().st_size // 2)
    if harm == "longer":
        shard.write_bytes(shard.read_bytes() + b"\0")
    if harm == "replaced":  # by another one of the same size
        other = (copy / "shards" / "episode_0012.h5").read_bytes()
        shard.write_bytes(other.ljust(shard.stat().st_size, b"\0"))
    with ExperimentLoader(copy) as loader:
        episode = loader.get_episode(2)
        for getter in every_getter(episode):
            with pytest.raises(kind) as caught:
                getter()
            assert "episode_0002.h5" in str(caught.value)
        found = tables_by_loader(loader, 12)  # the others are not touched by it
        del found["weight_changes/deltas"]
        assert_same(found, KnownEpisode(12).tables)


def test_flipped_bytes_of_a_chunk_are_noticed(copy: Path) -> None:
    import h5py

    shard = copy / "shards" / "episode_0002.h5"
    with h5py.File(shard) as file:
        dataset = file["episodes/episode_0002/behavior/position"]
        place = dataset.id.get_chunk_info(0)
    data = bytearray(shard.read_bytes())
    for i in range(place.size):
        data[place.byte_offset + i] ^= 0xFF
    shard.write_bytes(data)
    with ExperimentLoader(copy) as loader, pytest.raises(ShardDamaged):
        loader.get_episode(2).get_behavior()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("missing", ["raise", "skip"])
def test_a_process_without_a_descriptor_is_told_so(recorded: Path, missing: Any) -> None:
    with ExperimentLoader(recorded) as loader:
        expected = tables_by_loader(loader, 2)
    with ExperimentLoader(recorded, missing=missing) as loader:
        with no_descriptor_left():
            with pytest.raises(TooManyOpenFiles, match=r"episode_0002.h5: .* raise the limit"):
                loader.get_episode(2).get_behavior()
            with pytest.raises(TooManyOpenFiles, match=r"episode_0002.h5: .* raise the limit"):
                loader.concat("behavior/position")
            with pytest.raises(TooManyOpenFiles, match=r"experiment_data.h5: .* raise the limit"):
                ExperimentLoader(recorded, missing=missing)
        assert_same(tables_by_loader(loader, 2), expected)


def test_many_threads_read_at_once(recorded: Path) -> None:
    wrong: list[Any] = []
    with ExperimentLoader(recorded) as loader:

        def read(known: KnownEpisode) -> None:
            try:
                for _ in range(4):
                    found = tables_by_loader(loader, known.id)
                    del found["weight_changes/deltas"]
                    assert_same(found, known.tables)
            except BaseException as error:  # noqa: BLE001  (shown below)
                wrong.append(error)

        threads = [
            threading.Thread(target=read, args=(known,)) for known in [KNOWN, KnownEpisode(12)] * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_forked_child_reads_with_threads_of_its_own(tmp_path: Path) -> None:
    """As PyTorch's DataLoader workers are forked, from a parent that has read."""
    with (
        DataExporter("fork", tmp_path, neural_sampling_rate=1, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_timesteps(np.arange(500), {"v": np.ones((500, 1_000))})  # 4 MB
    script = """
        import os, signal, sys
        from shardwriter import ExperimentLoader
        def read():
            with ExperimentLoader(sys.argv[1]) as loader:
                assert loader.get_episode(0).get_neural_states()["v"].sum() == 500_000
        read()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that waits for ever is killed
            read()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    command = [sys.executable, "-c", textwrap.dedent(script), exporter.output_dir]
    subprocess.run(command, check=True, timeout=60)
