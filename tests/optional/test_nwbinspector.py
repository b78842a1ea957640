"""NWB Inspector, which DANDI asks, has nothing critical to say."""

from pathlib import Path

import known
import nwbinspector

from shardwriter.interop.nwb import export_nwb


def test_nothing_is_critical(tmp_path: Path) -> None:
    export_nwb(known.record(tmp_path), tmp_path / "known.nwb")
    messages = list(nwbinspector.inspect_nwbfile(nwbfile_path=tmp_path / "known.nwb"))
    grave = {
        each.check_function_name
        for each in messages
        if each.importance.name != "BEST_PRACTICE_SUGGESTION"
    }
    assert grave == {"check_subject_species_exists"}  # a simulation is of no species
