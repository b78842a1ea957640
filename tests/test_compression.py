"""What was promised of codecs, precision and dtypes, by the public API.

Each section quotes its line; see ``test_promises.py``. Speed is for ``bench/compression.py``.
"""

import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from known_episode import Array, assert_same, known, record, record_singly, tables_by_loader
from noise import QUIET, log_noise, run, shard

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.errors import FieldError
from shardwriter.recording.content_checks import NonFiniteWarning
from shardwriter.recording.episode import Episode

RNG = np.random.default_rng(0)


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


@pytest.mark.parametrize("codec", ["zstd", "lz4", "blosc"])
def test_the_processes_that_verify_and_pack_have_the_codecs(tmp_path: Path, codec: str) -> None:
    experiment = record(tmp_path, log_noise, compression=codec)
    script = """
        import sys
        from shardwriter.cli import main
        experiment, packed, again = sys.argv[1:]
        codes = [
            main(["verify", experiment, "--deep"]),
            main(["pack", experiment, "-o", packed, "--deep"]),
            main(["unpack", packed, "-o", again, "--deep"]),
            main(["verify", again, "--deep"]),
        ]
        print(codes)
    """
    out = run(script, experiment, tmp_path / "packed.h5", tmp_path / "again")
    assert out.splitlines()[-1] == "[0, 0, 0, 0]", out


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
