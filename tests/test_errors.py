"""Every error survives pickling, and its text says where, what and what to do."""

import inspect
import pickle
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from shardwriter import errors
from shardwriter.errors import EpisodesFailed, ShardWriterError, WriterFailed, command, ranges

SAMPLES: dict[object, Any] = {
    int: 12,
    str: "a text",
    object: 0.5,
    Path: Path("/data/maze/shards/episode_0012.h5"),
}
CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, ShardWriterError)
]


def sample(kind: type[ShardWriterError]) -> ShardWriterError:
    """Make an error from the types of its constructor's arguments."""
    if kind is ShardWriterError:
        return kind("a text")
    hints = typing.get_type_hints(kind.__init__)
    hints.pop("return")
    return kind(*(value_of(hint) for hint in hints.values()))


def value_of(hint: Any) -> Any:
    """Return some value of a type."""
    inner = typing.get_args(hint)
    kind = typing.get_origin(hint)
    if kind in (Mapping, dict):
        return {value_of(inner[0]): value_of(inner[1])}
    if kind is Sequence:
        return [value_of(inner[0])] * 3
    return value_of(inner[0]) if inner else SAMPLES[hint]


def test_all_lists_every_error() -> None:
    assert sorted(kind.__name__ for kind in CLASSES) == errors.__all__


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[ShardWriterError]) -> None:
    error = sample(kind)
    error.add_note("seen in a worker")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is kind
        assert copy.args == error.args
        assert str(copy) == str(error)
        assert copy.__notes__ == ["seen in a worker"]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_errors_text_holds_its_fields(kind: type[ShardWriterError]) -> None:
    text = str(sample(kind))
    assert len(text) > 5
    assert "object at 0x" not in text
    assert not text.endswith(".")


def test_no_error_has_os_error_as_a_base() -> None:
    # Its first argument would become errno.
    assert not any(issubclass(kind, OSError) for kind in CLASSES)


def test_failed_episodes_are_listed_up_to_ten() -> None:
    failures = {i: f"ValueError: {i}" for i in range(100, 112)}
    error = EpisodesFailed(failures, [None] * 40)
    lines = str(error).splitlines()
    assert lines[0] == "12 of 40 episodes failed (100-111); what they logged is kept"
    assert lines[1:3] == ["  episode 100: ValueError: 100", "  episode 101: ValueError: 101"]
    assert lines[-1] == "  … and 2 more"
    assert len(lines) == 12
    assert error.failures == failures


def test_a_command_in_a_text_is_one_that_a_shell_takes() -> None:
    assert command("merge", Path("/a b/c")) == "`shardwriter merge '/a b/c'`"
    failed = WriterFailed(3, Path("/my data/maze/shards/episode_0003.h5"), "no space")
    assert str(failed).endswith("run `shardwriter recover '/my data/maze'`")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], "(none)"),
        ([7], "7"),
        ([2, 0, 1, 7], "0-2, 7"),
        (list(range(0, 60, 2)), ", ".join(str(i) for i in range(0, 40, 2)) + ", …"),
    ],
)
def test_ids_are_written_as_ranges(ids: list[int], text: str) -> None:
    assert ranges(ids) == text
