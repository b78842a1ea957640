"""The encoder against zlib itself: same bytes back, and hardly more of them stored."""

import zlib
from typing import Any

import numpy as np
import pytest
from isal import isal_zlib

from shardwriter.files import codec
from shardwriter.files.codec import Deflater, inflate, shuffle, unshuffle

RNG = np.random.default_rng(0)
WALK = np.cumsum(RNG.standard_normal((4_000, 3)), 0)
BLOCKS = {
    "float32": WALK.astype(np.float32),
    "float64": WALK,
    "noise": RNG.standard_normal(70_000).astype(np.float32),  # a plane is longer than a block
    "float16": RNG.standard_normal(50).astype(np.float16),
    "complex128": WALK[:, 0] + 1j * WALK[:, 1],
    "ids": np.sort(RNG.integers(0, 1_000, (500, 20), np.int32)),
    "timesteps": np.repeat(np.arange(2_000), 5),
    "bytes": RNG.integers(0, 256, 5_000, np.uint8),
    "bool": RNG.random(1_001) < 0.02,
    "text": np.array([b"left", b"right"] * 300, "S256"),
    "narrow": (RNG.standard_normal(60_000) * 3 - 60).astype(np.float32),  # one plane has no matches
    "zeros": np.zeros(3_000, np.float32),
}


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("level", [1, 4, 9])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_any_zlib_reads_what_was_written(block: np.ndarray[Any, Any], level: int) -> None:
    data = shuffle(block)
    deflater = Deflater(level)
    for _ in range(2):  # the block that decides, and one after it
        stream = deflater(data, block.dtype.itemsize)
        assert zlib.decompress(stream) == data
        assert inflate(stream, len(data)) == data
        assert len(stream) <= 1.03 * len(zlib.compress(data, level)) + 1


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_shuffled_as_by_a_transpose(block: np.ndarray[Any, Any]) -> None:
    octets = block.reshape(-1).view(np.uint8)
    data = shuffle(block)
    assert data == octets.reshape(-1, block.dtype.itemsize).T.tobytes()
    found = np.empty_like(block.reshape(-1))
    unshuffle(data, found)
    assert found.tobytes() == octets.tobytes()
    unshuffle(data, found[2:], 2)
    assert found.tobytes() == octets.tobytes()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("size", "first"), [(18, 0), (20, 1), (20, 6)])
def test_what_does_not_fit_is_not_unshuffled(size: int, first: int) -> None:
    with pytest.raises(ValueError, match=r"expected|reshape|broadcast"):
        unshuffle(bytes(size), np.zeros(5, np.float32), first)


def test_noise_is_stored_and_the_rest_deflated() -> None:
    block = BLOCKS["noise"]
    data = shuffle(block)
    stream = Deflater(4)(data, 4)
    assert stream[2] == 0  # a stored block comes first,
    assert data[:1_000] in stream  # and holds the bytes as they are
    assert len(stream) < 0.9 * len(data)


compiled_only = pytest.mark.skipif(
    codec.huffman is None, reason="the package was built without a compiler"
)


@compiled_only
def test_a_plane_without_matches_is_written_without_a_search() -> None:
    data = shuffle(BLOCKS["narrow"])
    literals = codec.huffman.literals(data[120_000:180_000])
    assert literals in Deflater(4)(data, 4)


@compiled_only
@pytest.mark.parametrize("size", [*range(1, 18), 1_000, 100_001])
@pytest.mark.parametrize("power", [0, 1, 4, 30, 300], ids="power {}".format)
def test_any_decoder_reads_literals(size: int, power: int) -> None:
    """From even bytes to such that the code's longest words are cut short."""
    weights = RNG.random(256) ** power
    some = RNG.choice(256, size, p=weights / weights.sum()).astype(np.uint8).tobytes()
    counts = [1, 1]
    while len(counts) < 24:  # for which Huffman's tree has one leaf at each depth
        counts.append(counts[-1] + counts[-2])
    deep = RNG.permutation(np.repeat(np.arange(24, dtype=np.uint8), counts)).tobytes()
    for data in some, some * 2, deep:
        block = codec.huffman.literals(data)
        stream = b"\x78\x5e" + block + b"\x03\0" + zlib.adler32(data).to_bytes(4, "big")
        assert zlib.decompress(stream) == data
        assert isal_zlib.decompress(stream) == data
        assert inflate(stream, len(data)) == data
        searchless = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
        best = len(searchless.compress(data) + searchless.flush())
        assert len(block) <= 1.01 * best + 150


@compiled_only
def test_literals_of_nothing() -> None:
    with pytest.raises(ValueError, match="expected 1 byte"):
        codec.huffman.literals(b"")


def test_other_planes_are_stored_once_the_data_change() -> None:
    deflater = Deflater(4)
    deflater(shuffle(np.zeros(70_000, np.float32)), 4)
    deflater(shuffle(BLOCKS["noise"]), 4)
    deflater(shuffle(BLOCKS["noise"]), 4)
    assert deflater(shuffle(BLOCKS["noise"]), 4)[2] == 0


def test_encoders_are_named() -> None:
    deflater = Deflater(4)
    assert deflater.encoder_name == ""
    deflater(shuffle(BLOCKS["noise"]), 4)
    assert deflater.encoder_name == "isal"


def test_what_is_only_tried_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads may compress while a block decides."""
    deflater = Deflater(4)
    compress = codec.deflate.deflate_compress
    serving = []

    def tried(*arguments: Any) -> Any:
        serving.append(deflater.encoder_name)
        return compress(*arguments)

    monkeypatch.setattr(codec.deflate, "deflate_compress", tried)
    deflater(shuffle(BLOCKS["bool"]), 1)
    assert deflater.encoder_name == "libdeflate"
    assert set(serving) == {""}
