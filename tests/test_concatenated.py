"""Datasets over all episodes."""

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from merging import shard

from merge import (
    MergeOptions,
    merge_experiments,
)
from shardwriter import ExperimentLoader
from shardwriter.errors import (
    TooManyShards,
)

MASTER = "experiment_data.h5"

EPISODES = 5  # of the experiment that each test has a copy of


def test_concatenated_datasets_show_all_episodes(experiment: Path) -> None:
    merge_experiments([experiment], None, MergeOptions(concat=True))
    with ExperimentLoader(experiment) as loader:
        values, offsets = loader.concat("behavior/position")
    with h5py.File(experiment / MASTER) as file:
        group = file["concatenated"]
        np.testing.assert_array_equal(group["behavior/position"], values)
        np.testing.assert_array_equal(group["behavior/offsets"], offsets)
        assert group["episode_ids"][()].tolist() == [0, 1, 2, 3, 4]
        assert len(group["behavior/at 50% %b"]) == offsets[-1]
    shard(experiment, 4).unlink()
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    with h5py.File(experiment / MASTER) as file:
        assert "concatenated" not in file


def test_too_many_shards_are_not_concatenated(experiment: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = (experiment / MASTER).read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (67, limits[1]))
        with pytest.raises(TooManyShards, match=r"at most 3 shards, got 5.*pack"):
            merge_experiments([experiment], None, MergeOptions(concat=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (experiment / MASTER).read_bytes() == before
