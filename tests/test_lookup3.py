"""The checksum of HDF5's metadata, compiled and in Python: the published one, and the same."""

import random

import numpy as np
import pytest

from shardwriter.files import lookup3 as module
from shardwriter.files.lookup3 import lookup3, lookup3_of_many

RANDOM = random.Random(3)
BLOCKS = [RANDOM.randbytes(length) for length in [*range(60), 268, 1000, 70_000]]


@pytest.mark.usefixtures("both_ways")
def test_the_published_values() -> None:
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("count", [0, 1, len(BLOCKS)])
def test_hashes_of_many_are_those_of_each(count: int) -> None:
    hashes = lookup3_of_many(BLOCKS[:count])
    assert hashes.dtype == np.uint32
    assert hashes.tolist() == [lookup3(block) for block in BLOCKS[:count]]


@pytest.mark.skipif(module.compiled is None, reason="the package was built without a compiler")
def test_both_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [lookup3(block) for block in BLOCKS]
    monkeypatch.setattr(module, "compiled", None)
    assert [lookup3(block) for block in BLOCKS] == hashes
