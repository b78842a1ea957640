"""The benchmark suite judges, compares and survives as it says, and checks what was recorded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import suite
from bench.against import compare
from bench.data import VARIANTS, simulate
from bench.findings import Beside, Figure, Findings, Setting, Table, figure, interleaved
from bench.goals import GOALS, Goal, judged
from bench.machine import Machine
from bench.question import QUESTIONS, ask
from bench.readback import ReadBackError, check_episode
from bench.recorder import Signals
from bench.recorders import RECORDERS, RecorderKind, not_installed
from bench.report import changes_text, summary
from bench.scaling import ServiceTimes
from bench.tables import markdown

FIGURE = Figure(
    key="record/A1k/gzip",
    what="A1k: gzip",
    value=60_000,
    unit="steps/s",
    low=58_000,
    high=61_000,
    peer=Beside(name="h5py", value=5_000, ratio=12.0),
    ceiling=Beside(name="write()", value=400_000, ratio=0.15),
)


def setting(folder: Path) -> Setting:
    return Setting(folder=folder, is_quick=True, rounds=1, quiet_s=0)


def test_a_table_is_aligned_markdown() -> None:
    text = markdown(["what", "n"], [["a", "1"], ["long", "1,000"]])
    assert text == "| what |     n |\n| ---- | ----: |\n| a    |     1 |\n| long | 1,000 |"


def test_a_ratio_is_taken_within_a_round() -> None:
    """Between the rounds the machine became ten times slower, for both alike."""
    rounds = [{"ours": 100.0, "peer": 50.0}, {"ours": 10.0, "peer": 5.0}, {"ours": 40.0}]
    made = figure("k", "what", rounds, "ours", "MB/s", peer=("peer", "h5py"))
    assert made.peer == Beside(name="h5py", value=27.5, ratio=2.0)
    assert (made.value, made.low, made.high) == (40, 10, 100)


def test_actions_take_turns(tmp_path: Path) -> None:
    order = []

    def once(name: str) -> float:
        order.append(name)
        return len(order)

    several = replace(setting(tmp_path), rounds=2)
    actions = {"a": lambda: once("a"), "b": lambda: {"x": once("b")}}
    rounds = interleaved(actions, several)
    assert order == ["a", "b"] * 2
    assert rounds[0].keys() == {"a", "b x"}


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal(key=FIGURE.key, about="value", bound=60_000), "met"),
        (Goal(key=FIGURE.key, about="value", bound=60_001), "missed"),
        (Goal(key=FIGURE.key, about="value", bound=59_999, is_least=False), "missed"),
        (Goal(key=FIGURE.key, about="peer", bound=10), "met"),
        (Goal(key=FIGURE.key, about="ceiling", bound=0.2), "missed"),
    ],
)
def test_a_goal_is_judged(goal: Goal, verdict: str) -> None:
    assert goal.judge(FIGURE) == verdict
    assert goal.judge(None) == "not measured"
    assert goal.judge(replace(FIGURE, peer=None, ceiling=None)) in (verdict, "not measured")


def test_every_goal_is_asked_for_by_a_benchmark() -> None:
    assert {goal.question for goal in GOALS} <= set(QUESTIONS)
    assert [verdict for _, _, verdict in judged([])] == ["not measured"] * len(GOALS)


def test_the_summary_names_goals_failures_and_what_is_missing() -> None:
    findings = {
        "record": Findings(figures=[FIGURE], missing=["zarr 3 (needs zarr)"], foreign_cores=1.5),
        "read": Findings(error="Traceback\nValueError: no chunks"),
    }
    text = summary(findings)
    assert "60,000 steps/s" in text
    assert ">= 10x peer" in text
    assert "**read failed**: ValueError: no chunks" in text
    assert "Not installed (pip install '.[bench]'): zarr 3 (needs zarr)" in text
    assert "Disturbed, other processes used so many cores: record (1.5)" in text
    met, missed = text.count("|    met |"), text.count("| missed |")
    assert (met, missed) == (1, 1)


def test_a_regression_shows() -> None:
    slower = replace(FIGURE, value=40_000, ceiling=Beside(name="write()", value=4e5, ratio=0.10))
    changes, gone, new = compare([FIGURE], [slower])
    assert (gone, new) == ([], [])
    assert changes[0].verdict == "worse"
    assert changes[0].factor == pytest.approx(40 / 60)
    assert "worse" in changes_text(changes, gone, new, "saved.json")


def test_a_slower_machine_is_no_regression() -> None:
    """All figures halve, but so does the limit."""
    slow = replace(
        FIGURE, value=30_000, low=29_000, high=31_000, ceiling=replace(FIGURE.ceiling, value=2e5)
    )
    assert compare([FIGURE], [slow])[0][0].verdict == "same"


def test_a_slower_peer_is_no_progress_and_a_faster_one_no_regression() -> None:
    """The figure itself says the opposite of its ratio."""
    alone = replace(FIGURE, ceiling=None)
    lucky = replace(alone, value=70_000, peer=Beside(name="h5py", value=9_000, ratio=70 / 9))
    assert compare([alone], [lucky])[0][0].verdict == "same"
    assert compare([lucky], [alone])[0][0].verdict == "same"


def test_a_change_within_the_spread_of_rounds_is_none() -> None:
    alone = replace(FIGURE, peer=None, ceiling=None)
    assert compare([alone], [replace(alone, value=45_000)])[0][0].verdict == "worse"
    scattered = replace(alone, low=30_000, high=60_000)
    assert compare([scattered], [replace(alone, value=45_000)])[0][0].verdict == "same"


def test_less_time_is_better() -> None:
    before = replace(FIGURE, is_rate=False, peer=None, ceiling=None)
    faster = replace(before, value=30_000)
    assert compare([before], [faster])[0][0].verdict == "better"
    assert compare([faster], [before])[0][0].verdict == "worse"
    idle = replace(before, value=0)
    assert compare([idle], [idle])[0][0].verdict == "same"
    assert compare([idle], [before])[0][0].verdict == "worse"
    assert compare([before], [idle])[0][0].verdict == "better"


def test_what_only_one_run_measured_is_named() -> None:
    other = replace(FIGURE, key="read/row")
    changes, gone, new = compare([FIGURE], [other])
    assert (changes, gone, new) == ([], ["record/A1k/gzip"], ["read/row"])


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    table = Table(title="t", columns=["a"], rows=[["1"]])
    findings = {"record": Findings(figures=[FIGURE], tables=[table], series={"merge": {"x": [1]}})}
    path = tmp_path / "run.json"
    suite.save(path, Machine.here(tmp_path), findings, is_quick=True)
    assert suite.load(path)["findings"] == findings
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(SystemExit, match="expected format 1, got 0"):
        suite.load(path)


def test_a_failing_benchmark_is_reported_and_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(name: str, _: Setting) -> Findings:
        if name == "read":
            return Findings(error="OSError: no room")
        return Findings(figures=[replace(FIGURE, key=f"{name}/x")])

    monkeypatch.setattr(suite, "ask", asked)
    saved = tmp_path / "run.json"
    arguments = ["all", "--quick", "--folder", str(tmp_path)]
    assert suite.main([*arguments, "--json", str(saved)]) == 1
    printed = capsys.readouterr()
    assert "**read failed**: OSError: no room" in printed.out
    assert printed.out.count("A1k: gzip") == len(QUESTIONS) - 1
    assert "OSError: no room" in printed.err
    assert len(suite.load(saved)["findings"]) == len(QUESTIONS)
    assert suite.main(["idle", "--quick", "--folder", str(tmp_path), "--against", str(saved)]) == 0
    assert "1 figures unchanged" in capsys.readouterr().out


def test_a_benchmark_that_raises_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUESTIONS, "nonsense", "no such module")
    findings = ask("nonsense", setting(tmp_path))
    assert findings.error is not None
    assert "No module named 'bench.nonsense'" in findings.error
    assert list(tmp_path.iterdir()) == []


def test_one_benchmark_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    findings = ask("idle", setting(tmp_path))
    assert findings.error is None
    (made,) = findings.figures
    assert made.key == "idle/writer"
    assert made.value >= 0


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = RECORDERS["zarr"]
    absent = RecorderKind(label=kind.label, make=kind.make, needs="no_such_package")
    monkeypatch.setitem(RECORDERS, "zarr", absent)
    assert not_installed("zarr") == "no_such_package"
    assert not_installed("h5py-gzip") is None


@pytest.mark.parametrize("name", ["gzip", "gzip-caller", "none", "h5py-gzip", "h5py-append", "raw"])
@pytest.mark.parametrize("sample_every", [1, 10])
def test_a_recorder_gives_back_what_it_got(name: str, sample_every: int, tmp_path: Path) -> None:
    variant = replace(VARIANTS["A1k"], n_neurons=50, n_steps=300, pool_steps=300, pool_rows=300)
    variant = replace(variant, sample_every=sample_every)
    recording = simulate(variant)
    recorder = RECORDERS[name].make(tmp_path, variant)
    log = recorder.begin(0)
    for step in recording.steps(300, sample_every):
        log(*step)
    recorder.end()
    recorder.finish()
    recorder.close()
    check_episode(recorder, 0, recording, n_steps=300, sample_every=sample_every)


class Forgetful:
    """Read back, it has one value wrong."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def read(self, _: int) -> Signals:
        wrong = self._signals.position.copy()
        wrong[-1, -1] = np.nextafter(wrong[-1, -1], np.float32(1))
        return replace(self._signals, position=wrong)


def test_one_wrong_bit_makes_a_recorders_figures_worthless(tmp_path: Path) -> None:
    variant = replace(VARIANTS["A1k"], n_neurons=20, n_steps=50, pool_steps=50, pool_rows=50)
    recording = simulate(variant)
    recorder = RECORDERS["h5py-gzip"].make(tmp_path, variant)
    log = recorder.begin(0)
    for step in recording.steps(50, 1):
        log(*step)
    recorder.end()
    read = recorder.read(0)
    assert read is not None
    with pytest.raises(ReadBackError, match="position: values differ"):
        check_episode(Forgetful(read), 0, recording, n_steps=50, sample_every=1)


def test_the_model_of_scaling() -> None:
    """The writer is the bottleneck of one worker; with many, the sum of both costs is."""
    costs = {"caller": 5e-6, "writer": 15e-6, "alone": 20e-6}
    times = ServiceTimes(**costs, efficiency={1: 1.0})
    assert times.steps_per_s("own", 1, 2) == pytest.approx(1 / 15e-6)
    assert times.steps_per_s("own", 2, 2) == pytest.approx(2 / 20e-6)
    assert times.steps_per_s("self", 1, 2) == pytest.approx(1 / 20e-6)
    assert times.steps_per_s("self", 64, 16) == pytest.approx(16 / 20e-6)
    assert times.best(2)[2] == pytest.approx(2 / 20e-6)
    shared = ServiceTimes(**costs, efficiency={1: 1.0, 2: 0.8, 4: 0.6})
    assert shared.steps_per_s("self", 1, 64) == pytest.approx(1 / 20e-6)
    assert shared.steps_per_s("self", 3, 64) == pytest.approx(3 / 20e-6 * 0.7)
    assert shared.steps_per_s("self", 64, 64) == pytest.approx(64 / 20e-6 * 0.6)
