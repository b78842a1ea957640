"""xarray: every value, dimension and unit; lazily through Dask, too."""

from pathlib import Path

import known
import numpy as np
import pytest

from shardwriter import DataExporter, ExperimentLoader


@pytest.mark.parametrize("chunks", [None, 7])
def test_a_tree_has_every_value(tmp_path: Path, chunks: int | None) -> None:
    with ExperimentLoader(known.record(tmp_path)) as loader:
        episode = loader.get_episode(1)
        tree = episode.to_xarray(chunks=chunks)
        v = tree["neural_states"]["membrane_potential"]
        assert (v.chunks is not None) == (chunks is not None)
        assert v.dims == ("timestep", "neuron")
        assert v.attrs == {"units": "mV"}
        np.testing.assert_array_equal(v, known.potentials(1)[::2])
        np.testing.assert_array_equal(v.sel(timestep=[4, 10]), known.potentials(1)[[4, 10]])
        np.testing.assert_array_equal(v.time, np.arange(0, known.STEPS, 2) * known.DT)
        position = tree["behavior"]["position"]
        assert (position.dims, position.attrs) == (("timestep", "position_1"), {"units": "cm"})
        np.testing.assert_array_equal(position, known.positions(1))
        np.testing.assert_array_equal(position[3:20:3, 1], known.positions(1)[3:20:3, 1])
        np.testing.assert_array_equal(tree["behavior"]["zone"], np.arange(known.STEPS) // 10)
        steps, ids = np.nonzero(known.fired(1))
        np.testing.assert_array_equal(tree["spikes"]["timestep"], steps)
        np.testing.assert_array_equal(tree["spikes"]["neuron_ids"], ids)
        assert tree["rewards"]["values"].attrs == {"units": "pellet"}
        assert tree["rewards"]["values"].sum() == known.rewards().sum()
        assert tree["weight_changes"]["deltas"].item() == 0.25
        assert tree["events/lap"]["name"].item() == "first"
        assert (tree.attrs["status"], tree.attrs["dt"]) == ("completed", known.DT)


def test_an_empty_episode_is_an_empty_tree(tmp_path: Path) -> None:
    with DataExporter("empty", tmp_path, progress=False) as exporter:
        exporter.start_episode(0).end()
    with ExperimentLoader(exporter.output_dir) as loader:
        assert not loader.get_episode(0).to_xarray().children
