"""Named fields: dtypes kept, late and missing ones, and misfits that log nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import record

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import FieldError
from shardwriter.recording.episode import Episode

pytestmark = pytest.mark.usefixtures("both_ways")


def behavior(directory: Path, log: Any, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Record one episode, return its behaviour."""
    with ExperimentLoader(record(directory, log, **options)) as loader:
        return loader.get_episode(0).get_behavior()


DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", "F", "D"]


@pytest.mark.parametrize("compression", ["gzip", "lzf", None], ids=str)
def test_every_dtype_and_shape_comes_back(tmp_path: Path, compression: str | None) -> None:
    rng = np.random.default_rng(0)
    fields = {
        f"{dtype}{len(shape)}": rng.integers(0, 100, (25, *shape)).astype(dtype)
        for dtype in DTYPES
        for shape in [(), (3,), (2, 1, 3)]
    }

    def log(episode: Episode) -> None:
        for t in range(25):
            episode.log_timestep(t, behavior={name: value[t] for name, value in fields.items()})

    found = behavior(tmp_path, log, compression=compression, chunk_size=10)
    for name, value in fields.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize("compression", ["gzip", "lzf", None], ids=str)
@pytest.mark.parametrize("steps", [3, 25])
def test_an_axis_may_have_no_length(tmp_path: Path, compression: str | None, steps: int) -> None:
    def log(episode: Episode) -> None:
        for t in range(steps):
            episode.log_timestep(t, behavior={"none": np.zeros((0, 3), np.float32), "t": t})

    found = behavior(tmp_path, log, compression=compression, chunk_size=10)
    assert (found["none"].shape, found["none"].dtype) == ((steps, 0, 3), np.float32)
    assert found["t"].tolist() == list(range(steps))


def test_python_values_become_64_bit(tmp_path: Path) -> None:
    fields = {"f": 0.5, "i": 3, "b": True, "c": 1j, "l": [1.5, 2], "z": np.array(7, np.int16)}
    found = behavior(tmp_path, lambda episode: episode.log_timestep(0, behavior=fields))
    dtypes = {name: str(values.dtype) for name, values in found.items() if name != "timesteps"}
    assert dtypes == {
        "f": "float64",
        "i": "int64",
        "b": "bool",
        "c": "complex128",
        "l": "float64",
        "z": "int16",
    }
    assert found["l"].tolist() == [[1.5, 2.0]]


def test_what_was_logged_may_change_afterwards(tmp_path: Path) -> None:
    position = np.zeros(3)

    def log(episode: Episode) -> None:
        for t in range(5):
            episode.log_timestep(t, behavior={"position": position})
            position[:] += 1

    assert behavior(tmp_path, log)["position"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_text_comes_back_as_text(tmp_path: Path) -> None:
    texts = ["", "a", "grün — 零", "x" * 256]

    def log(episode: Episode) -> None:
        for t, text in enumerate(texts):
            episode.log_timestep(
                t, behavior={"text": text, "two": [text, "b"], "raw": text.encode()}
            )

    found = behavior(tmp_path, log)
    assert found["text"].tolist() == texts
    assert found["raw"].tolist() == texts
    assert found["two"].tolist() == [[text, "b"] for text in texts]


@pytest.mark.parametrize("late_at", [1, 10, 15, 40, 95])
@pytest.mark.parametrize("async_write", [False, True])
def test_a_float_field_may_appear_late(tmp_path: Path, late_at: int, async_write: bool) -> None:
    """Also after several slots have been written, at and off the border of a slot."""
    speed = np.random.default_rng(1).standard_normal(100)
    vector = np.random.default_rng(2).standard_normal((100, 2)).astype(np.float32)

    def log(episode: Episode) -> None:
        for t in range(100):
            fields = {"speed": speed[t], "lap": t}
            if t >= late_at:
                fields["vector"] = vector[t]
            if t >= late_at and t % 3 == 0:
                fields["rare"] = 1j * t
            episode.log_timestep(t, behavior=fields)

    found = behavior(tmp_path, log, chunk_size=10, async_write=async_write, n_async_workers=1)
    expected = np.full((100, 2), np.nan, np.float32)
    expected[late_at:] = vector[late_at:]
    assert found["vector"].tobytes() == expected.tobytes()
    assert found["speed"].tobytes() == speed.tobytes()
    assert found["lap"].tolist() == list(range(100))
    has_rare = (np.arange(100) >= late_at) & (np.arange(100) % 3 == 0)
    np.testing.assert_array_equal(np.isnan(found["rare"]), ~has_rare)
    np.testing.assert_array_equal(found["rare"][has_rare], 1j * np.flatnonzero(has_rare))


def test_many_fields_may_appear_one_after_the_other(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        for t in range(30):
            episode.log_timestep(t, behavior={f"f{i}": float(t) for i in range(t + 1)})

    found = behavior(tmp_path, log, chunk_size=4)
    for i in range(30):
        expected = [np.nan] * i + [float(t) for t in range(i, 30)]
        np.testing.assert_array_equal(found[f"f{i}"], expected)


def test_one_field_in_place_of_another_is_not_lost(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        episode.log_timestep(0, behavior={"x": 1.0, "z": 5.0})
        episode.log_timestep(1, behavior={"y": 2.0, "z": 6.0})
        episode.log_timesteps([2, 3], behavior={"w": [3.0, 4.0], "x": [7.0, 8.0]})

    found = behavior(tmp_path, log)
    nan = np.nan
    np.testing.assert_array_equal(found["x"], [1.0, nan, 7.0, 8.0])
    np.testing.assert_array_equal(found["y"], [nan, 2.0, nan, nan])
    np.testing.assert_array_equal(found["z"], [5.0, 6.0, nan, nan])
    np.testing.assert_array_equal(found["w"], [nan, nan, 3.0, 4.0])


@pytest.mark.parametrize("nested", [{"a": {"n": 1, "v": [0.5, 1.5]}}, {"a": {"b": {"c": True}}}])
def test_nested_fields_get_names_with_dots(tmp_path: Path, nested: dict[str, Any]) -> None:
    def log(episode: Episode) -> None:
        for t in range(3):
            episode.log_timestep(t, behavior=nested)

    found = behavior(tmp_path, log)
    if "n" in nested["a"]:
        assert found["a.n"].tolist() == [1, 1, 1]
        assert found["a.v"].tolist() == [[0.5, 1.5]] * 3
    else:
        assert found["a.b.c"].tolist() == [True] * 3


MISFITS = [
    ({"x": np.zeros(2)}, "x: expected float64 (3,), got float64 (2,); log it under another name"),
    ({"x": np.zeros(3, np.float32)}, "x: expected float64 (3,), got float32 (3,)"),
    ({"x": [1, 2, 3]}, "x: expected float64 (3,), got int64 (3,)"),
    ({"x": 1.0}, "x: expected float64 (3,), got float64 ()"),
    ({"x": np.zeros((1, 3))}, "x: expected float64 (3,), got float64 (1, 3)"),
    ({"n": 2.0}, "n: expected int64 (), got float64 ()"),
    ({"n": True}, "n: expected int64 (), got bool ()"),
    ({"n": None}, "n: expected numbers, booleans or text, got NoneType"),
    ({"n": ...}, "n: expected int64 in every call, got none; pass every field"),
    ({"text": "x" * 257}, "text: expected text of at most 256 bytes, got 257 bytes"),
    ({"text": np.bytes_(b"x" * 257)}, "text: expected text of at most 256 bytes, got 257 bytes"),
    (
        {"late": 3},
        "late: expected only float fields to appear after 2 rows without them, got int64",
    ),
    ({"late": object()}, "late: expected numbers, booleans or text, got object"),
    (
        {"a/b": 1.0},
        "a/b: expected a name without slashes, got 'a/b', which has a slash or NUL in it",
    ),
    ({"": 1.0}, "expected a name without slashes, got ''"),
    ({2: 1.0}, "2: expected a name without slashes, got int 2"),
    (
        {"timesteps": 1.0},
        "timesteps: expected a name without slashes, got timesteps, which is taken",
    ),
    ({"ragged": [[1.0], [2.0, 3.0]]}, "ragged: expected numbers in a regular shape"),
]


def test_a_misfit_says_what_and_logs_nothing(tmp_path: Path) -> None:
    good = {"x": np.arange(3.0), "n": 1, "text": "short"}

    def log(episode: Episode) -> None:
        for t in range(2):
            episode.log_timestep(t, {"v": 0.5}, [1, 0], good, 1.0)
        for change, text in MISFITS:
            bad = {name: value for name, value in {**good, **change}.items() if value is not ...}
            with pytest.raises(FieldError) as caught:
                episode.log_timestep(2, {"v": 0.5}, [1, 1], bad, 1.0)
            assert str(caught.value).startswith("episode 0, behavior/")
            assert text in str(caught.value)
            block = {name: [value] * 2 for name, value in bad.items()}
            with pytest.raises(FieldError):
                episode.log_timesteps([2, 3], {"v": [0.5] * 2}, [[1, 1]] * 2, block, [1.0] * 2)
        episode.log_timestep(2, {"v": 0.5}, [0, 1], good, 1.0)

    with ExperimentLoader(record(tmp_path, log, neural_sampling_rate=1)) as loader:
        episode = loader.get_episode(0)
        assert episode.get_behavior()["timesteps"].tolist() == [0, 1, 2]
        assert episode.get_behavior()["x"].tolist() == [[0.0, 1.0, 2.0]] * 3
        assert episode.get_neural_states()["timesteps"].tolist() == [0, 1, 2]
        assert episode.get_rewards()["timesteps"].tolist() == [0, 1, 2]
        assert episode.get_spikes()["neuron_ids"].tolist() == [0, 0, 1]
        assert episode.get_metadata()["total_timesteps"] == 3


def test_fields_are_a_mapping(tmp_path: Path) -> None:
    with DataExporter("test", tmp_path, progress=False) as exporter:
        episode = exporter.start_episode()
        for argument in ("neural_state", "behavior"):
            for fields in ([1, 2], np.zeros(3), 1.0, "text", [], 0):
                with pytest.raises(FieldError, match="expected a dict of fields"):
                    episode.log_timestep(0, **{argument: fields})
                with pytest.raises(FieldError, match="expected a dict of fields"):
                    episode.log_timesteps([0], **{argument: fields})


def test_a_field_whose_first_value_failed_may_begin_anew(tmp_path: Path) -> None:
    def log(episode: Episode) -> None:
        with pytest.raises(FieldError):
            episode.log_timestep(0, behavior={"x": [1, 2], "y": object()})
        episode.log_timestep(0, behavior={"x": 1.5})

    assert behavior(tmp_path, log)["x"].tolist() == [1.5]
