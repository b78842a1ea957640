"""The promises of the exporter that this package succeeds, line by line, by the public API.

Each section quotes its line. What claims speed is measured by ``bench/compression.py`` and
``bench/overhead.py``; JAX and PyTorch are in ``tests/optional``.
"""

import json
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from known_episode import Array, assert_same, known, record, record_singly, tables_by_loader

from shardwriter import DataExporter, ExperimentLoader, quick_load
from shardwriter.cli import main
from shardwriter.errors import ConfigError, EpisodeEnded, FieldError
from shardwriter.recording import innermost
from shardwriter.recording.content_checks import NonFiniteWarning
from shardwriter.recording.episode import Episode
from shardwriter.recording.performance import CallTimes
from shardwriter.recording.timestep_log import Timing

QUIET: dict[str, Any] = {"progress": False, "seed": 5}
RNG = np.random.default_rng(0)


def shard(experiment: Path, episode: int = 0) -> Path:
    return experiment / "shards" / f"episode_{episode:04d}.h5"


def log_noise(episode: Episode, steps: int = 2_000) -> None:
    noise = np.random.default_rng(episode.id).standard_normal((steps, 20), np.float32)
    for t in range(steps):
        episode.log_timestep(t, {"v": noise[t]}, noise[t] > 1, {"x": t / 10}, float(t % 7 == 0))


def noise_of(episode: int, steps: int = 2_000) -> Array:
    return np.random.default_rng(episode).standard_normal((steps, 20), np.float32)


# -- "Compression `gzip`, `lzf`, `None`, levels 1-9 ... With extra `[codecs]`: `zstd`, `lz4`,
#    `blosc` ... `compression_opts` in the file tells the truth" --------------------------------


@pytest.mark.parametrize("level", [1, 4, 9])
@pytest.mark.parametrize("codec", ["gzip", "lzf", None, "zstd", "lz4", "blosc"])
def test_every_codec_reads_back_through_plain_h5py(
    tmp_path: Path, codec: str | None, level: int
) -> None:
    options = {"compression": codec, "compression_level": level, "neural_sampling_rate": 3}
    experiment = record(tmp_path, record_singly, chunk_size=25, **options)
    with ExperimentLoader(experiment) as loader:
        found = tables_by_loader(loader, 0)
    del found["weight_changes/deltas"]
    assert_same(found, known(0).tables)
    script = """
        import hdf5plugin, h5py, sys, numpy as np
        with h5py.File(sys.argv[1]) as file:
            group = file["episodes/episode_0000"]
            np.save(sys.argv[2], group["neural_states/potential"][()])
    """
    saved = tmp_path / "potential.npy"
    run(script, shard(experiment), saved)
    np.testing.assert_array_equal(np.load(saved), known(0).tables["neural_states/potential"])
    with h5py.File(shard(experiment)) as file:
        column = file["episodes/episode_0000/neural_states/potential"]
        declared = {"gzip": (column.compression, column.compression_opts)}.get(str(codec))
        assert declared in (None, ("gzip", level))
        if codec == "zstd":
            assert column._filters["32015"][0] == level


def run(script: str, *arguments: object, **options: Any) -> str:
    """Run a script in a process of its own; return what it printed."""
    lines = [line.removeprefix("        ") for line in script.splitlines()]
    command = [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_missing_codec_is_named_when_recording_and_when_reading(tmp_path: Path) -> None:
    experiment = record(tmp_path, log_noise, compression="zstd")
    script = """
        import sys
        sys.modules["hdf5plugin"] = sys.modules["zstandard"] = None  # as if not installed
        from shardwriter import DataExporter, ExperimentLoader, ShardWriterError
        try:
            DataExporter("x", sys.argv[2], compression="zstd")
        except ShardWriterError as error:
            print(error)
        with ExperimentLoader(sys.argv[1]) as loader:
            try:
                loader.get_episode(0).get_behavior()
            except ShardWriterError as error:
                print(error)
    """
    lines = run(script, experiment, tmp_path / "new").splitlines()
    assert len(lines) == 2
    assert all("is not installed; pip install 'shardwriter[codecs]'" in line for line in lines)
    assert not (tmp_path / "new").exists()


# -- "5-10x compression: `precision={"membrane_potential": 0.01}` rounds the mantissa so that
#    every stored value is within that absolute error (also NaN, inf, subnormals, 0), recorded
#    as an attribute of the dataset" ------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_precision_bounds_the_error_of_every_value(tmp_path: Path, dtype: str) -> None:
    values = hard_to_round(dtype)

    def log(episode: Episode) -> None:
        steps = np.arange(len(values))
        episode.log_timesteps(steps, {"membrane_potential": values}, behavior={"x": values})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonFiniteWarning)
        experiment = record(
            tmp_path, log, precision={"membrane_potential": 0.01}, neural_sampling_rate=1
        )
    with ExperimentLoader(experiment) as loader:
        found = loader.get_episode(0).get_neural_states()["membrane_potential"]
        exact = loader.get_episode(0).get_behavior()["x"]
    assert found.dtype == exact.dtype == values.dtype
    assert exact.tobytes() == values.tobytes()
    real = values.real.dtype
    parts, found_parts = values.view(real), found.view(real)
    finite = np.isfinite(parts)
    assert np.array_equal(found_parts[~finite], parts[~finite], equal_nan=True)
    whole = np.isfinite(values)
    wide = np.complex128 if values.dtype.kind == "c" else np.float64
    assert np.abs(found[whole].astype(wide) - values[whole].astype(wide)).max() <= 0.01
    assert len(np.unique(found)) < 0.95 * len(np.unique(values))
    with h5py.File(shard(experiment)) as file:
        group = file["episodes/episode_0000"]
        assert group["neural_states/membrane_potential"].attrs["precision"] == 0.01
        assert "precision" not in group["behavior/x"].attrs


def hard_to_round(dtype: str) -> Array:
    """Return potentials, small values and every special one, in any combination if complex."""
    kind = np.dtype(dtype)
    info = np.finfo(kind)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.005, float(info.max), -float(info.max)]
    special += [float(info.tiny) / 4, -float(info.smallest_subnormal), 2 * float(info.tiny)]
    rng = np.random.default_rng(0)
    reals = np.concatenate([special, rng.normal(-65, 10, 5_000), rng.normal(0, 1e-3, 1_000)])
    reals = reals.astype(kind.type(0).real.dtype)
    if kind.kind == "f":
        return reals
    pairs = np.stack([reals, rng.permutation(reals)], axis=1)
    pairs[: len(special) ** 2] = [(a, b) for a in special for b in special]
    return pairs.reshape(-1).view(kind)


# -- "Adaptive compression: per column, from its first full slot, choose filter and level by
#    measured ratio and speed, and say in `info` and stats what was chosen and why" -------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_adaptive_compression_says_what_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asynchronous: bool
) -> None:
    bits = RNG.integers(0, 2**63 - 1, (3_000, 4))

    def log(episode: Episode) -> None:
        for t in range(3_000):
            episode.log_timestep(t, behavior={"noise": bits[t], "slow": t // 100})

    options = {"adaptive_compression": True, "enable_profiling": True, "chunk_size": 1_000}
    experiment = record(tmp_path, log, async_write=asynchronous, **options)
    with h5py.File(shard(experiment)) as file:
        group = file["episodes/episode_0000/behavior"]
        assert group["noise"].compression is None
        assert not group["noise"].shuffle
        assert group["slow"].compression == "gzip"
        np.testing.assert_array_equal(group["noise"][:], bits)
    assert main(["info", str(experiment)]) == 0
    text = capsys.readouterr().out
    assert "chosen: uncompressed: 1.01x at best with gzip" in text
    assert "shuffle: " in text
    assert main(["info", "--json", str(experiment)]) == 0
    fields = json.loads(capsys.readouterr().out)["fields"]
    assert "MB/s" in fields["behavior/slow"]["choices"][0]
    with ExperimentLoader(experiment) as loader:
        choices = loader.get_performance()["codec_choices"]
    assert choices["behavior/slow"] == fields["behavior/slow"]["choices"]
    assert choices["behavior/noise"] == ["uncompressed: 1.01x at best with gzip"]


# -- "Memory bounded to 500 MB, configurable ... a 1,000,000-neuron field still works ... too
#    small a bound is a clear error that names the smallest that would do" ----------------------


def test_memory_is_bounded(tmp_path: Path) -> None:
    wide = RNG.standard_normal(1_000_000).astype(np.float32)
    with DataExporter(
        "m", tmp_path, max_memory_mb=40, neural_sampling_rate=1, compression=None, **QUIET
    ) as exporter:
        with exporter.start_episode() as episode:
            for t in range(12):
                episode.log_timestep(t, {"v": wide + t})
                buffers = (exporter.output_dir / "shards").glob("*.buffer")
                assert sum(path.stat().st_blocks * 512 for path in buffers) <= 40e6
        with (
            pytest.raises(ConfigError, match=r"expected at least (\d+) .* with behavior") as caught,
            exporter.start_episode() as episode,
        ):
            episode.log_timestep(0, behavior={"v": np.zeros(10_000_000, np.float32)})
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert needed > 40

    def log(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"v": np.zeros(10_000_000, np.float32)})

    record(tmp_path, log, max_memory_mb=needed)
    with ExperimentLoader(exporter.output_dir) as loader:
        states = loader.get_episode(0).get_neural_states()["v"]
    assert states.shape == (12, 1_000_000)
    np.testing.assert_array_equal(states[11], wide + 11)


# -- "Automatic flushing: slots at size; plus `flush_interval_s`: a slow simulation's rows reach
#    the shard's part in bounded time" ----------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_rows_of_a_slow_simulation_reach_the_part(tmp_path: Path, asynchronous: bool) -> None:
    options = {"flush_interval_s": 0.1, "async_write": asynchronous, **QUIET}
    with (
        DataExporter("slow", tmp_path, **options) as exporter,
        exporter.start_episode() as episode,
    ):
        for t in range(3):
            episode.log_timestep(t, behavior={"x": float(t)})
        part = shard(exporter.output_dir).with_suffix(".h5.part")
        deadline = time.monotonic() + 20
        while not part.exists() or rows_in(part) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def rows_in(part: Path) -> int:
    with h5py.File(part, "r", libver="latest", swmr=True) as file:
        group = file["episodes/episode_0000"]
        return len(group["behavior/x"]) if "behavior" in group else 0


# -- "Thread safe, full concurrent access: any number of threads log to their own or to one
#    shared episode; rows are never torn or lost; several processes and threads read at once" ---


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_threads_log_to_one_episode_and_to_their_own(
    tmp_path: Path, asynchronous: bool, codec: str
) -> None:
    threads, steps = 6, 1_500

    def shared(who: int) -> None:
        for i in range(steps):
            row = np.full(16, who * steps + i)
            together.log_timestep(0, behavior={"row": row}, spike_ids=np.full(5, who))

    def alone(who: int) -> None:
        with exporter.start_episode(who + 1) as episode:
            log_noise(episode, steps)

    options = {"async_write": asynchronous, "compression": codec, "chunk_size": 100, **QUIET}
    with (
        DataExporter("threads", tmp_path, **options) as exporter,
        exporter.start_episode(0) as together,
        ThreadPoolExecutor(2 * threads) as pool,
    ):
        work = [pool.submit(task, who) for who in range(threads) for task in (shared, alone)]
        for one in work:
            one.result()
    check_threads(exporter.output_dir, threads, steps)
    with ThreadPoolExecutor(4) as pool, ExperimentLoader(exporter.output_dir) as loader:
        for found in pool.map(lambda _: loader.get_episode(1).get_behavior()["x"], range(12)):
            assert len(found) == steps
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(exporter.output_dir)], stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert [int(reader.communicate()[0]) for reader in readers] == [threads * steps] * 3


READER = """
import sys
from shardwriter import ExperimentLoader
with ExperimentLoader(sys.argv[1]) as loader:
    print(len(loader.get_episode(0).get_behavior()["row"]))
"""


def check_threads(experiment: Path, threads: int, steps: int) -> None:
    with ExperimentLoader(experiment) as loader:
        episode = loader.get_episode(0)
        rows = episode.get_behavior()["row"]
        assert (rows == rows[:, :1]).all()  # none is torn
        assert sorted(rows[:, 0].tolist()) == list(range(threads * steps))
        assert episode.get_spikes().counts().tolist() == [5 * steps] * threads
        for who in range(threads):
            noise = noise_of(who + 1, steps)
            own = loader.get_episode(who + 1)
            np.testing.assert_array_equal(own.get_behavior()["x"], np.arange(steps) / 10)
            np.testing.assert_array_equal(own.get_spikes()["neuron_ids"], (noise > 1).nonzero()[1])


# -- "Async write queue, `n_async_workers`: episodes of this process are drained by a pool of
#    writer processes" --------------------------------------------------------------------------


def test_a_pool_of_writers_drains_the_episodes(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with DataExporter("a", tmp_path, async_write=True, n_async_workers=2, **QUIET) as exporter:
        episodes = [exporter.start_episode() for _ in range(5)]
        assert len(set(psutil.Process().children(recursive=True)) - before) == 2
        for episode in episodes:
            log_noise(episode, 300)
            episode.end()
    with ExperimentLoader(exporter.output_dir) as loader:
        assert {str(s, "ascii") for s in loader.episode_index["status"]} == {"completed"}
        assert loader.episode_index["steps"].tolist() == [300] * 5


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


# -- "Also: float16/32/64, all ints, bool, complex; fields of 0, 1, 2, 3 dimensions (84x84x3 uint8
#    frames at speed); zero-length spikes; an empty episode; episode ids with gaps and above 9,999;
#    unicode names; names with `/` refused with a clear error; a timestep that starts at 10**9" ---

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
SHAPES = [(), (5,), (2, 3), (2, 3, 4), (84, 84, 3)]


@pytest.mark.parametrize("codec", ["gzip", "lzf", None, "zstd", "lz4", "blosc"])
def test_every_dtype_and_shape(tmp_path: Path, codec: str | None) -> None:
    rng = np.random.default_rng(1)
    fields = {}
    for dtype in DTYPES:
        for shape in SHAPES[:-1]:
            raw = rng.bytes(40 * int(np.prod(shape)) * np.dtype(dtype).itemsize)
            values = np.frombuffer(raw, "u1") % 2 if dtype == "?" else np.frombuffer(raw, dtype)
            fields[f"{dtype} {shape}"] = values.astype(dtype).reshape(40, *shape)
    fields["frames"] = rng.integers(0, 256, (40, *SHAPES[-1]), np.uint8)

    def log(episode: Episode) -> None:
        for t in range(40):
            row = {name: values[t] for name, values in fields.items()}
            episode.log_timestep(10**9 + t, behavior=row)

    experiment = record(tmp_path, log, compression=codec, chunk_size=16)
    with ExperimentLoader(experiment) as loader:
        found = loader.get_episode(0).get_behavior()
    assert found.pop("timesteps").tolist() == list(range(10**9, 10**9 + 40))
    assert_same(found, fields)


def test_little_and_odd_is_kept(tmp_path: Path) -> None:
    with DataExporter("größe 実験", tmp_path, neural_sampling_rate=1, **QUIET) as exporter:
        exporter.start_episode(12_345).end()
        with exporter.start_episode(20_000) as episode:
            episode.log_timestep(10**9, {"膜電位": 0.5}, np.zeros(0, bool), {"räumlich": 1})
            episode.log_timestep(10**9 + 1, spike_ids=[])
            episode.log_event("größte Überraschung", 10**9, {"wörter": "ß"})
            episode.log_static_data("迷路", {"länge": 3})
            for bad in ("a/b", "", ".", "a\0b"):
                with pytest.raises(FieldError, match="without slashes"):
                    episode.log_timestep(10**9 + 2, behavior={bad: 1.0, "räumlich": 2})
                with pytest.raises(FieldError, match="without slashes"):
                    episode.log_event(bad, 10**9 + 2)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.list_episodes() == [12_345, 20_000]
        assert loader.get_episode(12_345).get_metadata()["status"] == "empty"
        episode = loader.get_episode(20_000)
        assert episode.get_neural_states()["膜電位"].tolist() == [0.5]
        assert episode.get_behavior()["räumlich"].tolist() == [1]
        assert episode.get_behavior()["timesteps"].tolist() == [10**9]
        assert len(episode.get_spikes()["timesteps"]) == 0
        assert episode.get_spikes().to_dense(4).shape == (0, 4)
        assert episode.get_events("größte Überraschung")["wörter"].tolist() == ["ß"]
        assert episode.get_static_data("迷路") == {"länge": 3}
