"""Packing and unpacking."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import pytest
from merging import master_content, shard, shards_content, stamps

from merge import (
    MergeOptions,
    merge_experiment,
    merge_experiments,
    pack,
    pack_shards,
    unpack,
    verify,
)
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import (
    ConfigError,
    EpisodeExists,
    EpisodesGone,
    ExperimentNotFound,
    FormatError,
    ShardDamaged,
)
from shardwriter.files.layout import temporary_path
from shardwriter.recording.episode import Episode
from shardwriter.recovery import missing, recover
from shardwriter.system.process import Identity

MASTER = "experiment_data.h5"


EPISODES = 5  # of the experiment that each test has a copy of


def read(path: Path) -> dict[str, object]:
    """Read an experiment through the loader."""
    with ExperimentLoader(path) as loader:
        found: dict[str, object] = {"config": loader.get_config()}
        found["network"] = loader.get_network_structure()["connections"]["targets"].tolist()
        for episode in loader:
            found[f"{episode.id} metadata"] = episode.get_metadata()
            found[f"{episode.id} static"] = episode.get_static_data()["maze"]["walls"].tolist()
            tables = (episode.get_behavior(), episode.get_events("goal"))
            for table in tables:
                found |= {f"{episode.id} {k}": v.tolist() for k, v in table.items()}
        return found


@pytest.mark.usefixtures("both_ways")
def test_a_packed_file_needs_no_other(experiment: Path, tmp_path: Path) -> None:
    before, expected, shown = stamps(experiment), read(experiment), shards_content(experiment)
    packed = pack(experiment, tmp_path / "all.h5")
    assert stamps(experiment) == before
    experiment.rename(tmp_path / "gone")
    assert read(packed) == expected
    content = master_content(packed)
    assert {k: v for k, v in content.items() if k.startswith("episodes/")} == shown
    assert verify(packed, deep=True, expected=range(5), workers=1).is_sound


@pytest.mark.usefixtures("both_ways")
def test_packed_chunks_are_those_of_the_shards(experiment: Path, tmp_path: Path) -> None:
    packed = pack(experiment, tmp_path / "all.h5")
    name = "episodes/episode_0003/neural_states/potential"
    with h5py.File(packed) as one, h5py.File(shard(experiment, 3)) as other:
        chunks = [file[name].id.read_direct_chunk((0, 0)) for file in (one, other)]
        assert one[name].compression == "gzip"
    assert chunks[0] == chunks[1]


@pytest.mark.usefixtures("both_ways")
def test_unpacking_gives_the_shards_back(experiment: Path, tmp_path: Path) -> None:
    packed = pack(experiment, tmp_path / "all.h5")
    back = unpack(packed, tmp_path / "back")
    assert shards_content(back) == shards_content(experiment)
    assert read(back) == read(experiment)
    with h5py.File(back / MASTER) as one, h5py.File(experiment / MASTER) as other:
        assert one["episode_index"]["uuid"].tolist() == other["episode_index"]["uuid"].tolist()
    assert verify(back, deep=True, workers=1).is_sound


@pytest.mark.usefixtures("both_ways")
def test_an_unpacked_experiment_is_gone_on_with(experiment: Path, tmp_path: Path) -> None:
    again = unpack(pack(experiment, tmp_path / "all.h5"), tmp_path / "again")
    assert (again / "config.json").read_bytes() == (experiment / "config.json").read_bytes()
    with DataExporter.resume(again, progress=False) as exporter:
        exporter.start_episode(9).end()
    assert verify(again, expected=[0, 1, 2, 3, 4, 9], workers=1).is_sound


def test_what_was_not_packed_is_not_unpacked(experiment: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    for path, got in ((text, "no HDF5 file"), (experiment / MASTER, "a master")):
        with pytest.raises(FormatError, match=f"expected a packed file, got {got}"):
            unpack(path, tmp_path / "again")
    packed = pack(experiment, tmp_path / "all.h5")
    for take in (pack, merge_experiment):
        with pytest.raises(ExperimentNotFound, match="give the directory of one"):
            take(packed, tmp_path / "again")


def test_nobody_spoils_what_another_process_packs(experiment: Path, tmp_path: Path) -> None:
    """Two write to one path at once: one has it, and the other is told."""
    packed = pack(experiment, tmp_path / "all.h5")
    for number, (name, source) in enumerate(
        [("pack", experiment), ("pack_shards", experiment), ("unpack", packed)]
    ):
        output = tmp_path / f"output {number}"
        more = ", 2" if name == "pack_shards" else ""
        script = f"""
            import sys
            from pathlib import Path
            import merge
            from shardwriter.errors import ConfigError
            print("ready", flush=True)
            sys.stdin.read(1)
            try:
                merge.{name}(Path(sys.argv[1]), Path(sys.argv[2]){more})
            except ConfigError as error:
                print(error)
        """
        command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(output)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        several = [subprocess.Popen(command, **pipes) for _ in range(3)]
        for each in several:
            assert each.stdout.readline() == "ready\n"
        printed = [each.communicate("\n")[0] for each in several]
        assert [each.returncode for each in several] == [0, 0, 0]
        assert sorted("expected a path that does not exist" in text for text in printed) == [
            False,
            True,
            True,
        ]
        assert verify(output, deep=True, expected=range(5), workers=1).is_sound
    assert not list(tmp_path.glob(".*"))


def test_what_a_dead_process_left_is_removed(experiment: Path, tmp_path: Path) -> None:
    dead = replace(Identity.own(), start_ticks=1)
    temporary_path(tmp_path / "all.h5", dead.label).write_bytes(b"half")
    pack(experiment, tmp_path / "all.h5")
    assert not list(tmp_path.glob(".*"))


def test_few_shards_hold_all_episodes(experiment: Path, tmp_path: Path) -> None:
    few = pack_shards(experiment, tmp_path / "few", 2)
    assert len(list((few / "shards").iterdir())) == 2
    assert read(few) == read(experiment)
    assert verify(few, deep=True, expected=range(5), workers=1).is_sound
    assert merge_experiments([few]).is_unchanged
    back = unpack(few, tmp_path / "back")
    assert shards_content(back) == shards_content(experiment)
    (few / "shards/pack_0001.h5").unlink()
    assert "episode 3, 4" in str(verify(few, workers=1))
    with pytest.raises(EpisodesGone, match="episodes 3-4"):
        unpack(few, tmp_path / "part")


def test_what_is_there_is_not_overwritten(experiment: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    for call in (pack, unpack):
        with pytest.raises(ConfigError, match="does not exist"):
            call(experiment, there)
    with pytest.raises(ConfigError):
        pack_shards(experiment, there, 2)
    assert there.read_text() == "mine"


def damage(path: Path, dataset: str) -> None:
    """Overwrite some bytes of the first chunk of a dataset, behind HDF5's back."""
    with h5py.File(path) as file:
        place = file[dataset].id.get_chunk_info(0)
    with path.open("r+b") as data:
        data.seek(place.byte_offset + 8)
        data.write(b"\xff" * 16)


POSITION = "episodes/episode_0001/behavior/position"


def test_packing_a_damaged_shard_deep_leaves_nothing(experiment: Path, tmp_path: Path) -> None:
    damage(shard(experiment, 1), POSITION)
    before = stamps(experiment)
    for take in (pack, partial(pack_shards, shards=2), unpack):
        with pytest.raises(ShardDamaged, match=r"shards/episode_0001\.h5: .*behavior/position"):
            take(experiment, tmp_path / "output", deep=True)
    assert stamps(experiment) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [experiment.name]


def test_a_damaged_shard_is_packed_with_the_digest_that_tells(
    experiment: Path, tmp_path: Path
) -> None:
    damage(shard(experiment, 1), POSITION)
    packed = pack(experiment, tmp_path / "all.h5")
    assert POSITION in str(verify(packed, deep=True, workers=1))


def of_chunk(file: h5py.File) -> bytes:
    return bytes(file[POSITION].id.read_direct_chunk((0, 0))[1])


def of_number(file: h5py.File) -> bytes:
    return bytes(file["episodes/episode_0001"].attrs["seed"].tobytes())


def of_text(file: h5py.File) -> bytes:
    return str(file["episodes/episode_0001"].attrs["start_time"]).encode()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("stored", [of_chunk, of_number, of_text])
def test_a_copy_that_differs_is_never_published(
    experiment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: Callable[[h5py.File], bytes],
) -> None:
    with h5py.File(shard(experiment, 1)) as file:
        what = stored(file)
    other = bytes([what[0] ^ 1]) + what[1:]
    module = sys.modules["merge.pack"]
    check = module._check

    def check_flipped(path: Path, *rest: object) -> None:
        path.write_bytes(path.read_bytes().replace(what, other))
        check(path, *rest)

    before = stamps(experiment)
    packed = pack(experiment, tmp_path / "sound.h5")
    monkeypatch.setattr(module, "_check", check_flipped)
    targets = [tmp_path / name for name in ("all.h5", "few", "back")]
    with pytest.raises(ShardDamaged, match=r"\.all\.h5~.*\.tmp"):
        pack(experiment, targets[0])
    with pytest.raises(ShardDamaged, match=r"pack_0000\.h5"):
        pack_shards(experiment, targets[1], 1)
    with pytest.raises(ShardDamaged, match="episode_0001"):
        unpack(packed, targets[2])
    assert stamps(experiment) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [experiment.name, "sound.h5"]


def test_an_episode_that_is_gone_is_not_left_out(experiment: Path, tmp_path: Path) -> None:
    shard(experiment, 1).unlink()
    with pytest.raises(EpisodesGone, match=r"episode 1.*put them back"):
        pack(experiment, tmp_path / "all.h5")
    with pytest.raises(EpisodesGone, match=r"episode 1.*put them back"):
        pack_shards(experiment, tmp_path / "few", 2)
    assert [path.name for path in tmp_path.iterdir()] == [experiment.name]
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    packed = pack(experiment, tmp_path / "all.h5")
    assert verify(packed, expected=[0, 2, 3, 4], workers=1).is_sound


def without_one(data: bytes) -> bytes:
    """Return a packed file whose table of names, which has no checksum, lacks its last entry."""
    place = data.index(b"SNOD\x01\x00") + 6
    return data[:place] + bytes([data[place] - 1]) + data[place + 1 :]


def with_another_name(data: bytes) -> bytes:
    return data.replace(b"episode_0003\0", b"episode_0009\0")


def with_one_twice(data: bytes) -> bytes:
    """Return a packed file of which two names lead to one episode."""
    first = data.index(b"SNOD\x01\x00") + 8
    address = data[first + 8 : first + 16]
    return data[: first + 48] + address + data[first + 56 :]


@pytest.mark.parametrize("harm", [without_one, with_another_name, with_one_twice])
def test_an_episode_that_a_packed_file_lost_is_missed(
    experiment: Path, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    packed = pack(experiment, tmp_path / "all.h5")
    few = pack_shards(experiment, tmp_path / "few", 1)
    for path in (packed, few / "shards" / "pack_0000.h5"):
        path.write_bytes(harm(path.read_bytes()))
    for act in (
        lambda: unpack(packed, tmp_path / "back"),
        lambda: unpack(few, tmp_path / "back"),
        lambda: pack(few, tmp_path / "again.h5"),
        lambda: merge_experiments([few], None, MergeOptions(rebuild=True)),
    ):
        with pytest.raises(ShardDamaged, match="; put an intact copy in its place"):
            act()
    assert not verify(packed, workers=1).is_sound
    assert not verify(few, workers=1).is_sound


def test_a_directory_is_on_stable_storage_before_it_has_its_name(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    few = tmp_path / "few"

    def sync(path: Path) -> None:
        assert not few.exists()
        synced.append(path.name)

    monkeypatch.setattr(sys.modules["merge.pack"], "sync_file", sync)
    pack_shards(experiment, few, 2)
    assert {"pack_0000.h5", "pack_0001.h5", "shards", "experiment"} <= set(synced)
    assert any(name.startswith(".few~") for name in synced)


def test_a_packed_file_that_is_cut_short_says_what_to_do(experiment: Path, tmp_path: Path) -> None:
    packed = pack(experiment, tmp_path / "all.h5")
    packed.write_bytes(packed.read_bytes()[:-1000])
    with pytest.raises(ShardDamaged, match="put an intact copy in its place"):
        unpack(packed, tmp_path / "back")


def test_packed_episodes_are_not_missing_and_keep_their_ids(
    experiment: Path, tmp_path: Path
) -> None:
    few = pack_shards(experiment, tmp_path / "few", 2)
    assert recover(few) == []
    assert missing(few, range(7)) == [5, 6]
    with DataExporter.resume(few, progress=False) as exporter:
        with pytest.raises(EpisodeExists, match=r"pack_0001\.h5"):
            exporter.start_episode(4)
        with exporter.start_episode() as episode:
            episode.log_timestep(0, behavior={"x": 1.0})
    assert episode.id == 5
    with ExperimentLoader(few) as loader:
        assert loader.list_episodes() == [0, 1, 2, 3, 4, 5]


def test_what_is_packed_is_not_run_again(experiment: Path, tmp_path: Path) -> None:
    def rollout(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"x": float(episode.id)})

    few = pack_shards(experiment, tmp_path / "few", 2)
    before = stamps(few)
    with DataExporter.resume(few, progress=False) as exporter:
        results = exporter.run_episodes(rollout, range(6), n_workers=1, skip_existing=True)
    assert [(r.episode, r.status) for r in results] == [(i, "completed") for i in range(6)]
    assert [r.summary for r in results] == [{"distance": 1.5}] * 5 + [None]
    assert [r.shard.name for r in results if r.shard] == [
        *["pack_0000.h5"] * 3,
        *["pack_0001.h5"] * 2,
        "episode_0005.h5",
    ]
    after = stamps(few)
    assert {name: after[name] for name in before} == before


def test_a_packed_episode_that_failed_says_how_to_run_it_again(tmp_path: Path) -> None:
    def fails(episode: Episode) -> None:
        episode.log_timestep(0, reward=1.0)
        raise ValueError("too early")

    with DataExporter("failed", tmp_path, progress=False) as exporter:
        exporter.run_episodes(fails, [0], n_workers=1, on_error="continue")
    few = pack_shards(exporter.output_dir, tmp_path / "few", 1)
    with DataExporter.resume(few, progress=False) as exporter:
        [result] = exporter.run_episodes(
            fails, [0], n_workers=1, skip_existing=True, on_error="continue", retries=1
        )
    assert result.status == "failed"
    assert "too early; it lies in pack_0000.h5: to run it again, unpack" in str(result.error)
