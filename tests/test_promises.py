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
from shardwriter.content_checks import NonFiniteWarning
from shardwriter.episode import Episode
from shardwriter.errors import ConfigError, EpisodeEnded, FieldError

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
    assert all("is not installed; install shardwriter[codecs]" in line for line in lines)
    assert not (tmp_path / "new").exists()


# -- "5-10x compression: `precision={"membrane_potential": 0.01}` rounds the mantissa so that
#    every stored value is within that absolute error (also NaN, inf, subnormals, 0), recorded
#    as an attribute of the dataset" -------------------------------------------------------------


def test_precision_bounds_the_error_of_every_value(tmp_path: Path) -> None:
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, -5e-324, 1e300, -1.7e308, 0.005, 2.5e13]
    values = np.concatenate([special, RNG.normal(-65, 10, 5_000), RNG.normal(0, 1e-3, 1_000)])

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
    assert exact.tobytes() == values.tobytes()
    assert np.array_equal(np.isnan(found), np.isnan(values))
    finite = np.isfinite(values)
    assert np.array_equal(found[~finite], values[~finite], equal_nan=True)
    assert np.abs(found[finite] - values[finite]).max() <= 0.01
    assert len(np.unique(found)) < 0.6 * len(np.unique(values))
    with h5py.File(shard(experiment)) as file:
        group = file["episodes/episode_0000"]
        assert group["neural_states/membrane_potential"].attrs["precision"] == 0.01
        assert "precision" not in group["behavior/x"].attrs


# -- "Adaptive compression: per column, from its first full slot, choose filter and level by
#    measured ratio and speed, and say in `info` and stats what was chosen and why" --------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_adaptive_compression_says_what_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asynchronous: bool
) -> None:
    bits = RNG.integers(0, 2**63 - 1, (3_000, 4))

    def log(episode: Episode) -> None:
        for t in range(3_000):
            episode.log_timestep(t, behavior={"noise": bits[t], "slow": t // 100})

    experiment = record(
        tmp_path, log, adaptive_compression=True, chunk_size=1_000, async_write=asynchronous
    )
    with h5py.File(shard(experiment)) as file:
        group = file["episodes/episode_0000/behavior"]
        assert group["noise"].compression is None
        assert not group["noise"].shuffle
        assert group["slow"].compression == "gzip"
        np.testing.assert_array_equal(group["noise"][:], bits)
    assert main(["info", str(experiment)]) == 0
    text = capsys.readouterr().out
    assert "chosen: uncompressed: 1.00x at best with gzip" in text
    assert "shuffle: " in text
    assert main(["info", "--json", str(experiment)]) == 0
    fields = json.loads(capsys.readouterr().out)["fields"]
    assert "MB/s" in fields["behavior/slow"]["choices"][0]


# -- "Memory bounded to 500 MB, configurable ... a 1,000,000-neuron field still works ... too
#    small a bound is a clear error that names the smallest that would do" -----------------------


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
#    the shard's part in bounded time" -----------------------------------------------------------


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
#    shared episode; rows are never torn or lost; several processes and threads read at once" ----


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
#    writer processes" ----------------------------------------------------------------------------


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
