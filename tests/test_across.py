"""Reading one field over many episodes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from merging import copied, record, shard

from merge import merge_experiments
from shardwriter import ExperimentLoader
from shardwriter.errors import ConfigError, EpisodeNotFound, FieldsDiffer, ShardMissing
from shardwriter.reading import shard_files

FIELDS = ("behavior/position", "behavior/timesteps")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("across"), range(6))


def test_concat_joins_episodes_in_the_order_given(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        values, offsets = loader.concat("behavior/position", [4, 1])
        for i, episode in enumerate([4, 1]):
            expected = loader.get_episode(episode).get_behavior()["position"]
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], expected)
        assert values.dtype == np.float32
        assert len(loader.concat("behavior/position")[1]) == 7


def test_concat_takes_windows_of_timesteps(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        values, offsets = loader.concat("behavior/timesteps", start=28, stop=31)
        assert np.diff(offsets).tolist() == [2, 3, 3, 2, 3, 3]
        assert values.tolist() == [28, 29, 28, 29, 30, 28, 29, 30] * 2
        potentials, _ = loader.concat("neural_states/potential", [2], start=28)
        expected = loader.get_episode(2).get_neural_states(28)["potential"]
        np.testing.assert_array_equal(potentials, expected)


def test_an_episode_without_the_field_has_no_rows(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    from shardwriter import DataExporter

    with DataExporter("bare", tmp_path, progress=False) as exporter:
        exporter.start_episode(9).end()
    output = tmp_path / "all.h5"
    merge_experiments([first, exporter.output_dir], output)
    with ExperimentLoader(output) as loader:
        assert np.diff(loader.concat("behavior/position")[1])[-1] == 0


def test_what_cannot_be_joined_is_an_error(recorded: Path, tmp_path: Path) -> None:
    first = copied(recorded, tmp_path)
    other = record(tmp_path, [9], name="other", position=np.float64)
    merge_experiments([first, other], tmp_path / "all.h5")
    with ExperimentLoader(tmp_path / "all.h5") as loader:
        with pytest.raises(FieldsDiffer, match=r"float64.*episode 9"):
            loader.concat("behavior/position")
        with pytest.raises(FieldsDiffer):
            list(loader.iter_windows(4, 4, FIELDS))
        with pytest.raises(EpisodeNotFound):
            loader.concat("behavior/position", [77])
        for field in ("behavior/speed", "nothing", "behavior"):
            with pytest.raises(ConfigError):
                loader.concat(field)


def test_windows_cover_every_episode_once(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        values, offsets = loader.concat("behavior/position")
        expected = {
            (episode, start)
            for episode in range(6)
            for start in range(0, int(offsets[episode + 1] - offsets[episode]) - 8 + 1, 3)
        }
        for buffer_mb in (256, 0.004):
            batches = list(loader.iter_windows(8, 3, FIELDS, batch_size=7, buffer_mb=buffer_mb))
            assert {len(batch["episode"]) for batch in batches[:-1]} == {7}
            seen = []
            for batch in batches:
                assert batch["behavior/position"].shape[1:] == (8, 3)
                for i, (episode, start) in enumerate(
                    zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True)
                ):
                    seen.append((episode, start))
                    first = int(offsets[episode]) + start
                    window = batch["behavior/position"][i]
                    np.testing.assert_array_equal(window, values[first : first + 8])
                    steps = batch["behavior/timesteps"][i]
                    assert steps.tolist() == list(range(start, start + 8))
            assert sorted(seen) == sorted(expected)


def test_single_windows_are_those_of_the_batches(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        episodes, counts = loader.count_windows(8, 3, FIELDS, episodes=[5, 0])
        numbered = [
            (int(episode), 3 * k)
            for episode, count in zip(episodes, counts, strict=True)
            for k in range(count)
        ]
        (batch,) = loader.iter_windows(8, 3, FIELDS, episodes=[5, 0], shuffle=False)
        assert numbered == list(zip(batch["episode"], batch["start"], strict=True))
        for i, (episode, start) in enumerate(numbered):
            window = loader.get_window(episode, start, 8, FIELDS)
            for field in FIELDS:
                np.testing.assert_array_equal(window[field], batch[field][i])
        assert loader.count_windows(31, 50, FIELDS)[1].tolist() == [0, 1, 1, 0, 1, 1]


def test_few_shards_stay_open_for_windows(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_MOST_OPEN", 2)

    def are_open() -> int:
        paths = [file.path for file in psutil.Process().open_files()]
        return sum(str(recorded / "shards") in path for path in paths)

    with ExperimentLoader(recorded) as loader:
        values, offsets = loader.concat("behavior/position")

        def read(number: int) -> None:
            episode, start = number % 6, number % 20
            window = loader.get_window(episode, start, 8, FIELDS)["behavior/position"]
            first = int(offsets[episode]) + start
            np.testing.assert_array_equal(window, values[first : first + 8])

        for number in range(12):
            read(number)
        assert 1 <= are_open() <= 4  # two by the shards' cache, two by that of columns
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(120)))
    assert are_open() == 0


def test_windows_that_are_not_there(recorded: Path) -> None:
    with ExperimentLoader(recorded) as loader:
        with pytest.raises(EpisodeNotFound):
            loader.get_window(6, 0, 8, FIELDS)
        for start in (-1, 23):
            with pytest.raises(ConfigError, match="rows of episode 0, which has 30"):
                loader.get_window(0, start, 8, FIELDS)
        with pytest.raises(ConfigError, match="columns of episode 0"):
            loader.get_window(0, 0, 8, ["behavior/speed"])
        with pytest.raises(ConfigError, match="of some episode"):
            loader.count_windows(8, 3, ["behavior/speed"])


def test_the_order_of_windows_follows_the_seed(recorded: Path) -> None:
    def order(**options: object) -> list[tuple[int, int]]:
        with ExperimentLoader(recorded) as loader:
            batches = list(loader.iter_windows(8, 3, FIELDS, **options))  # type: ignore[arg-type]
        pairs = [zip(b["episode"].tolist(), b["start"].tolist(), strict=True) for b in batches]
        return [pair for batch in pairs for pair in batch]

    assert order(seed=1) == order(seed=1)
    assert order(seed=1) != order(seed=2)
    assert order(shuffle=False) == sorted(order(seed=1))


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"stride": 0}, {"batch_size": 0}, {"fields": ()}]
)
def test_windows_of_nothing_are_refused(recorded: Path, options: dict[str, object]) -> None:
    chosen = {"length": 4, "stride": 2, "fields": FIELDS, **options}
    with ExperimentLoader(recorded) as loader, pytest.raises(ConfigError):
        loader.iter_windows(**chosen)  # type: ignore[arg-type]


def test_fields_of_different_rows_have_no_windows(recorded: Path) -> None:
    fields = ("behavior/position", "neural_states/potential")
    with ExperimentLoader(recorded) as loader, pytest.raises(ConfigError, match="same timesteps"):
        list(loader.iter_windows(4, 2, fields))


def test_missing_shards_are_raised_or_skipped(recorded: Path, tmp_path: Path) -> None:
    experiment = copied(recorded, tmp_path)
    shard(experiment, 3).unlink()
    with ExperimentLoader(experiment) as loader, pytest.raises(ShardMissing):
        loader.concat("behavior/position")
    with ExperimentLoader(experiment, missing="skip") as loader:
        with pytest.warns(UserWarning, match="episode_0003"):
            values, offsets = loader.concat("behavior/position")
        assert len(offsets) == 6
        assert len(values) == offsets[-1]
