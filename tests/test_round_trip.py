"""The main promise, end to end: what parallel rollouts logged comes back bit for bit."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from known_episode import (
    LONG_ID,
    assert_same,
    assert_same_tree,
    known,
    record_in_blocks,
    record_singly,
    tables_by_h5py,
    tables_by_loader,
)

from shardwriter import DataExporter, EpisodeResult, ExperimentLoader

EPISODES = [*range(LONG_ID), LONG_ID]
SHUFFLE, DEFLATE, LZF = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF
LEVEL = 6


@dataclass(frozen=True)
class Recorded:
    directory: Path
    compression: str | None
    results: list[EpisodeResult]

    @property
    def master(self) -> Path:
        return self.directory / "experiment_data.h5"

    def shard(self, episode: int) -> Path:
        return self.directory / f"shards/episode_{episode:04d}.h5"


@pytest.fixture(scope="module", params=["gzip", "lzf", None], ids=str)
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recorded]:
    """Record 64 short episodes and one of 200,000 steps over four worker processes."""
    directory = tmp_path_factory.mktemp("round_trip")
    rollout = record_singly if request.param == "gzip" else record_in_blocks
    with DataExporter(
        "known",
        directory,
        neural_sampling_rate=3,
        compression=request.param,
        compression_level=LEVEL,
        seed=11,
        progress=False,
    ) as exporter:
        # The long one first, so that it does not run alone at the end.
        results = exporter.run_episodes(rollout, [LONG_ID, *range(LONG_ID)], n_workers=4)
    yield Recorded(exporter.output_dir, request.param, results)
    shutil.rmtree(directory)


def test_every_episode_has_its_result(recorded: Recorded) -> None:
    assert [result.episode for result in recorded.results] == [LONG_ID, *range(LONG_ID)]
    assert {result.status for result in recorded.results} == {"completed"}
    assert all(result.is_good and result.shard for result in recorded.results)


def test_the_loader_gives_back_every_value(recorded: Recorded) -> None:
    with ExperimentLoader(recorded.directory) as loader:
        assert loader.list_episodes() == EPISODES
        for episode in EPISODES:
            found = tables_by_loader(loader, episode)
            deltas = found.pop("weight_changes/deltas")
            assert_same(found, known(episode).tables)
            changes = loader.get_episode(episode).get_weight_changes()
            np.testing.assert_array_equal(deltas, changes["new_weights"] - changes["old_weights"])


def test_the_loader_gives_back_what_is_not_a_table(recorded: Recorded) -> None:
    with ExperimentLoader(recorded.directory) as loader:
        for episode in (0, 17, LONG_ID):
            handle, expected = loader.get_episode(episode), known(episode)
            metadata = handle.get_metadata()
            assert_same_tree(handle.get_static_data("maze"), expected.static())
            assert_same_tree(handle.get_static_data(), {"maze": expected.static()})
            assert_same_tree(handle.get_final_state(), expected.static())
            assert metadata["summary"] == {"id": episode, "score": 0.5}
            assert metadata["episode_id"] == episode
            assert (metadata["status"], metadata["success"]) == ("completed", False)
            assert metadata["total_timesteps"] == expected.steps
            assert metadata["total_spikes"] == expected.arrays["spikes"].sum()
            assert metadata["total_reward"] == pytest.approx(expected.arrays["reward"].sum())


def test_the_index_counts_what_the_episodes_hold(recorded: Recorded) -> None:
    with ExperimentLoader(recorded.directory) as loader:
        index = loader.episode_index
    assert index["episode_id"].tolist() == EPISODES
    assert index["steps"].tolist() == [known(i).steps for i in EPISODES]
    for table in ("neural_states", "spikes", "behavior", "rewards", "weight_changes"):
        rows = [len(known(i).tables[f"{table}/timesteps"]) for i in (0, 5, LONG_ID)]
        assert index[f"rows_{table}"][[0, 5, LONG_ID]].tolist() == rows
    assert len(set(index["seed"].tolist())) == len(EPISODES)
    assert np.all(index["end_time"] >= index["start_time"])


def test_plain_h5py_reads_every_shard(recorded: Recorded) -> None:
    for episode in EPISODES:
        assert_same(tables_by_h5py(recorded.shard(episode), episode), known(episode).tables)


def test_plain_h5py_reads_the_master_from_any_directory(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path, recorded.directory, recorded.directory / "shards"):
        monkeypatch.chdir(place)
        assert_same(tables_by_h5py(recorded.master, 3), known(3).tables)
    monkeypatch.chdir(tmp_path)
    for episode in EPISODES:
        assert_same(tables_by_h5py(recorded.master, episode), known(episode).tables)


def test_the_whole_directory_may_move(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(recorded.directory, moved)
    try:
        monkeypatch.chdir(tmp_path)
        for episode in (0, 63, LONG_ID):
            expected = known(episode).tables
            assert_same(tables_by_h5py(moved / "experiment_data.h5", episode), expected)
            assert_same(
                tables_by_h5py(Path("elsewhere/renamed/experiment_data.h5"), episode), expected
            )
            with ExperimentLoader(moved) as loader:
                found = tables_by_loader(loader, episode)
            del found["weight_changes/deltas"]
            assert_same(found, expected)
    finally:
        shutil.move(moved, recorded.directory)


def test_only_stock_filters_are_in_the_shards(recorded: Recorded) -> None:
    expected = {
        "gzip": [(SHUFFLE, None), (DEFLATE, LEVEL)],
        "lzf": [(SHUFFLE, None), (LZF, None)],
        None: [],
    }[recorded.compression]
    for episode in (0, LONG_ID):
        filters = filters_by_path(recorded.shard(episode))
        tables = known(episode).tables
        for path in tables:
            assert filters[f"episodes/episode_{episode:04d}/{path}"] == expected, path
        everything = {code for chain in filters.values() for code, _ in chain}
        assert everything <= {SHUFFLE, DEFLATE, LZF}


def test_the_master_needs_no_filter_of_its_own(recorded: Recorded) -> None:
    codes = {code for chain in filters_by_path(recorded.master).values() for code, _ in chain}
    assert codes <= {SHUFFLE, DEFLATE}


def filters_by_path(path: Path) -> dict[str, list[tuple[int, int | None]]]:
    """Return (filter, gzip level) of every dataset, as the file declares them."""
    found = {}

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset):
            properties = node.id.get_create_plist()
            chain = [properties.get_filter(i) for i in range(properties.get_nfilters())]
            found[name] = [
                (code, values[0] if code == DEFLATE else None) for code, _, values, _ in chain
            ]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found
