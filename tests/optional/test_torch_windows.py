"""Windows as PyTorch datasets, in this process and in workers of every kind."""

import multiprocessing
import pickle
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, DistributedSampler

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.errors import ConfigError, EpisodeNotFound, ExperimentNotFound, ShardMissing
from shardwriter.interop.torch import WindowDataset, WindowStream

FIELDS = ["neural_states/v", "behavior/position"]
LENGTH, STRIDE, BATCH = 20, 8, 16
STEPS = [15, 20, 300, 91, 27]  # of each episode; the first is shorter than a window
WINDOWS = {(i, k) for i, n in enumerate(STEPS) for k in range(0, n - LENGTH + 1, STRIDE)}
# The parent has threads, ours among them: a worker must not wait for one that it does not have.
FORK_WARNING = "ignore:This process .* is multi-threaded:DeprecationWarning"
CORES_WARNING = "ignore:This DataLoader will create:UserWarning"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("windows")
    options: dict[str, Any] = {"neural_sampling_rate": 1, "chunk_size": 32, "progress": False}
    with DataExporter("windows", place, **options) as exporter:
        for i, steps in enumerate(STEPS):
            rng = np.random.default_rng(i)
            with exporter.start_episode(i) as episode:
                episode.log_timesteps(
                    np.arange(steps),
                    {"v": rng.normal(size=(steps, 1000)).astype(np.float32)},
                    behavior={
                        "position": rng.normal(size=(steps, 2)),
                        "zone": np.full(steps, "north", "S8"),
                    },
                )
    return exporter.output_dir


@pytest.fixture(scope="module")
def direct(recorded: Path) -> dict[int, list[np.ndarray]]:
    """Both fields of each episode, read whole."""
    with ExperimentLoader(recorded) as loader:
        return {
            one.id: [one.get_neural_states()["v"], one.get_behavior()["position"]] for one in loader
        }


def stream(path: Path, **options: Any) -> WindowStream:
    return WindowStream(path, LENGTH, STRIDE, FIELDS, batch_size=BATCH, **options)


def workers(context: str | None, **options: Any) -> dict[str, Any]:
    chosen = {"num_workers": 2, "multiprocessing_context": context} if context else {}
    return {**chosen, **options}


def order(batches: Iterable[dict[str, Any]], direct: dict[int, list[np.ndarray]]) -> list[Any]:
    """Return (episode, start) of each window in its order, once its values are what was logged."""
    found = []
    for batch in batches:
        for i, (episode, start) in enumerate(
            zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True)
        ):
            found.append((episode, start))
            for field, whole in zip(FIELDS, direct[episode], strict=True):
                window = batch[field][i].numpy()
                assert window.dtype == whole.dtype
                np.testing.assert_array_equal(window, whole[start : start + LENGTH])
    return found


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("context", [None, "fork", "forkserver"])
def test_an_epoch_has_every_window_once(
    recorded: Path, direct: dict[int, list[np.ndarray]], context: str | None
) -> None:
    multiprocessing.set_forkserver_preload(["shardwriter.interop.torch"])
    dataset = WindowDataset(recorded, LENGTH, STRIDE, FIELDS)
    first = dataset[0]  # a parent that has read: its files are not the workers'
    assert (first["episode"], first["start"], len(dataset)) == (1, 0, len(WINDOWS))
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=3)
    mapped = DataLoader(dataset, BATCH, sampler=sampler, **workers(context))
    found = order(mapped, direct)
    assert len(found) == len(WINDOWS)
    assert set(found) == WINDOWS
    assert found != sorted(found)
    dataset.close()


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_a_stream_has_every_window_once_and_an_order_of_its_own_each_epoch(
    recorded: Path, direct: dict[int, list[np.ndarray]], context: str | None
) -> None:
    with ExperimentLoader(recorded) as loader:
        loader.get_episode(2).get_neural_states()  # over a MB: by threads, which no fork has
    streamed = stream(recorded, seed=3)
    lasting = workers(context, persistent_workers=True) if context else {}
    batches = DataLoader(streamed, batch_size=None, **lasting)
    epochs = []
    for epoch in (0, 1, 0):
        streamed.set_epoch(epoch)
        epochs.append(order(batches, direct))
        assert len(epochs[-1]) == len(WINDOWS)
        assert set(epochs[-1]) == WINDOWS
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(streamed) == len(batches) == -(-len(WINDOWS) // BATCH)
    if context is None:
        assert order(stream(recorded, seed=3), direct) == epochs[0]
        assert order(stream(recorded, seed=4), direct) != epochs[0]


@pytest.mark.filterwarnings(FORK_WARNING, CORES_WARNING)
@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"lanes": 1}, {"buffer_mb": 0.01}])
def test_the_order_is_the_same_for_any_number_of_workers(
    recorded: Path, direct: dict[int, list[np.ndarray]], options: dict[str, Any]
) -> None:
    chosen = {"batch_size": 3, "seed": 5, "lanes": 4, **options}
    with ExperimentLoader(recorded) as loader:
        alone = [
            list(zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True))
            for batch in loader.iter_windows(LENGTH, STRIDE, FIELDS, epoch=2, **chosen)
        ]
    assert sorted(chain(*alone)) == sorted(WINDOWS)
    assert [len(batch) for batch in alone[:-1]] == [3] * (len(alone) - 1)
    streamed = WindowStream(recorded, LENGTH, STRIDE, FIELDS, **chosen)
    streamed.set_epoch(2)
    for count in (0, 3):
        context = {"multiprocessing_context": "fork"} if count else {}
        batches = DataLoader(streamed, batch_size=None, num_workers=count, **context)
        assert order(batches, direct) == list(chain(*alone))


@pytest.mark.filterwarnings(FORK_WARNING)
def test_parts_take_batches_in_turn(recorded: Path, direct: dict[int, list[np.ndarray]]) -> None:
    batches = [order([batch], direct) for batch in stream(recorded, seed=5, lanes=4)]
    for i in range(2):
        one = stream(recorded, seed=5, lanes=4, part=(i, 2))
        assert len(one) == len(batches[i::2])
        loaded = DataLoader(one, batch_size=None, num_workers=2, multiprocessing_context="fork")
        assert order(loaded, direct) == list(chain(*batches[i::2]))


@pytest.mark.filterwarnings(FORK_WARNING)
def test_a_child_opens_files_of_its_own(recorded: Path, tmp_path: Path) -> None:
    path = shutil.copytree(recorded, tmp_path / "copy")
    dataset = WindowDataset(path, LENGTH, STRIDE, FIELDS)
    assert dataset[0]["episode"] == 1
    (path / "shards" / "episode_0001.h5").unlink()
    assert dataset[0]["episode"] == 1  # this process has it open
    with pytest.raises(RuntimeError, match="ShardMissing"):
        next(iter(DataLoader(dataset, num_workers=1, multiprocessing_context="fork")))
    data = pickle.dumps(dataset)
    assert len(data) < 2_000
    with pytest.raises(ShardMissing):
        pickle.loads(data)[0]
    dataset.close()


def test_a_dataset_is_a_sequence(recorded: Path) -> None:
    dataset = WindowDataset(recorded, LENGTH, STRIDE, ["behavior/position"], episodes=[4, 3])
    assert [(one["episode"], one["start"]) for one in dataset] == [
        (4, 0),
        *((3, start) for start in range(0, 72, STRIDE)),
    ]
    assert dataset[-1]["start"] == 64
    assert dataset[0]["behavior/position"].shape == (LENGTH, 2)
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert len(WindowDataset(recorded, LENGTH, STRIDE, FIELDS, episodes=[0])) == 0
    assert not list(stream(recorded, episodes=[0]))
    dataset.close()


@pytest.mark.filterwarnings(FORK_WARNING)
def test_more_workers_than_episodes(recorded: Path, direct: dict[int, list[np.ndarray]]) -> None:
    few = stream(recorded, episodes=[3])
    batches = DataLoader(few, batch_size=None, **workers("fork"))
    assert sorted(order(batches, direct)) == sorted(one for one in WINDOWS if one[0] == 3)


def test_what_cannot_be_is_said_at_once(recorded: Path, tmp_path: Path) -> None:
    for kind in (WindowDataset, WindowStream):
        with pytest.raises(ExperimentNotFound):
            kind(tmp_path / "none", LENGTH, STRIDE, FIELDS)
        with pytest.raises(EpisodeNotFound, match="got 7"):
            kind(recorded, LENGTH, STRIDE, FIELDS, episodes=[7])
        with pytest.raises(ConfigError, match="stride"):
            kind(recorded, LENGTH, 0, FIELDS)
        with pytest.raises(ConfigError, match="at least one"):
            kind(recorded, LENGTH, STRIDE, [])
        with pytest.raises(ConfigError, match=r"numbers, got 'behavior/zone: \|S8"):
            next(iter(kind(recorded, LENGTH, STRIDE, ["behavior/zone"])))
        with pytest.raises(ConfigError, match="same timesteps"):
            kind(recorded, LENGTH, STRIDE, [*FIELDS, "behavior/speed"])
        with pytest.raises(ConfigError, match="of some episode"):
            kind(recorded, LENGTH, STRIDE, ["behavior/speed"])
    with pytest.raises(ConfigError, match="seed"):
        stream(recorded, seed=-1)
    with pytest.raises(ConfigError, match="epoch"):
        stream(recorded).set_epoch(-1)


@pytest.mark.filterwarnings(FORK_WARNING)
def test_a_shard_that_is_gone(recorded: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(recorded, tmp_path / "copy")
    dataset = WindowDataset(copy, LENGTH, STRIDE, FIELDS)
    streamed = stream(copy)
    (copy / "shards" / "episode_0003.h5").unlink()
    assert dataset[0]["episode"] == 1
    with pytest.raises(ShardMissing):
        dataset[-5]
    with pytest.raises(ShardMissing):
        list(streamed)
    with pytest.raises(ShardMissing):
        stream(copy)
    with pytest.raises(RuntimeError, match=r"(?s)ShardMissing.*episode_0003"):  # as PyTorch has it
        list(DataLoader(streamed, batch_size=None, **workers("fork")))
    with pytest.warns(UserWarning, match="skipped"):
        rest = WindowDataset(copy, LENGTH, STRIDE, FIELDS, missing="skip")
    assert {one["episode"] for one in rest} == {1, 2, 4}
    dataset.close()
    rest.close()
