"""Rows and whole arrays from chunks: what HDF5 gives, and nothing of chunks that hold less."""

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from merging import shard

from merge import merge_experiment
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ShardDamaged
from shardwriter.files import codec
from shardwriter.files.codec import lzf_length
from shardwriter.files.column_reader import read_rows, read_texts, read_value, read_whole
from shardwriter.files.compression import Pipeline, optional

GZIP = {"compression": "gzip", "shuffle": True}
PIPELINES = [
    Pipeline(name, shuffle=shuffle, by_bits=by_bits)
    for name in ("gzip", "lzf", "zstd", "lz4", "blosc", None)
    for shuffle in (True, False)
    for by_bits in ((False, True) if name == "blosc" and shuffle else (False,))
]
RNG = np.random.default_rng(1)
ARRAYS = {
    "floats": RNG.standard_normal((50, 7, 5)),
    "even": np.zeros((64, 8), np.int32),
    "noise": RNG.integers(0, 256, (90, 40), np.uint8),
    "halves": RNG.standard_normal(300).astype(np.float16),
    "bools": RNG.random((30, 9)) < 0.5,
    "complex": RNG.standard_normal((40, 3)) + 1j,
    "big-endian": np.arange(60, dtype=">i4").reshape(20, 3),
    "bytes": np.array([b"a", b"", b"xyz"] * 20).reshape(20, 3),
    "records": np.array([(i, b"x" * (i % 4)) for i in range(50)], [("i", "<i4"), ("s", "S3")]),
}


@pytest.fixture
def file() -> Iterator[h5py.File]:
    with h5py.File.in_memory() as opened:
        yield opened


def assert_same(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if expected.dtype == object:
        assert got.tolist() == expected.tolist()
    else:
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("pipeline", PIPELINES, ids=str)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_those_that_hdf5_reads(file: h5py.File, pipeline: Pipeline, name: str) -> None:
    array = ARRAYS[name]
    for chunk in {True, (11, *array.shape[1:]), (16, *(3 for _ in array.shape[1:]))}:
        dataset = file.create_dataset(
            f"{chunk}", data=array, chunks=chunk, **pipeline.dataset_options()
        )
        assert_same(read_whole(dataset), dataset[()])
        assert_same(read_rows(dataset, 5, 19), dataset[5:19])


@pytest.mark.parametrize("name", ["gzip", "lzf", "zstd", "lz4", "blosc", None])
def test_chunks_of_the_recorder_pass(tmp_path: Path, name: str | None) -> None:
    noise = RNG.standard_normal((40, 3))
    with (
        DataExporter(
            "known", tmp_path, progress=False, compression=name, chunk_size=16
        ) as exporter,
        exporter.start_episode(0) as episode,
    ):
        for i, position in enumerate(noise):
            episode.log_timestep(i, behavior={"position": position, "count": i})
    with ExperimentLoader(exporter.output_dir) as loader:
        behavior = loader.get_episode(0).get_behavior()
    assert behavior["position"].tobytes() == noise.tobytes()
    assert behavior["count"].tolist() == list(range(40))


@pytest.mark.parametrize("dtype", ["f8", "?", "S4"])
def test_chunks_never_written_are_filled(file: h5py.File, dtype: str) -> None:
    for value in (None, np.ones((), dtype)[()]):
        dataset = file.create_dataset(
            f"{value}", (20, 6), dtype, chunks=(4, 4), fillvalue=value, **GZIP
        )
        dataset[5:7, 5] = np.ones(2, dtype)
        assert_same(read_whole(dataset), dataset[()])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_texts_are_those_that_hdf5_reads(file: h5py.File, encoding: str) -> None:
    words = ["", "Zürich", "東京", "naïve", "x"] if encoding == "utf-8" else ["", "a", "bcd"]
    kind = h5py.string_dtype(encoding, 9)
    texts = np.array([word.encode() for word in words * 8], kind)
    dataset = file.create_dataset("x", data=texts, **GZIP)
    assert_same(read_texts(dataset, 3, 11), dataset.asstr()[3:11])
    assert_same(read_texts(dataset, 3, 3), dataset.asstr()[3:3])
    assert_same(read_value(dataset), dataset.asstr()[()])
    assert_same(read_whole(dataset), dataset[()])


@pytest.mark.parametrize("padding", [h5py.h5t.STR_NULLTERM, h5py.h5t.STR_SPACEPAD])
def test_text_that_others_wrote_is_read_as_by_hdf5(file: h5py.File, padding: int) -> None:
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(6)
    kind.set_strpad(padding)
    space = h5py.h5s.create_simple((4,))
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_chunk((3,))
    options.set_deflate(4)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, options))
    dataset.id.write_direct_chunk((0,), zlib.compress(b"a     bc\0xx dddddd"))
    assert_same(read_whole(dataset), dataset[()])
    assert_same(read_value(dataset), dataset.asstr()[()])


def test_texts_of_any_length_and_scalars_are_read(file: h5py.File) -> None:
    file["texts"] = ["ä", "", "b" * 100]
    file["text"], file["number"], file["nothing"] = "ö", 3.5, h5py.Empty("f8")
    file["none"] = np.zeros((0, 3))
    file.create_dataset("packed", data=["ä", "b"], dtype=h5py.string_dtype(), **GZIP)
    assert read_value(file["texts"]).tolist() == ["ä", "", "b" * 100]
    assert read_value(file["packed"]).tolist() == ["ä", "b"]
    assert (read_value(file["text"]), read_value(file["number"])) == ("ö", 3.5)
    assert read_value(file["none"]).shape == (0, 3)
    assert read_value(file["nothing"]) == h5py.Empty("f8")


def test_chunks_that_skip_filters_are_read(file: h5py.File) -> None:
    values = np.arange(8.0)
    dataset = file.create_dataset("x", (16,), "f8", chunks=(8,), **GZIP)
    dataset.id.write_direct_chunk((0,), values.tobytes(), filter_mask=3)
    dataset.id.write_direct_chunk((8,), zlib.compress(values.tobytes()), filter_mask=1)
    assert_same(read_whole(dataset), np.concatenate([values, values]))
    assert_same(dataset[()], np.concatenate([values, values]))


# -- chunks that hold less -------------------------------------------------------------------------


def blosc(data: bytes) -> bytes:
    with h5py.File.in_memory() as file:
        values = np.frombuffer(data, np.uint8)
        dataset = file.create_dataset("x", data=values, chunks=values.shape, **optional_blosc())
        _, chunk = dataset.id.read_direct_chunk((0,))
        return bytes(chunk)


def optional_blosc() -> Any:
    return Pipeline("blosc").dataset_options()


def lz4(data: bytes, blocks: int = 1) -> bytes:
    size = len(data) // blocks
    parts = [data[i * size : (i + 1) * size] for i in range(blocks)]
    encoded = [optional("lz4.block").compress(part, store_size=False) for part in parts]
    head = len(data).to_bytes(8, "big") + size.to_bytes(4, "big")
    return head + b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def zstd(data: bytes, **options: bool) -> bytes:
    return bytes(optional("zstandard").ZstdCompressor(3, **options).compress(data))


ROWS = 4096
WHOLE, SHORT = bytes(8 * ROWS), bytes(8 * ROWS - 8)
DAMAGED = {
    "gzip": ("gzip", zlib.compress(SHORT)),
    "gzip, ten bytes": ("gzip", zlib.compress(b"x" * 10)),
    "lzf": ("lzf", b"\0x" * 7),
    "lzf that ends early": ("lzf", b"\x1fx"),
    "lz4": ("lz4", lz4(SHORT)),
    "lz4, block of nothing": ("lz4", lz4(WHOLE)[:8] + bytes(4) + lz4(WHOLE)[12:]),
    "lz4, block behind the end": ("lz4", lz4(WHOLE)[:-1]),
    "lz4, one block too few": ("lz4", lz4(WHOLE, 4)[: -len(lz4(WHOLE, 4)[12:]) // 4]),
    "lz4, empty": ("lz4", b"\0"),
    "zstd": ("zstd", zstd(SHORT)),
    "zstd of no known size": ("zstd", zstd(WHOLE, write_content_size=False)),
    "zstd, no frame": ("zstd", b"\0" * 20),
    "zstd that ends early": ("zstd", zstd(WHOLE)[:6]),
    "blosc": ("blosc", blosc(SHORT)),
    "blosc that ends early": ("blosc", blosc(WHOLE)[:-1]),
    "blosc, empty": ("blosc", b"\0"),
}


def damage(path: Path, place: str, chunk: bytes, mask: int = 0) -> None:
    """Put a chunk in a file as a dataset's first, and make it fit the file's size in a master."""
    with h5py.File(path, "r+") as file:
        dataset = file[place]
        dataset.id.write_direct_chunk((0,) * dataset.ndim, chunk, filter_mask=mask)


def adopt(experiment: Path) -> None:
    with h5py.File(experiment / "experiment_data.h5", "r+") as file:
        index = file["episode_index"][()]
        index["size"][-1] = shard(experiment, 0).stat().st_size
        file["episode_index"][...] = index


@pytest.fixture
def experiment(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Record columns of numbers, and static data, with the codec that a test is about."""
    name = DAMAGED[request.param][0]
    with (
        DataExporter(
            "known", tmp_path, progress=False, compression=name, chunk_size=ROWS
        ) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_static_data("weights", np.zeros((300, 7)))
        episode.log_static_data("labels", np.full(3000, b"abcd"))
        for i in range(ROWS):
            episode.log_timestep(i, behavior={"heading": 0.0, "word": "wörter"})
    return exporter.output_dir


@pytest.mark.parametrize(
    ("experiment", "kind"), [(kind, kind) for kind in DAMAGED], indirect=["experiment"]
)
def test_a_chunk_that_holds_less_is_refused(experiment: Path, kind: str) -> None:
    place = "episodes/episode_0000/behavior/heading"
    damage(shard(experiment, 0), place, DAMAGED[kind][1])
    merge_experiment(experiment)
    with ExperimentLoader(experiment) as loader:
        with pytest.raises(ShardDamaged, match="behavior/heading, chunk 0"):
            loader.get_episode(0).get_behavior()
        with pytest.raises(ShardDamaged, match="behavior/heading"):
            loader.concat("behavior/heading")


@pytest.mark.parametrize("experiment", ["gzip"], indirect=True)
@pytest.mark.parametrize("place", ["weights", "labels", "behavior/word", "behavior/timesteps"])
def test_a_chunk_of_anything_that_inflates_to_less_is_refused(experiment: Path, place: str) -> None:
    merge_experiment(experiment)
    damage(shard(experiment, 0), f"episodes/episode_0000/{place}", zlib.compress(b"x" * 10))
    adopt(experiment)
    with ExperimentLoader(experiment) as loader:
        episode = loader.get_episode(0)
        read = episode.get_behavior if "/" in place else partial(episode.get_static_data, place)
        with pytest.raises(ShardDamaged, match=f"{place}, chunk 0|{place}, chunk .0, 0"):
            read()


@pytest.mark.parametrize("name", ["gzip", "lzf", "lz4", "zstd", "blosc"])
def test_a_chunk_that_skips_filters_has_to_be_whole(file: h5py.File, name: str) -> None:
    pipeline = Pipeline(name).dataset_options()
    dataset = file.create_dataset("x", (ROWS,), "f8", chunks=(ROWS,), **pipeline)
    dataset.id.write_direct_chunk((0,), SHORT, filter_mask=3)
    with pytest.raises(ShardDamaged, match="x, chunk 0"):
        read_whole(dataset)


def test_filters_one_on_the_other_are_refused(file: h5py.File) -> None:
    """What the outer one makes is no whole chunk, so that its length says nothing."""
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_chunk((ROWS,))
    options.set_deflate(4)
    options.set_shuffle()
    space = h5py.h5s.create_simple((ROWS,))
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, options))
    dataset[...] = 1
    with pytest.raises(ShardDamaged, match="one codec"):
        read_whole(dataset)


def test_types_that_hdf5_has_to_decode_are_checked(file: h5py.File) -> None:
    dataset = file.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype(), **GZIP)
    dataset.id.write_direct_chunk((0,), zlib.compress(b"x"))
    with pytest.raises(ShardDamaged, match="x, chunk 0"):
        read_value(dataset)


@pytest.mark.parametrize("pure", [False, True])
def test_the_length_of_lzf_is_what_it_decodes_to(
    file: h5py.File, pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pure:
        monkeypatch.setattr(codec, "compiled", None)
    for i in range(200):
        part = RNG.integers(0, 256, RNG.integers(1, 2000), np.uint8)
        data = np.tile(part, RNG.integers(2, 20))
        dataset = file.create_dataset(f"{i}", data=data, chunks=data.shape, compression="lzf")
        mask, chunk = dataset.id.read_direct_chunk((0,))
        assert mask or lzf_length(bytes(chunk)) == len(data)
    for short in (b"\x1f", b"\xe0", b"\xe0\x01", b"\x20", b"\0"):
        with pytest.raises(ValueError, match="ends too early"):
            lzf_length(short)
