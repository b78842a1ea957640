"""Verify: every kind of damage is found, and says what to do."""

import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from merging import record, shard

from merge import MergeOptions, master_check, merge_experiments, verify
from merge.verify import read_index
from shardwriter.cli import main
from shardwriter.errors import ExperimentNotFound

MASTER = "experiment_data.h5"


EPISODES = 3  # of the experiment that each test has a copy of


def problems(path: Path, **options: object) -> str:
    return "\n".join(map(str, verify(path, workers=1, **options).problems))  # type: ignore[arg-type]


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_experiment_is_sound(experiment: Path, deep: bool) -> None:
    for path in (experiment, experiment / MASTER):
        report = verify(path, deep=deep, expected=range(3), workers=2)
        assert report.is_sound, report
        assert (report.episodes, report.shards) == (3, 3)
        assert (report.chunks > 30) == deep
    one = verify(shard(experiment, 1), deep=True, workers=1)
    assert ": 1 episode in 1 shard, " in str(one)


def test_nothing_to_verify_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.h5"):
        with pytest.raises(ExperimentNotFound):
            verify(path)


def test_a_missing_shard_is_found(experiment: Path) -> None:
    shard(experiment, 1).unlink()
    assert re.search("episode_0001.h5: missing; .* put it back", problems(experiment))


def test_swapped_shards_are_found(experiment: Path, tmp_path: Path) -> None:
    shard(experiment, 0).rename(tmp_path / "x")
    shard(experiment, 2).rename(shard(experiment, 0))
    (tmp_path / "x").rename(shard(experiment, 2))
    text = problems(experiment)
    assert "expected episode 0 in it, got [2]" in text
    assert "expected episode 2 in it, got [0]" in text


@pytest.mark.parametrize("size", [0, 3000, -1])
def test_a_truncated_shard_is_found(experiment: Path, size: int) -> None:
    path = shard(experiment, 1)
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    text = problems(experiment)
    assert "episode_0001" in text
    assert "intact copy" in text or "bytes" in text


def test_an_unlisted_and_an_unfinished_episode_are_found(experiment: Path) -> None:
    shard(experiment, 2).rename(experiment / "kept.h5")
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    (experiment / "kept.h5").rename(shard(experiment, 2))
    unfinished = experiment / "shards/episode_0007.buffer"
    unfinished.touch()
    text = problems(experiment)
    unfinished.unlink()
    assert "1 shard not in it: episode_0002.h5; run `shardwriter merge" in text
    assert "unfinished: episode 7" in text


def test_episodes_that_were_expected_are_named(experiment: Path) -> None:
    assert "expected episodes 3-4, got none" in problems(experiment, expected=range(5))


def test_without_a_master_the_shards_are_verified(experiment: Path) -> None:
    (experiment / MASTER).unlink()
    report = verify(experiment, workers=1)
    assert report.episodes == 3
    assert [each.problem for each in report.problems] == ["there is no master"]


def flip(path: Path, dataset: str, raw: bytes) -> None:
    """Overwrite bytes of the first chunk of a dataset, behind HDF5's back."""
    with h5py.File(path) as file:
        offset = file[dataset].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as data:
        data.seek(offset + 8)
        data.write(raw)


def test_a_flipped_byte_is_found_by_deep_alone(tmp_path: Path) -> None:
    experiment = record(tmp_path, range(2), compression=None)
    place = "episodes/episode_0001/behavior/position"
    flip(shard(experiment, 1), place, b"\x01\x02\x03")
    assert problems(experiment) == ""
    text = problems(experiment, deep=True)
    assert f"{place}: its rows are not those that were recorded" in text


def test_a_broken_stream_is_found(experiment: Path) -> None:
    place = "episodes/episode_0001/behavior/position"
    flip(shard(experiment, 1), place, b"\xff" * 16)
    assert place in problems(experiment, deep=True)


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_digests_hold_for_long_episodes_with_late_columns(
    tmp_path: Path, compression: str | None
) -> None:
    from shardwriter import DataExporter

    options = {"neural_sampling_rate": 1, "chunk_size": 50, "compression": compression}
    with (
        DataExporter("long", tmp_path, progress=False, **options) as exporter,  # type: ignore[arg-type]
        exporter.start_episode(0) as episode,
    ):
        for t in range(333):
            fields = {"x": float(t), "empty": np.zeros((0, 3))}
            if t > 120:
                fields["late"] = t / 2
            episode.log_timestep(t, behavior=fields, reward=1.0)
    report = verify(exporter.output_dir, deep=True, workers=1)
    assert report.is_sound, report
    assert report.chunks > 20


# -- the master -------------------------------------------------------------------------------


def replace_virtual(master: Path, source: str, place: str | None = None) -> None:
    name = "episodes/episode_0001/behavior/position"
    with h5py.File(master, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(source, place or name, shape, dtype)
        file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    "source", ["shards/episode_0002.h5", "../elsewhere.h5", "/etc/passwd", "."]
)
def test_a_master_that_points_elsewhere_is_found(experiment: Path, source: str) -> None:
    replace_virtual(experiment / MASTER, source)
    text = problems(experiment)
    assert "/behavior/position: expected shards/episode_0001.h5 as its source" in text
    assert "--rebuild" in text


def test_only_what_hdf5_altered_is_asked_of_hdf5(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    by_hdf5 = master_check._by_hdf5

    def noted(path: Path, rows: list[dict[str, object]]) -> list[str]:
        asked.append([row["episode_id"] for row in rows])  # type: ignore[misc]
        return by_hdf5(path, rows)

    monkeypatch.setattr(master_check, "_by_hdf5", noted)
    master = experiment / MASTER
    rows = tuple(read_index(master) or ())
    assert master_check.check_part(master_check.MasterPart(master, rows)) == []
    assert asked == []
    place = "/episodes/episode_0001/behavior/position"
    replace_virtual(master, "shards/episode_0001.h5", place)
    assert master_check.check_part(master_check.MasterPart(master, rows)) == []
    assert asked == [[1]]
    replace_virtual(master, "shards/episode_0002.h5", place)
    (text,) = master_check.check_part(master_check.MasterPart(master, rows))
    assert "expected shards/episode_0001.h5 as its source" in text
    assert asked == [[1], [1]]


def test_a_cycle_of_virtual_datasets_is_found(experiment: Path) -> None:
    replace_virtual(experiment / MASTER, MASTER)
    assert "as its source" in problems(experiment)


def test_rows_that_differ_from_the_index_are_found(experiment: Path) -> None:
    with h5py.File(experiment / MASTER, "r+") as file:
        index = file["episode_index"][()]
        index["rows_behavior"][1] += 1
        index["size"][2] += 1
        file["episode_index"][...] = index
    text = problems(experiment)
    assert "episode 1, behavior: expected 32 rows, got 31" in text
    assert "episode 2: expected" in text


def test_a_shard_outside_is_found(experiment: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.h5"
    shard(experiment, 1).rename(outside)
    shard(experiment, 1).symlink_to(outside)
    assert "it lies outside" in problems(experiment)
    assert problems(experiment, root=tmp_path) == ""


def test_the_command_has_exit_codes(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(experiment), "--expected", "3"]) == 0
    assert "3 episodes in 3 shards: sound" in capsys.readouterr().out
    shard(experiment, 0).unlink()
    assert main(["verify", str(experiment), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["is_sound"]
    assert set(report["problems"][0]) == {"where", "problem", "mend"}
    assert main(["verify", str(experiment / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("shardwriter: ")
