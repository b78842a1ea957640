"""SONATA: spikes and reports as libsonata reads them."""

import json
from pathlib import Path

import known
import libsonata
import numpy as np
import pytest

from shardwriter import DataExporter
from shardwriter.cli import main
from shardwriter.errors import ConfigError
from shardwriter.interop import sonata, timeline


@pytest.mark.parametrize("small", [False, True])
def test_files_have_every_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    if small:  # many windows
        monkeypatch.setattr(sonata, "_BUFFER_BYTES", 100)
        monkeypatch.setattr(timeline, "_WINDOW_ROWS", 7)
    out = tmp_path / "out"
    report = sonata.export_sonata(known.record(tmp_path), out, population="cortex")
    assert report.spikes == sum(known.fired(i).sum() for i in range(3))
    assert report.left_out == {}
    assert sorted(path.name for path in out.iterdir()) == [f"episode_{i:04d}" for i in range(3)]
    for i in range(3):
        spikes = libsonata.SpikeReader(str(out / f"episode_{i:04d}" / "spikes.h5"))["cortex"]
        assert (spikes.sorting, spikes.time_units) == ("by_time", "ms")
        steps, ids = np.nonzero(known.fired(i))
        found = spikes.get_dict()
        np.testing.assert_array_equal(found["node_ids"], ids)
        np.testing.assert_array_equal(found["timestamps"], steps * (known.DT * 1e3))

        path = out / f"episode_{i:04d}" / "membrane_potential.h5"
        potentials = libsonata.SomaReportReader(str(path))["cortex"]
        assert (potentials.time_units, potentials.data_units) == ("ms", "mV")
        assert potentials.times == (0, known.STEPS * 2, 4)
        frame = potentials.get()
        np.testing.assert_array_equal(frame.ids, np.arange(known.N))
        np.testing.assert_array_equal(frame.data, known.potentials(i)[::2])
        np.testing.assert_allclose(frame.times, np.arange(0, known.STEPS, 2) * known.DT * 1e3)


def test_what_is_no_report_is_named(tmp_path: Path) -> None:
    with DataExporter("odd", tmp_path, progress=False, neural_sampling_rate=1) as exporter:
        exporter.save_units({}, dt=1e-3)
        with exporter.start_episode(4) as episode:
            for t in (0, 1, 5):
                episode.log_timestep(t, {"v": np.zeros(2)}, spikes=[2])
        with exporter.start_episode(5) as episode:
            episode.log_timestep(3, {"v": np.ones(2), "w": np.ones((2, 2))})
    report = sonata.export_sonata(exporter.output_dir, tmp_path / "out")
    assert report.left_out == {4: ("v",), 5: ("w",)}  # uneven steps; a matrix
    silent = libsonata.SpikeReader(str(tmp_path / "out" / "episode_0005" / "spikes.h5"))
    assert silent["neurons"].get() == []
    one = libsonata.SomaReportReader(str(tmp_path / "out" / "episode_0005" / "v.h5"))["neurons"]
    assert one.get().data.tolist() == [[1, 1]]
    assert one.get().times.tolist() == [3]


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = known.record(tmp_path, 2, dt=None)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="dt: expected seconds of a timestep"):
        sonata.export_sonata(directory, tmp_path / "out")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(timeline.Timeline, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sonata.export_sonata(directory, tmp_path / "out", dt=1e-3)
    with pytest.raises(ConfigError, match="population: expected a name"):
        sonata.export_sonata(directory, tmp_path / "out", dt=1e-3, population="a/b")
    assert sorted(tmp_path.iterdir()) == before


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, out = str(known.record(tmp_path)), str(tmp_path / "out")
    assert main(["export", "sonata", directory, out, "--episodes", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["directory"], report["episodes"], report["reports"]) == (out, 1, 1)
    assert main(["export", "sonata", directory, out]) == 1
    assert capsys.readouterr().err.startswith("shardwriter: output: expected a path that does not")
