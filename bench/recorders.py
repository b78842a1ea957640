"""The recorders that `record` compares: shardwriter, plain h5py as people use it, raw files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from bench.data import Floats, Spikes, Variant
from bench.peers import AppendedEpisode, BufferedEpisode, H5pyRecorder, OpenH5pyEpisode
from bench.recorder import Layout, Log, RecordedFile, Recorder

if TYPE_CHECKING:
    from shardwriter.episode import Episode

__all__ = ["RECORDERS", "RawRecorder", "RecorderKind", "ShardwriterRecorder"]


MakeRecorder: TypeAlias = Callable[[Path, Variant], Recorder]


class ShardwriterRecorder:
    """The recorder under test.

    Parameters
    ----------
    folder, variant
        Where to record, and the shape of the workload.
    compression
        As for `DataExporter`.
    async_write
        With one separate writer process, or all in the calling process.
    dense
        Spikes come as bool[N] instead of as ids.
    """

    def __init__(
        self,
        folder: Path,
        variant: Variant,
        *,
        compression: str | None = "gzip",
        async_write: bool = True,
        dense: bool = False,
    ) -> None:
        from shardwriter import DataExporter

        self._dense = dense
        self._episode: Episode | None = None
        self._exporter = DataExporter(
            "bench",
            folder,
            neural_sampling_rate=variant.sample_every,
            compression=compression,
            compression_level=4,
            async_write=async_write,
            n_async_workers=1,
            progress=False,
        )

    def begin(self, episode: int) -> Log:
        """Start an episode; the returned function builds its dicts, as a caller would."""
        self._episode = self._exporter.start_episode(episode)
        log_timestep = self._episode.log_timestep

        def log_dense(
            t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32
        ) -> None:
            behavior = {"position": p, "velocity": q}
            log_timestep(t, {"membrane_potential": v}, spikes, behavior, r)

        def log_ids(t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
            behavior = {"position": p, "velocity": q}
            log_timestep(t, {"membrane_potential": v}, None, behavior, r, spike_ids=spikes)

        return log_dense if self._dense else log_ids

    def end(self) -> None:
        """End the episode; its writer may still be busy."""
        if self._episode is not None:
            self._episode.end()

    def finish(self) -> None:
        """Wait for the writers, without merging."""
        self._exporter.close(merge=False)

    def file(self, episode: int) -> RecordedFile:
        """Return the episode's shard, which has the documented paths."""
        name = f"episode_{episode:04d}"
        group = f"episodes/{name}"
        layout = Layout(
            potentials=f"{group}/neural_states/membrane_potential",
            spike_ids=f"{group}/spikes/neuron_ids",
            spike_timesteps=f"{group}/spikes/timesteps",
            position=f"{group}/behavior/position",
            velocity=f"{group}/behavior/velocity",
            reward=f"{group}/rewards/values",
        )
        path = Path(self._exporter.output_dir) / "shards" / f"{name}.h5"
        return RecordedFile(path=path, layout=layout)


class RawRecorder:
    """Ceiling: the same bytes through one buffered file, without any format."""

    def __init__(self, folder: Path, variant: Variant) -> None:
        self._folder = folder
        self._sample_every = variant.sample_every
        self._file: BinaryIO | None = None

    def begin(self, episode: int) -> Log:
        """Open the file with a buffer of 1 MiB."""
        self._file = self.file(episode).path.open("xb", buffering=1 << 20)
        write: Callable[[Any], int] = self._file.write  # arrays are buffers; stubs say so late
        sample_every = self._sample_every

        def log(t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
            if t % sample_every == 0:
                write(v)
            write(spikes)
            write(p)
            write(q)
            write(r)

        return log

    def end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def finish(self) -> None:
        """Do nothing: `end` closed the file."""

    def file(self, episode: int) -> RecordedFile:
        """Return the episode's file."""
        return RecordedFile(path=self._folder / f"{episode}.bin", layout=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecorderKind:
    """A row of the table.

    Attributes
    ----------
    divisor
        Slow recorders get so many times fewer steps; their speed does not depend on the length.
    """

    label: str
    make: MakeRecorder
    dense: bool = False
    divisor: int = 1


def _h5py(open_episode: Callable[..., OpenH5pyEpisode], **options: object) -> MakeRecorder:
    return partial(H5pyRecorder, open_episode=partial(open_episode, options=options))


RECORDERS: dict[str, RecorderKind] = {
    "sw-sync": RecorderKind(
        label="shardwriter, in the caller, gzip",
        make=partial(ShardwriterRecorder, async_write=False),
    ),
    "sw-gzip": RecorderKind(label="shardwriter, own writer, gzip", make=ShardwriterRecorder),
    "sw-gzip-dense": RecorderKind(
        label="shardwriter, own writer, gzip, dense spikes",
        make=partial(ShardwriterRecorder, dense=True),
        dense=True,
    ),
    "sw-none": RecorderKind(
        label="shardwriter, own writer, uncompressed",
        make=partial(ShardwriterRecorder, compression=None),
    ),
    "h5py-append": RecorderKind(
        label="h5py, resize + append each step, gzip 4",
        make=_h5py(AppendedEpisode, compression="gzip", compression_opts=4),
        divisor=40,
    ),
    "h5py-gzip": RecorderKind(
        label="h5py, buffered, gzip 4 + shuffle",
        make=_h5py(BufferedEpisode, compression="gzip", compression_opts=4, shuffle=True),
        divisor=4,
    ),
    "h5py-none": RecorderKind(label="h5py, buffered, uncompressed", make=_h5py(BufferedEpisode)),
    "raw": RecorderKind(label="ceiling: raw write(), buffered", make=RawRecorder),
}
