"""Merging: lossless, repeatable, incremental, and loud where something is wrong."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from merging import copied, master_content, record, shard, shards_content, stamps

from merge import (
    MergeOptions,
    describing,
    merge_experiment,
    merge_experiments,
    pack,
    relink,
    unpack,
)
from merge.describing import describe_all
from merge.differences import difference_lines
from merge.front import Amendment, Front, amended
from merge.previous import read_previous
from merge.report import report_text
from merge.sources import Sources
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.errors import (
    ConfigError,
    EpisodesGone,
    EpisodesMissing,
    ExperimentNotFound,
    FormatError,
    IdsCollide,
    MasterStale,
    ShardDamaged,
    ShardMissing,
)

MASTER = "experiment_data.h5"


EPISODES = 4  # of the experiment that each test has a copy of


def positions(path: Path, episode: int) -> np.ndarray:
    with ExperimentLoader(path) as loader:
        return loader.get_episode(episode).get_behavior()["position"]


# -- lossless and repeatable ------------------------------------------------------------------


def test_the_master_holds_all_that_the_shards_hold(experiment: Path) -> None:
    expected = shards_content(experiment)
    found = {
        name: value
        for name, value in master_content(experiment / MASTER).items()
        if name.startswith("episodes/")
    }
    assert len(expected) > 100
    assert found == expected


def test_the_master_holds_what_belongs_to_the_experiment(experiment: Path) -> None:
    with ExperimentLoader(experiment) as loader:
        assert loader.get_config() == {"rate": 0.5, "nested": {"layers": [1, 2]}}
        assert loader.get_metadata()["subject"] == "µ-mouse"
        assert loader.get_checkpoint("best")["step"] == 7
        network = loader.get_network_structure()
        np.testing.assert_array_equal(network["connections"]["sources"], np.arange(20_000) % 20)
        assert loader.get_episode(2).get_metadata()["summary"] == {"distance": 1.5}


def test_merging_twice_gives_the_same_bytes_but_for_times(experiment: Path) -> None:
    seen = []
    for _ in range(2):
        master = merge_experiments([experiment], None, MergeOptions(rebuild=True)).path
        with h5py.File(master) as file:
            time = file.attrs["end_time"].encode()
        data = master.read_bytes()
        assert data.count(time) == 1
        seen.append(data.replace(time, b"-" * len(time)))
    assert seen[0] == seen[1]


def test_merging_never_changes_a_shard(experiment: Path) -> None:
    before = stamps(experiment)
    merge_experiments([experiment], None, MergeOptions(rebuild=True))
    assert stamps(experiment) == before


def test_many_shards_are_described_in_processes_as_in_this_one(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "_TRIED_S", 0.0)
    monkeypatch.setattr(describing, "_WORTH_S", 0.0)
    in_processes: list[int] = []
    in_children = describing.in_children

    def noted(work: str, items: Sequence[Path], *rest: Any) -> Iterator[Any]:
        in_processes.append(len(items))
        return in_children(work, items, *rest)

    monkeypatch.setattr(describing, "in_children", noted)
    paths = [shard(experiment, i % 4) for i in range(240)]
    progress: list[int] = []
    alone = [one for path in paths for one in describe_all([path], 1)]
    together = describe_all(paths, 2, progress.append)
    assert in_processes == [240 - 64]
    assert sum(progress) == len(paths)
    assert [(one.path, one.episode, one.uuid) for one in together] == [
        (one.path, one.episode, one.uuid) for one in alone
    ]
    assert [one.tables for one in together] == [one.tables for one in alone]


# -- incremental ------------------------------------------------------------------------------


def test_progress_counts_each_shard_and_each_episode_once(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_experiments([experiment], None, MergeOptions(rebuild=True, progress=True))
    text = capsys.readouterr().err
    assert re.search(r"read: 100%.* 4/4 ", text)
    assert re.search(r"merge: 100%.* 4/4 ", text)


def test_nothing_is_written_when_nothing_changed(experiment: Path) -> None:
    before = (experiment / MASTER).stat()
    report = merge_experiments([experiment])
    assert report.is_unchanged
    assert (experiment / MASTER).stat().st_mtime_ns == before.st_mtime_ns


def test_only_new_shards_are_opened(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = copied(recorded, tmp_path)
    later = tmp_path / "later.h5"
    shard(experiment, 1).rename(later)
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    later.rename(shard(experiment, 1))
    opened: list[Path] = []
    real = describe_all

    def noted(paths: list[Path], *rest: object) -> object:
        opened.extend(paths)
        return real(paths, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("merge.master.describe_all", noted)
    report = merge_experiments([experiment])
    assert opened == [shard(experiment, 1)]
    assert (report.episodes, report.added) == (4, (1,))
    assert master_content(experiment / MASTER) == master_content(recorded / MASTER)
    with h5py.File(experiment / MASTER) as one, h5py.File(recorded / MASTER) as other:
        assert one["episode_index"]["episode_id"].tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(one["episode_index"]["uuid"], other["episode_index"]["uuid"])


def test_a_new_configuration_reaches_the_master(experiment: Path) -> None:
    with h5py.File(experiment / "experiment/config.h5", "r+") as file:
        file.attrs["rate"] = 0.75
    assert merge_experiments([experiment]).is_unchanged  # no episode changed
    with ExperimentLoader(experiment) as loader:
        assert loader.get_config()["rate"] == 0.75
        assert len(loader.get_episode(3).get_behavior()["position"]) == 30


def test_a_damaged_last_master_is_no_obstacle(experiment: Path) -> None:
    whole = master_content(experiment / MASTER)
    with h5py.File(experiment / MASTER, "r+") as file:
        del file["merge"]
    merge_experiments([experiment])
    assert master_content(experiment / MASTER) == whole


@pytest.mark.parametrize("is_sound", [True, False])
def test_a_copy_that_hdf5_cannot_change_is_not_amended(experiment: Path, is_sound: bool) -> None:
    last = read_previous(experiment / MASTER, is_own=True)
    assert last is not None
    earlier = experiment / "earlier.h5"
    data = bytearray((experiment / MASTER).read_bytes())
    if not is_sound:
        root = int.from_bytes(data[36:44], "little")
        data[root : root + 4] = bytes(4)
    earlier.write_bytes(data)
    sources = Sources.of([experiment], None)
    front = Front(experiment / "copy.h5", sources, last.index, last.notes)
    assert amended(Amendment(front, earlier, has_own=False)) == is_sound


def test_what_cannot_be_amended_is_written_anew(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = master_content(experiment / MASTER)
    later = shard(experiment, 3).rename(experiment / "later.h5")
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    later.rename(shard(experiment, 3))
    monkeypatch.setattr("merge.master.amended", lambda amendment: False)
    report = merge_experiments([experiment])
    assert report.added == (3,)
    assert master_content(experiment / MASTER) == expected


def test_a_file_that_is_no_master_is_not_overwritten(experiment: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "other.h5"):
        other = tmp_path / name
        if name == "other.h5":
            h5py.File(other, "w").close()
        else:
            other.write_text("mine")
        before = other.read_bytes()
        with pytest.raises(FormatError):
            merge_experiment(experiment, other)
        assert other.read_bytes() == before
    (alone,) = record(tmp_path / "other", [0]).glob("shards/*.h5")
    with pytest.raises(FormatError, match="a shard"):
        merge_experiment(experiment, alone)
    with pytest.raises(ConfigError, match="outside of the folder shards/"):
        merge_experiment(experiment, shard(experiment, 50))
    packed = pack(experiment, tmp_path / "packed.h5")
    for data in (packed.read_bytes(), packed.read_bytes()[:-1000]):
        packed.write_bytes(data)
        with pytest.raises(FormatError, match=r"a packed file|move it away"):
            merge_experiment(experiment, packed)
        with pytest.raises((FormatError, ShardDamaged)):
            relink(packed, [experiment])
        assert packed.read_bytes() == data


# -- moved, missing, swapped, truncated, renamed ----------------------------------------------


def test_the_directory_moves_as_a_whole(experiment: Path, tmp_path: Path) -> None:
    expected = positions(experiment, 2)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    experiment.rename(moved)
    np.testing.assert_array_equal(positions(moved, 2), expected)
    with h5py.File(moved / MASTER) as file:
        np.testing.assert_array_equal(file["episodes/episode_0002/behavior/position"], expected)


def test_a_master_moved_alone_says_where_it_looked(experiment: Path, tmp_path: Path) -> None:
    alone = tmp_path / "results" / MASTER
    alone.parent.mkdir()
    (experiment / MASTER).rename(alone)
    with pytest.raises(ShardMissing, match=re.escape(str(alone.parent / "shards"))) as error:
        positions(alone, 2)
    assert "relink" in str(error.value)


def test_a_missing_shard_is_named_by_loader_and_merge(experiment: Path) -> None:
    shard(experiment, 2).unlink()
    with pytest.raises(ShardMissing, match="episode_0002"):
        positions(experiment, 2)
    before = (experiment / MASTER).read_bytes()
    with pytest.raises(EpisodesGone, match="forget-missing"):
        merge_experiment(experiment)
    assert (experiment / MASTER).read_bytes() == before
    report = merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    assert (report.episodes, report.removed) == (3, (2,))


def test_skipping_missing_shards_warns(experiment: Path) -> None:
    shard(experiment, 2).unlink()
    with ExperimentLoader(experiment, missing="skip") as loader:
        with pytest.warns(UserWarning, match="episode_0002"):
            assert [episode.id for episode in loader] == [0, 1, 3]
        with pytest.raises(ShardMissing):
            loader.get_episode(2).get_behavior()
    with pytest.raises(ConfigError):
        ExperimentLoader(experiment, missing="ignore")


def test_swapped_shards_are_noticed(experiment: Path, tmp_path: Path) -> None:
    shard(experiment, 0).rename(tmp_path / "x")
    shard(experiment, 3).rename(shard(experiment, 0))
    (tmp_path / "x").rename(shard(experiment, 3))
    for episode in (0, 3):
        with pytest.raises(MasterStale):
            positions(experiment, episode)
    with pytest.raises(ShardDamaged, match="swap the names of the two"):
        merge_experiment(experiment)


def test_a_renamed_shard_is_noticed(experiment: Path) -> None:
    shard(experiment, 1).rename(shard(experiment, 9))
    with pytest.raises(ShardDamaged, match="rename it to episode_0001"):
        merge_experiment(experiment)
    shutil.copy(shard(experiment, 9), shard(experiment, 1))
    with pytest.raises(ShardDamaged, match=r"episode_0001\.h5 is there as well"):
        merge_experiment(experiment)


@pytest.mark.parametrize("size", [0, 100, -1000])
def test_a_truncated_shard_is_noticed(experiment: Path, size: int) -> None:
    path = shard(experiment, 1)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    with pytest.raises(MasterStale, match="bytes"):
        positions(experiment, 1)
    with pytest.raises(ShardDamaged, match=r"episode_0001.*; put an intact copy in its place"):
        merge_experiment(experiment)


def test_decoys_are_not_read(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "decoy"
    record(decoy, range(4), name="other", position=np.float64)
    folder = next(decoy.iterdir())
    expected = positions(experiment, 2)
    with ExperimentLoader(experiment) as loader:
        network = loader.get_network_structure()
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(folder))
    monkeypatch.chdir(folder)
    np.testing.assert_array_equal(positions(experiment, 2), expected)
    with ExperimentLoader(experiment) as loader:
        again = loader.get_network_structure()["connections"]["targets"]
    np.testing.assert_array_equal(again, network["connections"]["targets"])
    shard(experiment, 2).unlink()
    with pytest.raises(ShardMissing):
        positions(experiment, 2)


def test_a_missing_file_of_the_experiment_is_an_error(experiment: Path) -> None:
    (experiment / "experiment/network_structure.h5").unlink()
    with ExperimentLoader(experiment) as loader, pytest.raises(ExperimentNotFound):
        loader.get_network_structure()


def test_no_directory_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(ExperimentNotFound):
        merge_experiment(tmp_path)


# -- expected, several sources, differences ---------------------------------------------------


def test_expected_episodes_that_lack_are_named(experiment: Path) -> None:
    merge_experiments([experiment], None, MergeOptions(expected=range(4)))
    before = (experiment / MASTER).read_bytes()
    with pytest.raises(EpisodesMissing, match=r"4-5 missing"):
        merge_experiments([experiment], None, MergeOptions(expected=range(6)))
    assert (experiment / MASTER).read_bytes() == before


def test_several_experiments_merge_into_one(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    second = record(tmp_path, [7, 8], name="second")
    report = merge_experiments([first, second], tmp_path / "all.h5")
    assert (report.episodes, report.added) == (6, (0, 1, 2, 3, 7, 8))
    assert not report.leaves_folder
    np.testing.assert_array_equal(positions(report.path, 8), positions(second, 8))
    with h5py.File(report.path) as file:
        assert file[f"sources/{second.name}"].attrs["subject"] == "µ-mouse"
        assert file[f"sources/{second.name}/config"].attrs["rate"] == 0.5
    assert merge_experiments([first, second], tmp_path / "all.h5").is_unchanged


def test_several_experiments_need_a_path(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    with pytest.raises(ConfigError, match="output"):
        merge_experiments([first, recorded])
    with pytest.raises(ConfigError, match="twice"):
        merge_experiments([first, first], tmp_path / "all.h5")


def test_colliding_ids_are_listed_or_renumbered(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    second = record(tmp_path, [3, 7], name="second")
    output = tmp_path / "all.h5"
    with pytest.raises(IdsCollide, match=r"3 \(.*renumber"):
        merge_experiments([first, second], output)
    assert not output.exists()
    report = merge_experiments([first, second], output, MergeOptions(renumber=True))
    assert report.renumbered == {8: (shard(second, 3), 3)}
    np.testing.assert_array_equal(positions(output, 8), positions(second, 3))
    np.testing.assert_array_equal(positions(output, 3), positions(first, 3))
    with h5py.File(output) as file:
        shown = file["episodes/episode_0008/behavior/position"][()]
    np.testing.assert_array_equal(shown, positions(second, 3))
    assert merge_experiments([first, second], output, MergeOptions(renumber=True)).is_unchanged


def identities(master: Path) -> dict[int, tuple[bytes, int]]:
    """Return the shard's uuid and the id there, by the id in a master."""
    with h5py.File(master) as file:
        index = file["episode_index"]
        columns = (index[name].tolist() for name in ("episode_id", "uuid", "shard_episode_id"))
        return {episode: (uuid, own) for episode, uuid, own in zip(*columns, strict=True)}


def test_an_episode_keeps_the_id_that_it_was_given(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    second = record(tmp_path, [3, 7], name="second")
    output = tmp_path / "all.h5"
    merge_experiments([first, second], output, MergeOptions(renumber=True))
    before = identities(output)
    with DataExporter.resume(first, progress=False) as exporter:
        for episode in (7, 8):
            exporter.start_episode(episode).end()
    report = merge_experiments([first, second], output, MergeOptions(renumber=True))
    assert report.added == (9, 10)
    relink(output, [second, first])
    now = identities(output)
    assert {episode: now[episode] for episode in before} == before
    assert set(now) - set(before) == {9, 10}


def test_no_merge_forgets_what_another_experiment_had(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    second = record(tmp_path, [7], name="second")
    merge_experiments([first, second], first / MASTER)
    before = identities(first / MASTER)
    with pytest.raises(EpisodesGone, match=r"episode 7.*name every directory"):
        merge_experiment(first)
    for take in (pack, unpack):
        with pytest.raises(EpisodesGone, match=r"episode 7.*another experiment's"):
            take(first, tmp_path / "output")
    assert identities(first / MASTER) == before
    assert merge_experiments([second, first], first / MASTER).removed == ()
    renamed = second.rename(tmp_path / "renamed")
    assert merge_experiments([first, renamed], first / MASTER).removed == ()
    report = merge_experiments([first], None, MergeOptions(forget_missing=True))
    assert report.removed == (7,)


@pytest.mark.parametrize("name", ["episode_index", "merge", "sources", os.fsdecode(b"x\xff")])
def test_an_own_file_with_a_name_of_the_masters_is_refused(experiment: Path, name: str) -> None:
    own = experiment / "experiment" / f"{name}.h5"
    h5py.File(os.fsencode(own), "w").close()
    before = (experiment / MASTER).read_bytes()
    for options in (MergeOptions(), MergeOptions(rebuild=True)):
        with pytest.raises(ShardDamaged, match="expected another name"):
            merge_experiments([experiment], None, options)
    with pytest.raises(ShardDamaged, match="expected another name"):
        pack(experiment, experiment.parent / "packed.h5")
    assert (experiment / MASTER).read_bytes() == before


def test_differing_schemas_are_told(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    second = record(tmp_path, [7, 8], name="second", position=np.float64)
    for _ in range(2):  # also when nothing is new
        report = merge_experiments([first, second], tmp_path / "all.h5")
        (difference,) = report.differences
        assert difference.field == "behavior/position"
        assert difference.forms == (("float32 (3,)", (0, 1, 2, 3)), ("float64 (3,)", (7, 8)))
        text = "\n".join(difference_lines(report.differences))
        assert "behavior/position" in text
        assert "2: 7-8" in text


def test_a_dry_run_writes_nothing(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    output = tmp_path / "all.h5"
    report = merge_experiments([first], output, MergeOptions(dry_run=True))
    assert not output.exists()
    assert "added: 4 (0-3)" in report_text(report, is_dry=True)


def test_a_master_elsewhere_needs_consent_to_be_read(experiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    report = merge_experiments([experiment], folder / "m.h5")
    assert report.root == tmp_path
    assert str(tmp_path) in report_text(report)
    with ExperimentLoader(folder / "m.h5", root=tmp_path) as loader:
        assert len(loader.get_episode(0).get_behavior()["position"]) == 30


# -- the command ------------------------------------------------------------------------------


def test_the_command_says_what_it_did(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(experiment), "--rebuild", "--expected", "4"]) == 0
    assert "4 episodes" in capsys.readouterr().out
    assert main(["merge", str(experiment), "--expected", "0:5"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("shardwriter: expected 5 episodes, got 4: 4 missing")
    assert error.count("\n") == 1


def test_errors_survive_pickling() -> None:
    errors = [
        EpisodesGone({3: Path("a")}, Path("m")),
        EpisodesMissing([3], 4),
        IdsCollide({3: ["a", "b"]}),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)


def test_a_few_descriptors_are_enough(experiment: Path, tmp_path: Path) -> None:
    for i in range(4, 120):
        shutil.copyfile(shard(experiment, i % 4), shard(experiment, i))
        with h5py.File(shard(experiment, i), "r+") as file:
            file.move(f"episodes/episode_{i % 4:04d}", f"episodes/episode_{i:04d}")
            file[f"episodes/episode_{i:04d}"].attrs["episode_id"] = i
    script = """if True:
        import resource, sys, threading
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        from merge import merge_experiment
        from shardwriter import DataExporter, ExperimentLoader
        from pathlib import Path
        merge_experiment(Path(sys.argv[1]))
        found = []
        with ExperimentLoader(sys.argv[1]) as loader:
            def read():
                for episode in loader:
                    found.append(len(episode.get_behavior()["position"]) >= 30)
            threads = [threading.Thread(target=read) for _ in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        print(len(found), all(found))
    """
    command = [sys.executable, "-c", script, str(experiment)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["960", "True"], done.stderr
