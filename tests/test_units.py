"""Units: kept through merge, resume and packing, and found by field."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from merge import merge_experiments, pack
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ConfigError, FormatError
from shardwriter.files.units import Units

UNITS = {"membrane_potential": "mV", "behavior/position": "m", "reward": "J", "weight": "nS"}


def record(directory: Path) -> DataExporter:
    with DataExporter("units", directory, progress=False) as exporter:
        exporter.save_units(UNITS, dt=1e-3)
        with exporter.start_episode(0) as episode:
            episode.log_timestep(0, behavior={"position": np.zeros(2)}, reward=1.0)
    return exporter


def test_units_survive_merge_resume_and_pack(tmp_path: Path) -> None:
    directory = record(tmp_path).output_dir
    with DataExporter.resume(directory, progress=False) as exporter:
        exporter.start_episode(1).end()
    packed = pack(directory, tmp_path / "packed.h5")
    master = merge_experiments([directory], tmp_path / "elsewhere.h5").path
    for path in (directory, packed, master):
        with ExperimentLoader(path) as loader:
            assert loader.get_units() == Units(by_name=UNITS, dt=1e-3)
            assert loader.get_episode(0).dt == 1e-3
            assert loader.get_episode(1).get_units().by_name == UNITS


def test_save_units_again_replaces_them(tmp_path: Path) -> None:
    directory = record(tmp_path).output_dir
    with DataExporter.resume(directory, progress=False) as exporter:
        exporter.save_units({"membrane_potential": "V"})
    with ExperimentLoader(directory) as loader:
        assert loader.get_units() == Units(by_name={"membrane_potential": "V"}, dt=None)


def test_a_column_finds_its_unit() -> None:
    units = Units(by_name={**UNITS, "position": "px"}, dt=0.5)
    assert units.of("behavior", "position") == "m"
    assert units.of("neural_states", "position") == "px"
    assert units.of("neural_states", "membrane_potential") == "mV"
    assert units.of("rewards", "values") == "J"
    assert units.of("weight_changes", "old_weights") == "nS"
    assert units.of("behavior", "weight") == "nS"
    assert units.of("behavior", "values") is None


@pytest.mark.parametrize(
    ("units", "dt", "where"),
    [
        ({"dt": "s"}, None, "units: expected names of fields, not 'dt', got 'dt'"),
        ({"v": 3}, None, "units['v']: expected text, such as 'mV', got 3"),
        ({"v": ""}, None, "units['v']: expected text"),
        ({}, 0, "dt: expected seconds of a timestep, a number above 0, got 0"),
        ({}, float("nan"), "dt: expected seconds"),
        ({}, "1 ms", "dt: expected seconds"),
    ],
)
def test_what_is_no_unit_is_refused(
    tmp_path: Path, units: dict[str, str], dt: float | None, where: str
) -> None:
    with DataExporter("units", tmp_path, progress=False) as exporter:
        exporter.save_units(UNITS, dt=1)
        with pytest.raises(ConfigError) as caught:
            exporter.save_units(units, dt=dt)
    assert str(caught.value).startswith(where)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_units() == Units(by_name=UNITS, dt=1.0)


def test_units_in_a_master_that_are_none_are_refused(tmp_path: Path) -> None:
    path = record(tmp_path).output_dir / "experiment_data.h5"
    with h5py.File(path, "r+") as file:
        file["units"].attrs["membrane_potential"] = 7
    with ExperimentLoader(path) as loader, pytest.raises(FormatError, match="units that are text"):
        loader.get_units()
