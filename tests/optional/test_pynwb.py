"""NWB: every value comes back through PyNWB, and what fails leaves no file."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import known
import numpy as np
import pynwb
import pytest

from shardwriter import DataExporter
from shardwriter.cli import main
from shardwriter.errors import ConfigError, FieldsDiffer
from shardwriter.interop import nwb, timeline


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    with pynwb.NWBHDF5IO(path, "r") as io:
        yield io.read()


@pytest.mark.parametrize("small", [False, True])
def test_a_file_has_every_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    if small:  # many buffers, windows and passes
        monkeypatch.setattr(nwb, "_CHUNK_BYTES", 48)
        monkeypatch.setattr(nwb, "_BUFFER_BYTES", 400)
        monkeypatch.setattr(nwb, "_SPIKE_BUFFER_BYTES", 400)
        monkeypatch.setattr(timeline, "_WINDOW_ROWS", 7)
    file = tmp_path / "known.nwb"
    report = nwb.export_nwb(known.record(tmp_path), file, n_neurons=known.N + 1)
    fired = np.concatenate([known.fired(i) for i in range(3)])
    assert (report.trials, report.units, report.spikes) == (3, known.N + 1, fired.sum())
    assert not pynwb.validate(path=str(file))
    with opened(file) as session:
        for neuron in range(known.N):
            times = session.units["spike_times"][neuron]
            np.testing.assert_array_equal(times, np.flatnonzero(fired[:, neuron]) * known.DT)
        assert len(session.units["spike_times"][known.N]) == 0
        assert session.units.resolution == known.DT

        v = session.acquisition["membrane_potential"]
        assert (v.unit, v.starting_time, v.rate) == ("mV", 0, 1 / (2 * known.DT))
        np.testing.assert_array_equal(
            v.data, np.concatenate([known.potentials(i)[::2] for i in range(3)])
        )
        behavior = session.processing["behavior"]
        position = behavior["BehavioralTimeSeries"]["position"]
        assert (position.unit, position.rate) == ("cm", 1 / known.DT)
        np.testing.assert_array_equal(
            position.data, np.concatenate([known.positions(i) for i in range(3)])
        )
        zone = behavior["BehavioralTimeSeries"]["zone"]
        np.testing.assert_array_equal(zone.data, np.tile(np.arange(known.STEPS) // 10, 3))
        rewards = behavior["rewards"]
        rewarded = np.flatnonzero(np.tile(known.rewards(), 3))
        assert rewards.unit == "pellet"
        np.testing.assert_array_equal(rewards.data, np.full(len(rewarded), 0.5))
        np.testing.assert_array_equal(rewards.timestamps, rewarded * known.DT)

        starts = np.arange(3) * known.STEPS
        laps = session.events["lap"]
        np.testing.assert_array_equal(laps["timestamp"][:], (starts + 7) * known.DT)
        assert laps["number"][:].tolist() == [3] * 3
        assert laps["recorded_name"][:].tolist() == ["first"] * 3
        changes = session.events["weight_changes"]
        np.testing.assert_array_equal(changes["timestamp"][:], (starts + 9) * known.DT)
        assert changes["new_weights"][:].tolist() == [0.75] * 3

        trials = session.trials
        np.testing.assert_array_equal(trials["start_time"][:], starts * known.DT)
        np.testing.assert_array_equal(trials["stop_time"][:], (starts + known.STEPS) * known.DT)
        assert trials["episode_id"][:].tolist() == [0, 1, 2]
        assert trials["status"][:].tolist() == ["completed"] * 3
        notes = json.loads(session.notes)
        assert notes["experiment"]["experiment_name"] == "known"
        assert notes["runtime"]["python_version"] == sys.version.split()[0]
        assert notes["units"]["reward"] == "pellet"


def test_what_only_some_episodes_have(tmp_path: Path) -> None:
    with DataExporter("some", tmp_path, progress=False, neural_sampling_rate=3) as exporter:
        exporter.save_units({}, dt=0.1)
        exporter.save_config({"tau": 20.0, "layers": [1, 2]})
        for i in (1, 3, 5):
            with exporter.start_episode(i) as episode:
                for t in range(10):
                    late = {"late": np.int8(t)} if i == 3 else {}
                    phase = {"phase": np.complex64(1j)} if i == 5 else {}
                    state = {"v": np.full(2, t, np.float32)}
                    episode.log_timestep(t, state, behavior={"x": float(i), **late, **phase})
                episode.log_event("tone", 2)
                episode.log_event("key", 4 + i, {"code": i} if i == 3 else {"code": i, "also": 1.5})
    file = tmp_path / "some.nwb"
    report = nwb.export_nwb(exporter.output_dir, file)
    assert report.left_out == ("behavior/phase",)
    assert not pynwb.validate(path=str(file))
    with opened(file) as session:
        assert session.units is None
        series = session.processing["behavior"]["BehavioralTimeSeries"]
        np.testing.assert_array_equal(series["x"].data, np.repeat([1.0, 3, 5], 10))
        np.testing.assert_array_equal(series["late"].data, np.arange(10))
        assert series["late"].starting_time == 10 * 0.1
        v = session.acquisition["v"]  # 0, 3, 6, 9, 10, 13, …: not evenly spaced
        steps = [i * 10 + t for i in range(3) for t in range(0, 10, 3)]
        np.testing.assert_array_equal(v.timestamps, np.array(steps) * 0.1)
        tones = session.events["tone"]["timestamp"][:]
        np.testing.assert_array_equal(tones, np.array([2, 12, 22]) * 0.1)
        assert session.events["key"]["code"][:].tolist() == [1, 3, 5]
        assert session.events["key.also"]["also"][:].tolist() == [1.5, 1.5]
        also = session.events["key.also"]["timestamp"][:]
        np.testing.assert_array_equal(also, np.array([5, 29]) * 0.1)
        assert json.loads(session.notes)["config"] == {"tau": 20.0, "layers": [1, 2]}


def test_fields_that_differ_are_refused(tmp_path: Path) -> None:
    with DataExporter("differ", tmp_path, progress=False) as exporter:
        for i in range(2):
            with exporter.start_episode(i) as episode:
                episode.log_timestep(0, behavior={"x": np.zeros(i + 1)})
    with pytest.raises(FieldsDiffer, match="behavior/x: expected float64"):
        nwb.export_nwb(exporter.output_dir, tmp_path / "x.nwb", dt=1.0)
    report = nwb.export_nwb(exporter.output_dir, tmp_path / "x.nwb", dt=1.0, episodes=[1])
    assert report.trials == 1


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = known.record(tmp_path, 1, dt=None)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="dt: expected seconds of a timestep"):
        nwb.export_nwb(directory, tmp_path / "x.nwb")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(timeline.Timeline, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nwb.export_nwb(directory, tmp_path / "x.nwb", dt=1e-3)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "x.nwb").write_text("precious")
    with pytest.raises(ConfigError, match="output: expected a path that does not exist"):
        nwb.export_nwb(directory, tmp_path / "x.nwb", dt=1e-3)
    assert (tmp_path / "x.nwb").read_text() == "precious"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, file = str(known.record(tmp_path)), str(tmp_path / "x.nwb")
    assert main(["export", "nwb", directory, file, "--episodes", "1:3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["file"], report["trials"], report["left_out"]) == (file, 2, [])
    assert main(["export", "nwb", directory, file]) == 1
    assert capsys.readouterr().err.startswith("shardwriter: output: expected a path that does not")
    with opened(Path(file)) as session:
        assert session.trials["episode_id"][:].tolist() == [1, 2]


def test_without_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynwb", None)
    monkeypatch.delitem(sys.modules, "shardwriter.interop.nwb")
    assert main(["export", "nwb", str(tmp_path), str(tmp_path / "x.nwb")]) == 1
    assert "pynwb is not installed; pip install 'shardwriter[nwb]'" in capsys.readouterr().err
