"""The promises of the exporter that this package succeeds, line by line, by the public API.

Each section quotes its line. Those of compression are in ``test_compression.py``, of threads and
memory in ``test_concurrency.py``, of JAX and PyTorch in ``tests/optional``; what claims speed is
measured by ``bench/compression.py`` and ``bench/overhead.py``.
"""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from known_episode import Array, record
from noise import QUIET, log_noise, noise_of, run

from shardwriter import DataExporter, ExperimentLoader, quick_load
from shardwriter.cli import main
from shardwriter.errors import ConfigError, EpisodeEnded, FieldError
from shardwriter.recording import innermost
from shardwriter.recording.content_checks import NonFiniteWarning
from shardwriter.recording.episode import Episode
from shardwriter.recording.performance import CallTimes
from shardwriter.recording.timestep_log import Timing

# -- "Validation: timestep an int >= 0 and not falling; NaN/inf in neural state (one warning per
#    field per episode); spike vector length constant and equal to the network's size where known;
#    ids in range; weights finite; network arrays consistent. `validate_data=False` skips them" ---

BAD_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("log_timestep", {"timestep": -1}),
    ("log_timestep", {"timestep": 4}),
    ("log_timestep", {"timestep": 6, "spikes": np.zeros(9)}),
    ("log_timestep", {"timestep": 6, "spike_ids": [3, 10]}),
    ("log_timestep", {"timestep": 6, "spike_ids": [-1]}),
    ("log_timesteps", {"timesteps": [6, 8, 7]}),
    ("log_timesteps", {"timesteps": [6], "spikes": np.zeros((1, 11))}),
    (
        "log_weight_change",
        {"timestep": 6, "synapse_id": 1, "old_weight": 0.0, "new_weight": np.nan},
    ),
    (
        "log_weight_changes",
        {"timesteps": 6, "synapse_ids": [1], "old_weights": [np.inf], "new_weights": [0.0]},
    ),
    ("log_event", {"event_type": "e", "timestep": -3}),
]


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(("call", "arguments"), BAD_CALLS)
def test_content_is_checked(
    tmp_path: Path, call: str, arguments: dict[str, Any], validated: bool
) -> None:
    with DataExporter("v", tmp_path, validate_data=validated, **QUIET) as exporter:
        ids = np.arange(10)
        exporter.save_network_structure({"ids": ids}, {"sources": ids, "targets": ids[::-1]})
        with exporter.start_episode() as episode:
            episode.log_timestep(5, spikes=np.ones(10))
            if not validated:
                getattr(episode, call)(**arguments)
                return
            with pytest.raises(FieldError, match="episode 0"):
                getattr(episode, call)(**arguments)
            episode.log_timestep(5, spikes=np.ones(10))
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_spikes().counts().tolist() == [2] * 10


def test_a_network_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with DataExporter("v", tmp_path, **QUIET) as exporter:
        with pytest.raises(ConfigError, match="arrays of one length"):
            exporter.save_network_structure({"ids": [0, 1], "type": [0]}, {})
        with pytest.raises(ConfigError, match="ids of the 2 neurons, got 7"):
            exporter.save_network_structure({"ids": [0, 1]}, {"sources": [0], "targets": [7]})


def test_nan_in_a_neural_state_warns_once_per_field_and_episode(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        experiment = record(tmp_path, log_with_nan, neural_sampling_rate=1, chunk_size=50)
    texts = [str(one.message) for one in caught if one.category is NonFiniteWarning]
    assert len(texts) == 2
    assert "neural_states/v: expected finite values" in texts[0]
    assert "timestep 0;" in texts[0]
    assert "neural_states/u" in texts[1]
    assert "timestep 99;" in texts[1]
    with ExperimentLoader(experiment) as loader:
        assert np.isnan(loader.get_episode(0).get_neural_states()["v"][:, 1]).all()


def log_with_nan(episode: Episode) -> None:
    for t in range(250):
        state = {"v": np.array([t, np.nan]), "w": 1.0, "u": np.inf if t == 99 else 0.5}
        episode.log_timestep(t, state)


# -- "Error handling, graceful degradation": tests/test_outages.py ------------------------------
# -- "JAX support": tests/optional/test_jax.py, test_torch.py -----------------------------------


# -- "... Neither is imported unless its values come" -------------------------------------------


def test_recording_imports_no_optional_package(tmp_path: Path) -> None:
    script = """
        import sys
        from shardwriter import DataExporter, ExperimentLoader
        with DataExporter("x", sys.argv[1], progress=False) as exporter:
            with exporter.start_episode() as episode:
                episode.log_timestep(0, {"v": [1.0]}, [True], {"x": 1.0}, 1.0)
        with ExperimentLoader(exporter.output_dir) as loader:
            loader.get_episode(0).get_spikes()
        print(*{"jax", "torch", "scipy", "hdf5plugin", "matplotlib"} & set(sys.modules))
        """
    assert run(script, tmp_path).strip() == ""


# -- "anything with `__array__` or DLPack, likewise" --------------------------------------------


class OnlyDlpack:
    """An array of a library that knows DLPack alone."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class OnlyArray:
    """An array of a library that knows ``__array__`` alone."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._array


@pytest.mark.parametrize("kind", [OnlyDlpack, OnlyArray])
def test_arrays_of_other_libraries(tmp_path: Path, kind: Any) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)

    def log(episode: Episode) -> None:
        for t in range(4):
            episode.log_timestep(t, behavior={"x": kind(values[t])}, spikes=kind(values[t]))

    with ExperimentLoader(record(tmp_path, log)) as loader:
        found = loader.get_episode(0).get_behavior()["x"]
        assert loader.get_episode(0).get_spikes().counts().tolist() == [3, 4, 4]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


# -- "Profiler, real-time stats: per operation count, mean, p50/p95/p99 in µs; rows/s and MB/s now
#    and overall; slot occupancy and its high-water mark, time blocked on back-pressure,
#    compression ratio per column, writer utilisation; saved with the experiment (`performance`
#    attributes, `shardwriter info --performance`)" ---------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_performance_is_measured_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asynchronous: bool
) -> None:
    with DataExporter(
        "p", tmp_path, enable_profiling=True, async_write=asynchronous, chunk_size=200, **QUIET
    ) as exporter:
        with exporter.start_episode() as episode:
            log_noise(episode, 1_000)
            with pytest.raises(FieldError):
                episode.log_timestep("one")
            stats = exporter.get_performance_stats()
            assert stats["operations"]["log_timestep"]["count"] == 1_001
            assert stats["rows"] > 1_000
            assert stats["now"]["rows_per_s"] > 0
            assert stats["overall"]["mb_per_s"] > 0
        exporter.run_episodes(log_noise, [7, 8], n_workers=2)
    stats = exporter.get_performance_stats()
    calls = stats["operations"]["log_timestep"]
    assert calls["count"] == 1_001 + 2 * 2_000
    assert calls["count"] / 61 - 3 < calls["timed"] <= calls["count"]
    assert 0 < calls["p50_us"] <= calls["p95_us"] <= calls["p99_us"]
    assert calls["mean_us"] > 0
    assert stats["episodes"] == 3
    assert stats["compression"]["behavior/timesteps"] > 2
    assert stats["back_pressure"]["blocked_s"] >= 0
    assert stats["back_pressure"]["slots_high_water"] >= 0
    assert 0 < stats["writer"]["utilisation"] <= 1
    with h5py.File(exporter.output_dir / "experiment_data.h5") as file:
        assert file["performance"].attrs["episodes"] == 3
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_performance()["operations"]["log_timestep"]["count"] == calls["count"]
    assert main(["info", "--performance", str(exporter.output_dir)]) == 0
    text = capsys.readouterr().out
    assert "5,001 calls" in text
    assert "behavior/timesteps" in text
    assert "% busy" in text


def test_calls_out_of_the_ordinary_are_timed_and_others_now_and_then(tmp_path: Path) -> None:
    def call_times(n_calls: int) -> tuple[list[float], list[float], list[int]]:
        usual: list[float] = []
        other: list[float] = []
        counts: list[int] = []
        with exporter.start_episode() as episode:
            episode.time_timesteps(
                Timing(
                    first=3,
                    one_in=10,
                    add_usual=usual.append,
                    add_other=other.append,
                    count=counts.append,
                )
            )
            for t in range(n_calls):
                episode.log_timestep(t, behavior={"x": float(t)})
                if t == 30:
                    episode.count_timesteps()
        return usual, other, counts

    with DataExporter("p", tmp_path, **QUIET) as exporter:
        usual, other, counts = call_times(100)
        assert call_times(0) == ([], [], [0])
    assert counts == [31, 69]
    # The first row of a slot, and without compiled code every row.
    assert (len(usual), len(other)) == ((10, 1) if innermost.compiled else (0, 100))
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(0).get_behavior()["x"].tolist() == list(range(100))


def test_times_stand_for_the_calls_that_were_not_timed() -> None:
    times = CallTimes(count=104)
    times.add(np.full(10, 1e-6), 10)
    times.add(np.full(4, 26e-6), 1)
    found = times.summary()
    assert (found["count"], found["timed"]) == (104, 14)
    assert found["mean_us"] == pytest.approx((100 + 104) / 104)
    assert found["p95_us"] == pytest.approx(1, rel=0.05)
    assert found["p99_us"] == pytest.approx(26, rel=0.05)


def test_without_profiling_no_call_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataExporter("p", tmp_path, **QUIET) as exporter, exporter.start_episode() as episode:
        assert "log_timestep" not in vars(episode)
        log_noise(episode, 10)
    stats = exporter.get_performance_stats()
    assert stats["operations"] == {}
    assert stats["rows"] > 10
    assert main(["info", "--performance", str(exporter.output_dir)]) == 0
    assert "enable_profiling=True" in capsys.readouterr().out


# -- "Metadata and provenance: `save_metadata`, `save_runtime_info` (automatic), `save_git_info`,
#    `save_code_snapshot(files)`, `save_checkpoint(name, data)`; loader: `get_runtime_info`,
#    `get_git_info`, `get_code_snapshot`, `list_checkpoints`, `get_checkpoint`,
#    `get_episode_summary`, `get_all_summaries`; `quick_load(dir, episode_id=0)`" ---------------


def test_provenance_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    code = repository / "größe.py"
    code.write_text("print('ü')\n")
    git = ["git", "-C", repository, "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    code.write_text("print('changed')\n")
    weights = {"layer": {"w": np.arange(6.0).reshape(2, 3)}, "step": 7, "name": "最良"}
    monkeypatch.chdir(repository)
    with DataExporter("prov", tmp_path, **QUIET) as exporter:
        exporter.save_metadata({"animal": "Maus", "tags": ["a", "b"]})
        exporter.save_git_info()
        exporter.save_code_snapshot([code])
        exporter.save_checkpoint("best", {"step": 1})
        exporter.save_checkpoint("best", weights)
        for i in range(2):
            exporter.start_episode(i).end(summary={"score": i / 2})
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_metadata()["animal"] == "Maus"
        assert list(loader.get_metadata()["tags"]) == ["a", "b"]
        assert loader.get_runtime_info()["python_version"] == sys.version.split()[0]
        assert loader.get_runtime_info()["packages"]["h5py"] == h5py.__version__
        assert len(loader.get_git_info()["commit"]) == 40
        assert loader.get_git_info()["is_dirty"]
        assert "+print('changed')" in loader.get_git_info()["diff"]
        assert loader.get_code_snapshot() == {"größe.py": "print('changed')\n"}
        assert loader.list_checkpoints() == ["best"]
        found = loader.get_checkpoint("best")
        np.testing.assert_array_equal(found["layer"]["w"], weights["layer"]["w"])
        assert (found["step"], found["name"]) == (7, "最良")
        assert loader.get_episode_summary(1)["summary"] == {"score": 0.5}
        assert [s["summary"]["score"] for s in loader.get_all_summaries().values()] == [0, 0.5]


def test_quick_load_returns_an_episode_whole(tmp_path: Path) -> None:
    experiment = record(tmp_path, log_noise, neural_sampling_rate=1)
    loaded = quick_load(experiment)
    np.testing.assert_array_equal(loaded["neural_states"]["v"], noise_of(0))
    assert loaded["metadata"]["total_timesteps"] == 2_000
    assert quick_load(experiment, episode_id=0).keys() == loaded.keys()


# -- "`exporter.log(**kwargs)`, `log_static_episode_data`, `end_episode(success, summary)`: the
#    original's calls on the current episode; clear error without one" --------------------------


def test_the_originals_calls_work_on_the_current_episode(tmp_path: Path) -> None:
    with DataExporter("o", tmp_path, neural_sampling_rate=1, **QUIET) as exporter:
        for episode_id in (3, 4):
            exporter.start_episode(episode_id)
            exporter.log_static_episode_data("maze", {"walls": np.eye(3)})
            for t in range(5):
                exporter.log(timestep=t, neural_state={"v": [float(t)]}, reward=episode_id)
            exporter.end_episode(success=episode_id == 4, summary={"id": episode_id})
        for call in (
            lambda: exporter.log(timestep=0),
            lambda: exporter.log_static_episode_data("maze", {}),
            exporter.end_episode,
        ):
            with pytest.raises(EpisodeEnded, match="start"):
                call()
    with ExperimentLoader(exporter.output_dir) as loader:
        assert [bool(e.get_metadata()["success"]) for e in loader] == [False, True]
        assert [e.get_metadata()["summary"]["id"] for e in loader] == [3, 4]
        assert [len(e.get_rewards()["values"]) for e in loader] == [5, 5]
        np.testing.assert_array_equal(
            loader.get_episode(3).get_static_data("maze")["walls"], np.eye(3)
        )


# -- "`get_spikes(start, stop)` finds a window without reading the whole train;
#    `get_spikes_as_events()`; `to_dense(n_neurons)` and `to_csr()`" ----------------------------


def test_spikes_come_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fired = np.random.default_rng(3).random((20_000, 30)) < 0.1

    def log(episode: Episode) -> None:
        episode.log_timesteps(10**9 + np.arange(20_000), spikes=fired)

    with ExperimentLoader(record(tmp_path, log, chunk_size=1_000)) as loader:
        episode = loader.get_episode(0)
        events = episode.get_spikes_as_events()
        assert [t - 10**9 for t, _ in events] == np.flatnonzero(fired.any(1)).tolist()
        np.testing.assert_array_equal(events[0][1], fired[events[0][0] - 10**9].nonzero()[0])
        read = count_chunks(monkeypatch)
        window = episode.get_spikes(10**9 + 7_000, 10**9 + 7_100)
        chunks_of_train = 2 * -(-int(fired.sum()) // 1_000)
        assert len(read) < chunks_of_train / 3
    np.testing.assert_array_equal(window.to_dense(30), fired[7_000:7_100])
    np.testing.assert_array_equal(window.to_csr(30).toarray(), fired[7_000:7_100])
    np.testing.assert_array_equal(window.counts(30), fired[7_000:7_100].sum(0))


def count_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the chunks that are decoded from now on."""
    from shardwriter.files import column_reader

    read = []
    original = column_reader._Column._fill

    def noting(column: Any, origin: tuple[int, ...], target: Array, first: int) -> None:
        read.append(origin[0])
        original(column, origin, target, first)

    monkeypatch.setattr(column_reader._Column, "_fill", noting)
    return read
