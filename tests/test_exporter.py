"""The exporter: its options, its directory, what belongs to the experiment, and the end."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from known_episode import assert_same_tree

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ConfigError, EpisodeEnded, WriterFailed
from shardwriter.files.layout import temporary_path
from shardwriter.loader import ShardWarning
from shardwriter.recording.episode import Episode
from shardwriter.recovery import recover
from shardwriter.system.process import Identity

BAD_OPTIONS = [
    ("experiment_name", "", "a name, without slashes"),
    ("experiment_name", "a/b", "a name, without slashes"),
    ("experiment_name", "..", "a name, without slashes"),
    ("experiment_name", 5, "a name, without slashes"),
    ("experiment_name", "\udcff", "a name, without slashes"),
    ("output_dir", 5, "a path"),
    ("neural_sampling_rate", 0, "an int, at least 1"),
    ("neural_sampling_rate", 2.5, "an int, at least 1"),
    ("neural_sampling_rate", True, "an int, at least 1"),
    ("validate_data", 1, "True or False"),
    ("compression", "zip", "one of 'gzip', 'lzf', None"),
    ("compression", ["gzip"], "one of 'gzip', 'lzf', None"),
    ("compression_level", 0, "an int, 1 to 9"),
    ("compression_level", 10, "an int, 1 to 9"),
    ("compression_level", "4", "an int, 1 to 9"),
    ("chunk_size", 0, "an int, at least 1"),
    ("async_write", None, "True or False"),
    ("n_async_workers", 0, "an int, at least 1"),
    ("n_async_workers", 1.0, "an int, at least 1"),
    ("buffer_dir", "/no/such/place", "an existing directory"),
    ("buffer_dir", __file__, "an existing directory"),
    ("buffer_dir", 5, "a path"),
    ("seed", -1, "an int, at least 0"),
    ("seed", 0.5, "an int, at least 0"),
    ("progress", "yes", "True, False or None"),
]


@pytest.mark.parametrize(
    ("option", "value", "expected"), BAD_OPTIONS, ids=[f"{o}={v!a}" for o, v, _ in BAD_OPTIONS]
)
def test_a_bad_option_is_named_and_nothing_is_made(
    tmp_path: Path, option: str, value: Any, expected: str
) -> None:
    options = {"experiment_name": "test", "output_dir": tmp_path / "new", option: value}
    with pytest.raises(ConfigError) as caught:
        DataExporter(**options)
    assert str(caught.value).startswith(f"{option}: expected {expected}")
    assert str(caught.value).endswith(f"got {value!r}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_an_output_directory_that_cannot_be_is_refused(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / "gone" / "away")
    with pytest.raises(ConfigError, match="output_dir: expected a directory"):
        DataExporter("test", place, progress=False)


def test_the_directory_is_named_and_never_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exporters = [DataExporter("maze 1 — ü", "out", progress=False) for _ in range(3)]
    for exporter in exporters:
        assert exporter.output_dir.is_absolute()
        assert exporter.output_dir.parent == tmp_path / "out"
        assert re.fullmatch(r"maze 1 — ü_\d{8}_\d{6}(_\d+)?", exporter.output_dir.name)
        exporter.close()
    assert len({exporter.output_dir for exporter in exporters}) == 3


def test_options_are_kept_for_people_and_programs(tmp_path: Path) -> None:
    with DataExporter(
        "maze", tmp_path, progress=False, neural_sampling_rate=7, compression=None, seed=9
    ) as exporter:
        exporter.save_config({"learning_rate": 1e-3})
    content = json.loads((exporter.output_dir / "config.json").read_text())
    assert content["config"] == {"learning_rate": 1e-3}
    assert content["recorder"]["neural_sampling_rate"] == 7
    assert content["recorder"]["compression"] is None
    assert content["recorder"]["seed"] == 9
    with ExperimentLoader(exporter.output_dir) as loader:
        metadata = loader.get_metadata()
    assert metadata["experiment_name"] == "maze"
    assert metadata["neural_sampling_rate"] == 7
    assert metadata["format_version"] == "1.1"
    assert metadata["episode_count"] == 0
    assert metadata["start_time"] <= metadata["end_time"]


# -- what belongs to the experiment -------------------------------------------------------

CONFIG = {
    "rate": 1e-3,
    "size": 1000,
    "on": True,
    "name": "grün",
    "empty": "",
    "nothing": None,
    "list": [1, 2.5, "a", None],
    "nested": {"a": {"b": [1, 2]}, "c": {}},
    "large": 2**70,
    "nan": float("inf"),
    "with/slash": 1,
    "long": "x" * 100_000,
}


def test_a_configuration_comes_back(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        exporter.save_config({"old": 1})
        exporter.save_config(CONFIG | {"array": np.arange(3), "number": np.float32(0.5)})
    with ExperimentLoader(exporter.output_dir) as loader:
        found = loader.get_config()
    assert_same_tree(found, CONFIG | {"array": [0, 1, 2], "number": 0.5})


def test_metadata_is_added_to(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        exporter.save_metadata({"animal": "mouse", "day": 1})
        exporter.merge()
        exporter.save_metadata({"day": 2, "rooms": ["a", "b"]})
    with ExperimentLoader(exporter.output_dir) as loader:
        metadata = loader.get_metadata()
    assert (metadata["animal"], metadata["day"], metadata["rooms"]) == ("mouse", 2, ["a", "b"])
    assert metadata["experiment_name"] == "test"


def test_what_cannot_be_kept_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        exporter.save_config({"good": 1})
        exporter.save_metadata({"good": 1})
        neurons, connections = {"ids": [0, 1]}, {"sources": [0], "targets": [1]}
        exporter.save_network_structure(neurons, connections)
        for bad in ({1: 2}, {"": 1}, {"a": "\ud800"}):
            with pytest.raises(ConfigError, match="config: expected values that HDF5 and JSON"):
                exporter.save_config(bad)
            with pytest.raises(ConfigError, match="attributes: expected values that HDF5"):
                exporter.save_metadata(bad)
        for name in ("format", "format_version", "experiment_name", "episode_count"):
            with pytest.raises(ConfigError, match=f"save_metadata: .* got '{name}'"):
                exporter.save_metadata({"new": 1, name: 1})
        for bad in ({"a": object()}, {"a/b": 1}, {"a": {1: 2}}):
            with pytest.raises(ConfigError, match="network_structure"):
                exporter.save_network_structure(neurons | bad, connections)
        exporter.save_metadata({"better": 2})
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_config() == {"good": 1}
        metadata = loader.get_metadata()
        assert (metadata["good"], metadata["better"]) == (1, 2)
        assert "new" not in metadata
        assert_same_tree(
            loader.get_network_structure(), {"neurons": neurons, "connections": connections}
        )


@pytest.mark.parametrize("size", [10, 40_000])
def test_a_network_comes_back(tmp_path: Path, size: int) -> None:
    """Small arrays are copied into the master, large ones are virtual there."""
    rng = np.random.default_rng(0)
    neurons = {
        "ids": np.arange(size),
        "kind": ["in", "out"] * (size // 2),
        "at": {"x": rng.random(size)},
    }
    sources, targets = rng.integers(0, size, (2, size))
    connections = {"sources": sources, "targets": targets}
    connections["groups"] = [[1], [1, 2]] * (size // 2) if size < 100 else sources
    weights = rng.random((size // 10, 10)).astype(np.float32)
    with DataExporter("test", tmp_path, progress=False) as exporter:
        exporter.save_network_structure(neurons, connections, weights)
    expected = {"neurons": neurons, "connections": connections, "initial_weights": weights}
    with ExperimentLoader(exporter.output_dir) as loader:
        assert_same_tree(loader.get_network_structure(), expected)
        assert_same_tree(loader.get_network_structure("neurons"), neurons)
        assert loader.get_network_structure("synapses") == {}
    with h5py.File(exporter.output_dir / "experiment_data.h5") as file:
        group = file["network_structure"]
        np.testing.assert_array_equal(group["connections/sources"], sources)
        np.testing.assert_array_equal(group["initial_weights"], weights)
        assert group["connections/sources"].is_virtual == (size > 10_000)


def test_sparse_weights_are_kept_sparse(tmp_path: Path) -> None:
    import scipy.sparse

    weights = scipy.sparse.random(50, 40, 0.1, random_state=1, format="csr")
    with DataExporter("test", tmp_path, progress=False) as exporter:
        exporter.save_network_structure({"ids": np.arange(50)}, {}, weights)
    with ExperimentLoader(exporter.output_dir) as loader:
        found = loader.get_network_structure()["initial_weights"]
    assert found["shape"] == [50, 40]
    again = scipy.sparse.coo_array((found["value"], (found["row"], found["col"])), found["shape"])
    np.testing.assert_array_equal(again.toarray(), weights.toarray())


# -- the end ------------------------------------------------------------------------------


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    exporter = DataExporter("test", tmp_path, progress=False)
    exporter.start_episode().log_timestep(0, behavior={"x": 1})
    exporter.close()
    exporter.close()
    for use in (exporter.start_episode, lambda: exporter.run_episodes(print, [])):
        with pytest.raises(ConfigError, match="expected an open exporter, got 'a closed one'"):
            use()
    assert "closed" in repr(exporter)


def test_a_merge_may_come_at_any_time(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        for episode_id in range(3):
            with exporter.start_episode(episode_id) as episode:
                episode.log_timestep(0, behavior={"x": episode_id})
            with exporter.start_episode(episode_id + 10) as still_open:
                still_open.log_timestep(0, behavior={"x": 0})
                master = exporter.merge()
                with pytest.warns(ShardWarning, match=f"episode {episode_id + 10};"):
                    loader = ExperimentLoader(master)
                with loader:
                    ended = {*range(episode_id + 1), *range(10, 10 + episode_id)}
                    assert set(loader.list_episodes()) == ended
                    behavior = loader.get_episode(episode_id).get_behavior()
                    assert behavior["x"].tolist() == [episode_id]
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == [0, 1, 2, 10, 11, 12]


def test_an_exporter_without_a_merge_leaves_shards(tmp_path: Path) -> None:
    exporter = DataExporter("test", tmp_path, progress=False)
    exporter.start_episode(3).log_timestep(0, behavior={"x": 1})
    exporter.close(merge=False)
    assert not (exporter.output_dir / "experiment_data.h5").exists()
    assert [path.name for path in (exporter.output_dir / "shards").iterdir()] == ["episode_0003.h5"]


def test_an_error_in_the_block_closes_and_merges(tmp_path: Path) -> None:
    exporter = DataExporter("test", tmp_path, progress=False)
    with pytest.raises(ValueError, match="on purpose"):
        _fail(exporter)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.episode_index["status"].tolist() == [b"interrupted", b"failed"]


def _fail(exporter: DataExporter) -> None:
    with exporter:
        exporter.start_episode().log_timestep(0, behavior={"x": 1})
        with exporter.start_episode() as episode:
            episode.log_timestep(0, behavior={"x": 1})
            raise ValueError("on purpose")


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_is_shown_where_it_is_wanted(
    tmp_path: Path, progress: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataExporter("test", tmp_path, progress=progress) as exporter:
        exporter.start_episode().log_timestep(0, behavior={"x": 1})
    output = capsys.readouterr()
    assert output.out == ""
    assert ("merge" in output.err) == bool(progress)  # None: not on a terminal here


@pytest.mark.parametrize("chunk_size", [4, 10_000])
def test_an_interrupt_while_sealing_loses_nothing(
    tmp_path: Path, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come anywhere; ending an episode is where short ones spend their time."""
    from shardwriter.files.chunk_notes import ChunkNotes

    attributes = ChunkNotes.attributes
    interrupts = iter([True, False])

    def interrupted(self: ChunkNotes) -> dict[str, object]:
        if next(interrupts, False):
            raise KeyboardInterrupt
        return attributes(self)

    monkeypatch.setattr(ChunkNotes, "attributes", interrupted)
    exporter = DataExporter("test", tmp_path, progress=False, chunk_size=chunk_size)
    with pytest.raises(KeyboardInterrupt):
        _record(exporter, lambda e: [e.log_timestep(t, behavior={"x": t}) for t in range(10)])
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_behavior()["x"].tolist() == list(range(10))
        assert loader.episode_index["status"].tolist() == [b"completed"]


def _record(exporter: DataExporter, log: Any) -> None:
    with exporter, exporter.start_episode() as episode:
        log(episode)


@pytest.mark.leaves_unfinished
@pytest.mark.parametrize("async_write", [False, True])
def test_a_shard_that_cannot_be_written_is_said_and_the_others_are_merged(
    tmp_path: Path, async_write: bool
) -> None:
    options: dict[str, Any] = {"async_write": async_write, "n_async_workers": 1}
    exporter = DataExporter("test", tmp_path, progress=False, **options)
    episodes = [exporter.start_episode() for _ in range(3)]
    for episode in episodes:
        episode.log_timestep(0, behavior={"x": episode.id})
    (exporter.output_dir / "shards" / ".episode_0001.h5.tmp").mkdir()
    (exporter.output_dir / "shards" / ".episode_0001.h5.tmp" / "in the way").touch()
    with pytest.raises(WriterFailed) as caught:
        exporter.close()
    assert str(caught.value).startswith("episode 1: its shard ")
    assert f"run `shardwriter recover {exporter.output_dir}`" in str(caught.value)
    with pytest.warns(ShardWarning, match="unfinished: episode 1;"):
        loader = ExperimentLoader(exporter.output_dir)
    with loader:
        assert loader.list_episodes() == [0, 2]
    assert (exporter.output_dir / "shards" / "episode_0001.buffer").exists()


def test_the_handle_of_an_ended_episode_refuses(tmp_path: Path) -> None:
    episodes: list[Episode] = []
    with DataExporter("test", tmp_path, progress=False) as exporter:
        episodes.append(exporter.start_episode())
    with pytest.raises(EpisodeEnded):
        episodes[0].log_timestep(0)


@pytest.mark.parametrize("call", ["save_checkpoint('best', {'w': 1})", "save_config({'w': 1})"])
def test_what_a_killed_save_had_begun_is_removed_by_a_recovery(tmp_path: Path, call: str) -> None:
    script = f"""
        import os, sys
        from pathlib import Path
        from shardwriter import DataExporter
        exporter = DataExporter("killed", sys.argv[1], progress=False)
        Path.replace = lambda *_: os.kill(os.getpid(), 9)
        exporter.{call}
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -9
    (directory,) = tmp_path.iterdir()
    (begun,) = directory.rglob(".*.tmp")
    living = temporary_path(directory / "experiment" / "notes.h5", Identity.own().label)
    living.touch()
    recover(directory, dry_run=True)
    assert begun.exists()
    recover(directory)
    assert not begun.exists()
    assert living.exists()
    living.unlink()
