"""pandas: the episode index as a table."""

from pathlib import Path

import h5py
import known
import numpy as np
import pandas
import pytest

from shardwriter import DataExporter, ExperimentLoader


def test_the_index_is_a_table(tmp_path: Path) -> None:
    with ExperimentLoader(known.record(tmp_path)) as loader:
        table, index = loader.to_dataframe(), loader.episode_index
    assert table.index.tolist() == [0, 1, 2]
    assert table["status"].tolist() == ["completed"] * 3
    for name in ("steps", "spikes", "total_reward", "seed", "rows_spikes", "size", "rows_events"):
        np.testing.assert_array_equal(table[name].to_numpy(), index[name])
    assert table["start_time"].dt.tz is not None
    seconds = (table["start_time"] - pandas.Timestamp(0, tz="UTC")).dt.total_seconds()
    np.testing.assert_allclose(seconds, index["start_time"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [np.inf, 1e300, 1e305, np.nan])
def test_a_time_that_is_none_is_na(tmp_path: Path, seconds: float) -> None:
    directory = known.record(tmp_path)
    with h5py.File(directory / "experiment_data.h5", "r+") as file:
        index = file["episode_index"][()]
        index["start_time"][1] = seconds
        index["status"][1] = b"\xff"
        file["episode_index"][...] = index
    with ExperimentLoader(directory) as loader:
        table = loader.to_dataframe()
    assert table["start_time"].isna().tolist() == [False, True, False]
    assert table["status"][1] == r"\xff"


def test_a_table_that_is_not_there_is_na(tmp_path: Path) -> None:
    with (
        DataExporter("few", tmp_path, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_timestep(0, behavior={"x": 1.0})
    with ExperimentLoader(exporter.output_dir) as loader:
        table = loader.to_dataframe()
    assert table["rows_spikes"].isna().all()
    assert table["rows_behavior"].tolist() == [1]
