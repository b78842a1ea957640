"""The shard of a short episode is written as bytes; HDF5 has to find what it would have written."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shardwriter import DataExporter
from shardwriter.files.shard_description import describe
from shardwriter.files.stored_objects import stored_dataset
from shardwriter.files.structure import Structure
from shardwriter.files.whole_shard import Unsuitable, WholeShard
from shardwriter.recording.episode import Episode

OF_TIME = ("uuid", "start_time", "end_time", "_crc32")


def log_everything(episode: Episode) -> None:
    rng = np.random.default_rng(0)
    deep = {"a": {"b": [1, 2, 3], "t": ("x", "y")}, "on": True, "c": 1j, "raw": b"ab\0c"}
    maze = {
        "walls": rng.integers(0, 2, (50, 60)),
        "name": "böb",
        "empty": [],
        "none": None,
        "deep": deep,
        "mixed": [1, "a", [2.0]],
        "texts": ["a", "", "ç"],
    }
    episode.log_static_data("maze", maze)
    for t in range(30):
        state = {
            "v": rng.normal(size=100).astype("f4"),
            "layer": {"u": rng.normal(size=(2, 3))},
            "is_on": rng.random(4) > 0.5,
            "z": np.complex64(1j * t),
        }
        behavior = {"p": rng.normal(size=3).astype("f4"), "h": np.float16(t), "n": np.uint8(t)}
        episode.log_timestep(t, state, None, behavior, float(t), spike_ids=np.array([], int))
        episode.log_event("jump", t, {"how": "hïgh", "n": t})
    episode.log_weight_changes(3, np.arange(5), np.zeros(5), np.ones(5))
    episode.end(summary={"a": {"b": 1}, "at": [1, "x"]}, final_state=np.arange(2000))


def log_nothing(episode: Episode) -> None:
    episode.end()


def found(path: Path) -> dict[str, Any]:
    """Return all that HDF5 finds in a file, but for times and how static arrays are cut up."""
    objects: dict[str, Any] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        types = {key: node.attrs.get_id(key).dtype for key in node.attrs}
        values = {key: node.attrs[key] for key in node.attrs if key not in OF_TIME}
        objects[name] = [types, values]
        if isinstance(node, h5py.Dataset):
            data = node[()].tobytes() if node.dtype != object else node[()]
            fill = np.asarray(node.fillvalue).tobytes()
            objects[name] += [node.dtype, node.shape, node._filters, fill, data]
            if "timesteps" in node.parent:
                objects[name].append(node.chunks)

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return objects


def record(folder: Path, log: Any, options: dict[str, Any]) -> Path:
    with DataExporter(
        "test", folder, neural_sampling_rate=1, seed=1, progress=False, **options
    ) as exporter:
        log(exporter.start_episode(3))
    return exporter.output_dir / "shards" / "episode_0003.h5"


@pytest.mark.parametrize("log", [log_everything, log_nothing])
@pytest.mark.parametrize(
    "options", [{}, {"compression": None}, {"precision": {"v": 0.01}}, {"validate_data": False}]
)
def test_hdf5_finds_what_it_would_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Any, options: dict[str, Any]
) -> None:
    written: list[Path] = []
    write = WholeShard.write

    def noted(self: WholeShard, path: Path, *rest: Any) -> None:
        write(self, path, *rest)
        written.append(path)

    monkeypatch.setattr(WholeShard, "write", noted)
    ours = record(tmp_path / "bytes", log, options)
    assert [path.name for path in written] == [".episode_0003.h5.tmp"]

    def unsuitable(*_: Any) -> None:
        raise Unsuitable

    monkeypatch.setattr(WholeShard, "write", unsuitable)
    theirs = record(tmp_path / "hdf5", log, options)
    ours_found, theirs_found = found(ours), found(theirs)
    assert list(ours_found) == list(theirs_found)
    for name, expected in theirs_found.items():
        np.testing.assert_equal(ours_found[name], expected, name)
    assert describe(ours)[0].tables == describe(theirs)[0].tables


def test_hdf5_can_change_it_afterwards(tmp_path: Path) -> None:
    path = record(tmp_path, log_everything, {})
    changed = tmp_path / "changed.h5"
    changed.write_bytes(path.read_bytes())
    with h5py.File(changed, "r+") as file:
        group = file["episodes/episode_0003"]
        group["behavior/p"][3] = 7
        group["note"] = np.arange(5)
        group["behavior"].attrs.update({f"a{i}": i for i in range(20)})
        group["spikes/neuron_ids"].resize(3, axis=0)
        group["spikes/neuron_ids"][:] = [1, 2, 3]
    with h5py.File(changed) as file:
        group = file["episodes/episode_0003"]
        assert group["behavior/p"][3].tolist() == [7, 7, 7]
        assert group["behavior/p"][2].tolist() != [7, 7, 7]
        assert group["spikes/neuron_ids"][:].tolist() == [1, 2, 3]
        assert group["note"][:].tolist() == list(range(5))


def test_a_column_is_one_chunk_without_an_index(tmp_path: Path) -> None:
    path = record(tmp_path, log_everything, {})
    with Structure(path) as structure:
        messages = structure.find("episodes/episode_0003/neural_states/v")
        assert messages is not None
        column = stored_dataset(messages)
    assert column.chunk == column.shape == (30, 100)
    assert column.index[:2] == b"\x02\x01"


@pytest.mark.parametrize("dims", [(1, 1), (255, 1), (256, 1), (3, 300), (1, 70_000)])
def test_chunks_of_all_sizes(tmp_path: Path, dims: tuple[int, int]) -> None:
    """HDF5 wants a chunk's lengths in exactly as many bytes as they need."""
    rows, width = dims
    values = np.arange(rows * width, dtype="f4").reshape(rows, width)

    def log(episode: Episode) -> None:
        for t in range(rows):
            episode.log_timestep(t, {"v": values[t]})
        episode.end()

    path = record(tmp_path, log, {})
    with h5py.File(path) as file:
        dataset = file["episodes/episode_0003/neural_states/v"]
        assert dataset.chunks == (rows, width)
        np.testing.assert_array_equal(dataset[:], values)


@pytest.mark.parametrize("what", ["large static data", "no elements", "another filter"])
def test_what_is_unsuitable_goes_through_hdf5(tmp_path: Path, what: str) -> None:
    large = np.zeros(1 << 18)

    def log(episode: Episode) -> None:
        if what == "large static data":
            episode.log_static_data("large", large)
        state = np.zeros((3, 0)) if what == "no elements" else np.ones(3)
        episode.log_timestep(0, {"v": state})
        episode.end()

    options = {"compression": "lzf" if what == "another filter" else "gzip"}
    path = record(tmp_path, log, options)
    with h5py.File(path) as file:
        column = file["episodes/episode_0003/neural_states/timesteps"]
        assert column.maxshape == (None,)
        assert column[:].tolist() == [0]
    assert describe(path)[0].attributes["status"] == "completed"
