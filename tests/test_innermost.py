"""The compiled step stores what Python alone stores, call by call, and refuses what it refuses."""

import gc
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import record, tables_by_loader

from shardwriter import ExperimentLoader
from shardwriter.errors import EpisodeEnded, FieldError
from shardwriter.recording import innermost
from shardwriter.recording.content_checks import NonFiniteWarning
from shardwriter.recording.episode import Episode

pytestmark = pytest.mark.skipif(
    innermost.compiled is None, reason="the package was built without a compiler"
)

N = 30
ARGUMENTS = ("timestep", "neural_state", "spikes", "behavior", "reward", "spike_ids")


def random_call(rng: np.random.Generator, timestep: int) -> dict[str, Any]:
    """Return the arguments of a call: mostly usual ones, of every form that is taken."""
    call: dict[str, Any] = {"timestep": timestep}
    v = rng.standard_normal(N, np.float32)
    call["neural_state"] = [
        {"v": v},
        {"v": v[::-1]},
        {"v": list(map(float, v))},
        {},
        None,
        {"v": v},
    ][rng.choice(6, p=[0.5, 0.1, 0.03, 0.02, 0.25, 0.1])]
    if (
        isinstance(call["neural_state"], dict)
        and "v" in call["neural_state"]
        and rng.random() < 0.1
    ):
        call["neural_state"]["late"] = rng.random(2)
    fired = rng.random(N) < 0.2
    ids = fired.nonzero()[0]
    spikes = [fired, fired.astype(np.uint8), fired[::-1], rng.random(N - 1) < 0.5, None]
    spike_ids = [ids, ids.astype(np.int32), ids.astype(np.uint8), list(ids), ids - 1, ids[::2]]
    if rng.random() < 0.5:
        call["spikes"] = spikes[rng.choice(5, p=[0.6, 0.1, 0.1, 0.05, 0.15])]
    else:
        call["spike_ids"] = spike_ids[rng.choice(6, p=[0.3, 0.3, 0.1, 0.1, 0.1, 0.1])]
    if rng.random() < 0.03:
        call |= {"spikes": fired, "spike_ids": ids}
    x = float(rng.random())
    behavior = {
        "x": [x, np.float64(x), 1, np.float32(x)][rng.choice(4, p=[0.6, 0.3, 0.05, 0.05])],
        "narrow": np.float32(x),
        "is_on": [True, np.bool_(False), np.array(True), 1][
            rng.choice(4, p=[0.4, 0.4, 0.15, 0.05])
        ],
        "position": rng.standard_normal(3),
        "label": "text",
        "name": np.array(b"abc", "S4"),
        "empty": np.zeros((0, 2)),
    }
    if rng.random() < 0.7:
        del behavior["label"]
    call["behavior"] = [behavior, dict(reversed(behavior.items())), None, [1]][
        rng.choice(4, p=[0.7, 0.15, 0.13, 0.02])
    ]
    call["reward"] = [x, np.float32(x), np.float64(x), 0.0, np.nan, 1, None, "one", np.array(x)][
        rng.choice(9, p=[0.3, 0.2, 0.1, 0.1, 0.05, 0.1, 0.1, 0.01, 0.04])
    ]
    return call


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore::shardwriter.recording.content_checks.NonFiniteWarning")
def test_both_ways_store_the_same(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "neural_sampling_rate": 1 + seed % 3,
        "validate_data": seed != 4,
        "chunk_size": [7, 50, 1000][seed % 3],
        "async_write": False,
    }
    outcomes: list[list[str]] = []

    def log(episode: Episode) -> None:
        rng = np.random.default_rng(seed)
        timestep = 0
        seen = []
        for _ in range(400):
            timestep += int(rng.choice([0, 1, 1, 1, 2, -1]))
            call = random_call(rng, timestep)
            try:
                episode.log_timestep(**call)
                seen.append("")
            except FieldError as error:
                seen.append(str(error))
            seen.append(str(episode.steps))
        outcomes.append(seen)

    found = []
    for way in ("compiled", "python"):
        with monkeypatch.context() as context:
            if way == "python":
                context.setattr(innermost, "compiled", None)
            place = tmp_path / way
            place.mkdir()
            with ExperimentLoader(record(place, log, **options)) as loader:
                found.append(tables_by_loader(loader, 0))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].count("") > 100
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        one, other = np.asarray(values), np.asarray(found[1][name])
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes(), name


def test_usual_timesteps_are_stored_by_compiled_code(tmp_path: Path) -> None:
    taken = []

    def log(episode: Episode) -> None:
        usual = episode._timesteps.log_usual
        for t in range(200):
            state = {"v": np.zeros(N, np.float32)}
            ids = np.arange(5)
            arguments = (t, state, None, {"x": 1.0, "p": np.zeros(3)}, np.float32(0.5), ids)
            taken.append(usual(*arguments))
            if not taken[-1]:
                episode._timesteps.log(*arguments)

    with ExperimentLoader(record(tmp_path, log, chunk_size=100)) as loader:
        assert loader.get_episode(0).get_behavior()["timesteps"].tolist() == list(range(200))
    # The first, two that fill slots of 100, and ten that have spikes for two slots or fill one.
    assert len(taken) - sum(taken) == 1 + 10


@pytest.mark.filterwarnings("ignore::shardwriter.recording.content_checks.NonFiniteWarning")
def test_what_fits_is_stored_and_nothing_else(tmp_path: Path) -> None:
    """A call for several episodes asks each before it stores in any."""
    fitted = []

    def log(episode: Episode) -> None:
        rng = np.random.default_rng(3)
        timesteps = episode._timesteps
        for t in range(600):
            call = random_call(rng, t)
            row = [call.get(name) for name in ARGUMENTS]
            before = episode.steps, episode.progress()
            fitted.append(timesteps.fits(*row))
            assert (episode.steps, episode.progress()) == before
            if not timesteps.store_usual(*row) and fitted[-1]:
                timesteps.hand_over_full()
            assert episode.steps - before[0] == fitted[-1]
            if not fitted[-1]:
                with suppress(FieldError):
                    timesteps.log(*row)

    record(tmp_path, log, chunk_size=50)
    assert 20 < sum(fitted) < 580


@pytest.mark.parametrize("bad", [0, 1, 7, 18, 19, 20, 45])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", "g"])
def test_what_is_not_finite_is_found_wherever_it_is(tmp_path: Path, dtype: str, bad: int) -> None:
    def log(episode: Episode) -> None:
        for t in range(50):
            v = np.full(5, np.finfo(dtype).max, dtype)
            v[t % 5] = [np.nan, np.inf, -np.inf][bad % 3] if t == bad else -1
            episode.log_timestep(t, {"v": v, "n": np.arange(3)})

    with pytest.warns(NonFiniteWarning, match=f"infinity at timestep {bad};"):
        record(tmp_path, log, chunk_size=20, neural_sampling_rate=1)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_a_slot_is_known_to_be_finite_whoever_stored_its_rows(dtype: str) -> None:
    counter = memoryview(bytearray(8)).cast("Q")
    steps, v = np.zeros(8, np.int64), np.zeros((8, 3), dtype)
    cursor = innermost.new_cursor()
    cursor.is_watched = True
    others = [innermost.new_cursor() for _ in range(3)]
    step = innermost.new_step(memoryview(bytearray(8)).cast("Q"), 1, False, cursor, *others)
    cursor.enter(("v",), (steps, v), counter, 0)
    for t in range(8):
        if t in (0, 4):  # Python does
            counter[0] += 1
        else:
            assert step.log(t, {"v": np.full(3, t, dtype)}, None, None, None, None) == (t < 7)
    assert step.has_filled
    assert v[7].tolist() == [7, 7, 7]
    assert cursor.all_finite()
    for row in (0, 4, 5, 7):
        v[row, 2] = np.nan
        assert not cursor.all_finite()
        v[row, 2] = 0
    cursor.leave()
    assert not cursor.all_finite()
    assert not step.log(8, {"v": np.zeros(3, dtype)}, None, None, None, None)
    assert not step.has_filled


def test_timesteps_at_the_end_of_what_64_bits_hold(tmp_path: Path) -> None:
    last = 2**63 - 1

    def log(episode: Episode) -> None:
        for t in (last - 5, last - 3, last - 1, last, last):
            episode.log_timestep(t, {"v": 1.0}, behavior={"x": 1.0})
        with pytest.raises(FieldError, match="expected an integer"):
            episode.log_timestep(last + 1, behavior={"x": 1.0})

    with ExperimentLoader(record(tmp_path, log)) as loader:
        episode = loader.get_episode(0)
        assert episode.get_behavior()["timesteps"].tolist()[-2:] == [last, last]


def test_an_ended_episode_takes_no_more_and_keeps_no_memory(tmp_path: Path) -> None:
    kept = []

    def log(episode: Episode) -> None:
        for t in range(10):
            episode.log_timestep(t, {"v": np.zeros(N)}, behavior={"x": 1.0})
        kept.append(episode.log_timestep)

    gc.collect()  # what other tests left
    gc.disable()
    try:
        record(tmp_path, log)
        assert ".buffer" not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()
    with pytest.raises(EpisodeEnded):
        kept[0](10, {"v": np.zeros(N)})


def test_threads_log_side_by_side(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        def work(value: float) -> None:
            for _ in range(2_000):
                episode.log_timestep(0, behavior={"x": value, "y": np.full(3, value)})

        threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with ExperimentLoader(record(tmp_path, log)) as loader:
        behavior = loader.get_episode(0).get_behavior()
    assert np.bincount(behavior["x"].astype(int)).tolist() == [2_000] * 4
    assert (behavior["y"] == behavior["x"][:, None]).all()


def test_the_environment_keeps_compiled_code_out() -> None:
    modules = "shardwriter.recording.innermost", "shardwriter.files.lookup3"
    command = f"import {', '.join(modules)}; print({', '.join(f'{m}.compiled' for m in modules)})"
    environment = {**os.environ, "SHARDWRITER_PURE_PYTHON": "1"}
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None None\n"


def test_what_is_no_slot_is_refused() -> None:
    counter = memoryview(bytearray(8)).cast("Q")
    steps, good = np.zeros(4, np.int64), np.zeros((4, 3))
    cursor = innermost.new_cursor()
    cursor.enter(("x",), (steps, good), counter, 0)
    for names, arrays in [
        ((), (steps, good)),
        (("x",), (steps, good[:3])),
        (("x",), (good, steps)),
        (("x",), (steps, np.zeros((3, 4)).T)),
        (("x",), ()),
        (("x",), (steps, [1, 2, 3, 4])),
    ]:
        with pytest.raises(ValueError, match="columns of a slot"):
            cursor.enter(names, arrays, counter, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="8-byte word"):
        cursor.enter(("x",), (steps, good), memoryview(bytearray(16)).cast("Q"), 0)
