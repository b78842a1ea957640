"""Copies of episodes in a pack: as bytes, by HDF5, and compared with what they are of."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from merging import master_content, shard, shards_content

from merge import (
    comparing,
    pack,
    unpack,
    verify,
)
from merge.copying import Copying, copied_in_child
from merge.episode_copy import EpisodeCopy
from shardwriter import DataExporter
from shardwriter.errors import (
    ShardDamaged,
)
from shardwriter.files import stored_episode
from shardwriter.files.structure import Unfamiliar

EPISODES = 5  # of the experiment that each test has a copy of


def test_many_copies_are_compared_by_processes(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = pack(experiment, tmp_path / "alone.h5")
    monkeypatch.setattr(comparing, "_FEW", 1)
    monkeypatch.setattr(comparing, "_TOGETHER", 2)
    packed = pack(experiment, tmp_path / "all.h5")
    assert master_content(packed) == master_content(alone)
    assert verify(packed, deep=True, expected=range(5), workers=1).is_sound


@pytest.mark.parametrize("is_known", [True, False])
def test_shards_are_copied_as_bytes_and_others_by_hdf5(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    by_hdf5: list[Path] = []

    def noted(items: Sequence[Copying]) -> Iterator[int]:
        by_hdf5.extend(item.path for item in items if item.place.startswith("episodes/"))
        return copied_in_child(items)

    monkeypatch.setattr(sys.modules["merge.pack"], "copied_in_child", noted)
    pack(experiment, tmp_path / "all.h5")
    assert by_hdf5 == []
    with h5py.File(shard(experiment, 3), "r+", libver="v110" if is_known else None) as file:
        group = file["episodes/episode_0003"]
        group.create_dataset("compact", data=np.arange(4), track_times=True)
        del group.attrs["_crc32"]  # which knows nothing of that
    expected = shards_content(experiment)
    packed = pack(experiment, tmp_path / "some.h5")
    assert by_hdf5 == ([] if is_known else [shard(experiment, 3)])
    content = master_content(packed)
    assert {k: v for k, v in content.items() if k.startswith("episodes/")} == expected
    assert verify(packed, deep=True, expected=range(5), workers=1).is_sound
    assert shards_content(unpack(packed, tmp_path / "unpacked")) == expected


def test_short_and_long_episodes_are_packed_alike(experiment: Path, tmp_path: Path) -> None:
    """Those of one chunk are copied by compiled code, the others object by object."""
    with DataExporter.resume(experiment, progress=False) as exporter:
        with exporter.start_episode(5) as episode:
            steps = np.arange(300_000)
            episode.log_timesteps(steps, behavior={"position": steps / 7})
        with exporter.start_episode(6) as episode:
            episode.log_timestep(0, reward=1.0)
    expected = shards_content(experiment)
    packed = pack(experiment, tmp_path / "all.h5")
    content = master_content(packed)
    assert {k: v for k, v in content.items() if k.startswith("episodes/")} == expected
    assert verify(packed, deep=True, expected=range(7), workers=1).is_sound


@pytest.mark.parametrize("most", [(4, 8), (4, None), (8, 8), (None, 4)])
def test_chunks_are_copied_to_their_places(
    experiment: Path, tmp_path: Path, most: tuple[int | None, int | None]
) -> None:
    """HDF5 numbers them by the shape that a dataset may grow to."""
    values = np.arange(16).reshape(4, 4)
    with h5py.File(shard(experiment, 3), "r+") as file:
        group = file["episodes/episode_0003"]
        group.create_dataset("grid", data=values, maxshape=most, chunks=(2, 2))
        del group.attrs["_crc32"]  # which knows nothing of that
    packed = pack(experiment, tmp_path / "all.h5")
    with h5py.File(packed) as file:
        np.testing.assert_array_equal(file["episodes/episode_0003/grid"][()], values)


@pytest.mark.parametrize(
    ("method", "error"), [("_element", OverflowError), ("write_data", Unfamiliar)]
)
def test_what_cannot_be_copied_as_bytes_is_copied_by_hdf5(
    experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: type[Exception],
) -> None:
    def fails(*given: object) -> None:
        raise error

    monkeypatch.setattr(stored_episode, "compiled", None)
    monkeypatch.setattr(EpisodeCopy, method, fails)
    packed = pack(experiment, tmp_path / "all.h5")
    content = master_content(packed)
    expected = shards_content(experiment)
    assert {k: v for k, v in content.items() if k.startswith("episodes/")} == expected


def test_a_shard_that_changes_meanwhile_is_named(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["merge.pack"]
    write = module._write_pack

    def write_and_change(*given: object) -> object:
        copies = write(*given)
        os.utime(shard(experiment, 2), ns=(1, 1))
        return copies

    monkeypatch.setattr(module, "_write_pack", write_and_change)
    with pytest.raises(ShardDamaged, match=r"episode_0002\.h5.*changed while it was copied"):
        pack(experiment, tmp_path / "all.h5")
