"""All recorders that are compared: shardwriter, its peers, and the raw files that bound them.

Libraries are imported when a recorder is made, so that those not installed do no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import h5py
import numpy as np

from bench.data import Floats, Spikes, Variant
from bench.libraries.buffered import BufferedRecorder
from bench.recorder import Log, Recorder, Signals

if TYPE_CHECKING:
    from shardwriter.recording.episode import Episode

__all__ = ["RECORDERS", "RawRecorder", "RecorderKind", "ShardwriterRecorder", "not_installed"]


MakeRecorder: TypeAlias = Callable[[Path, Variant], Recorder]


class ShardwriterRecorder:
    """The recorder under test.

    Parameters
    ----------
    folder, variant
        Where to record, and the shape of the workload.
    compression, async_write
        As for `DataExporter`; with `async_write` there is one writer process.
    """

    def __init__(
        self,
        folder: Path,
        variant: Variant,
        *,
        compression: str | None = "gzip",
        async_write: bool = True,
    ) -> None:
        from shardwriter import DataExporter

        self._open: list[Episode] = []
        self.exporter = DataExporter(
            "bench",
            folder,
            neural_sampling_rate=variant.sample_every,
            compression=compression,
            async_write=async_write,
            n_async_workers=1,
            progress=False,
        )

    def begin(self, episode: int) -> Log:
        """Start an episode; the returned function builds its dicts, as a caller would."""
        opened = self.exporter.start_episode(episode)
        self._open.append(opened)
        log_timestep = opened.log_timestep

        def log(t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
            behavior = {"position": p, "velocity": q}
            log_timestep(t, {"membrane_potential": v}, None, behavior, r, spike_ids=spikes)

        return log

    def end(self) -> None:
        """End the episode; its writer may still be busy."""
        self._open[-1].end()

    def finish(self) -> None:
        """Wait until all shards are published."""
        for episode in self._open:
            episode.wait()
        self._open.clear()

    def close(self) -> None:
        """Stop the writers, without merging."""
        self.exporter.close(merge=False)

    def path(self, episode: int) -> Path:
        """Return the episode's shard."""
        return Path(self.exporter.output_dir) / "shards" / f"episode_{episode:04d}.h5"

    def read(self, episode: int) -> Signals:
        """Read the episode back, through plain h5py and the documented paths."""
        with h5py.File(self.path(episode)) as file:
            group = file[f"episodes/episode_{episode:04d}"]
            return Signals(
                potentials=group["neural_states/membrane_potential"][:],
                spike_ids=group["spikes/neuron_ids"][:],
                position=group["behavior/position"][:],
                velocity=group["behavior/velocity"][:],
                reward=group["rewards/values"][:],
            )


class RawRecorder:
    """Ceiling: the same bytes through one buffered file, without any format."""

    def __init__(self, folder: Path, variant: Variant) -> None:
        self._folder = folder
        self._sample_every = variant.sample_every
        self._file: BinaryIO | None = None

    def begin(self, episode: int) -> Log:
        """Open the file with a buffer of 1 MiB."""
        self._file = self.path(episode).open("xb", buffering=1 << 20)
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

    def close(self) -> None:
        """Do nothing: `end` closed the file."""

    def path(self, episode: int) -> Path:
        """Return the episode's file."""
        return self._folder / f"{episode}.bin"

    def read(self, episode: int) -> None:
        """Return None: the file is nothing but the raw bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecorderKind:
    """A row of a table.

    Attributes
    ----------
    needs
        The package that it needs, as Python imports it.
    divisor
        Slow recorders get so many times fewer steps; their speed does not depend on the length.
    """

    label: str
    make: MakeRecorder
    needs: str | None = None
    divisor: int = 1
    is_compressed: bool = True


def not_installed(name: str) -> str | None:
    """Return the package that a recorder lacks, or None."""
    needs = RECORDERS[name].needs
    return needs if needs is not None and find_spec(needs) is None else None


def _h5py(folder: Path, variant: Variant, *, plugin: str | None = None, **options: Any) -> Recorder:
    from bench.libraries import with_h5py

    if plugin:
        options = with_h5py.plugin_filter(plugin)
    return BufferedRecorder(
        folder,
        variant,
        open_storage=partial(with_h5py.H5pyStorage, options=options),
        read=with_h5py.read,
        suffix=".h5",
    )


def _h5py_appended(folder: Path, variant: Variant) -> Recorder:
    from bench.libraries.with_h5py import AppendedRecorder

    return AppendedRecorder(folder, variant, options={"compression": "gzip", "compression_opts": 4})


def _stored_by(module: str, storage: str, suffix: str) -> MakeRecorder:
    def make(folder: Path, variant: Variant) -> Recorder:
        peer = import_module(f"bench.libraries.{module}")
        return BufferedRecorder(
            folder,
            variant,
            open_storage=getattr(peer, storage),
            read=peer.read,
            suffix=suffix,
        )

    return make


def _mcap(folder: Path, variant: Variant, *, compression: str) -> Recorder:
    from bench.libraries.with_mcap import McapRecorder

    return McapRecorder(folder, variant, compression=compression)


def _minari(folder: Path, variant: Variant) -> Recorder:
    from bench.libraries.with_minari import MinariRecorder

    return MinariRecorder(folder, variant)


def _own(label: str, **options: Any) -> RecorderKind:
    return RecorderKind(
        label=f"shardwriter, {label}",
        make=partial(ShardwriterRecorder, **options),
        is_compressed=options.get("compression", "gzip") is not None,
    )


RECORDERS: dict[str, RecorderKind] = {
    "gzip": _own("gzip, own writer"),
    "gzip-caller": _own("gzip, in the caller", async_write=False),
    "lz4": _own("LZ4, own writer", compression="lz4"),
    "zstd": _own("Zstandard, own writer", compression="zstd"),
    "none": _own("uncompressed, own writer", compression=None),
    "none-caller": _own("uncompressed, in the caller", compression=None, async_write=False),
    "h5py-append": RecorderKind(
        label="h5py, resize + append each step, gzip 4", make=_h5py_appended, divisor=40
    ),
    "h5py-gzip": RecorderKind(
        label="h5py buffered, gzip 4 + shuffle",
        make=partial(_h5py, compression="gzip", compression_opts=4, shuffle=True),
        divisor=4,
    ),
    "h5py-lz4": RecorderKind(
        label="h5py buffered, LZ4 + shuffle", make=partial(_h5py, plugin="lz4"), needs="hdf5plugin"
    ),
    "h5py-zstd": RecorderKind(
        label="h5py buffered, Zstandard 4 + shuffle",
        make=partial(_h5py, plugin="zstd"),
        needs="hdf5plugin",
    ),
    "h5py-none": RecorderKind(label="h5py buffered, uncompressed", make=_h5py, is_compressed=False),
    "tensorstore": RecorderKind(
        label="TensorStore zarr 3, Blosc-Zstandard 3",
        make=_stored_by("with_tensorstore", "TensorStoreStorage", ""),
        needs="tensorstore",
    ),
    "zarr": RecorderKind(
        label="zarr 3, Blosc-LZ4",
        make=_stored_by("with_zarr", "ZarrStorage", ".zarr"),
        needs="zarr",
        divisor=2,
    ),
    "pytables": RecorderKind(
        label="PyTables EArray, Blosc",
        make=_stored_by("with_pytables", "PyTablesStorage", ".h5"),
        needs="tables",
    ),
    "parquet": RecorderKind(
        label="Parquet, Zstandard 1 + byte-stream split",
        make=_stored_by("with_parquet", "ParquetStorage", ""),
        needs="pyarrow",
    ),
    "adios2": RecorderKind(
        label="ADIOS2 BP5, uncompressed",
        make=_stored_by("with_adios2", "Adios2Storage", ".bp"),
        needs="adios2",
        is_compressed=False,
    ),
    "mcap": RecorderKind(
        label="MCAP, Zstandard", make=partial(_mcap, compression="ZSTD"), needs="mcap", divisor=2
    ),
    "mcap-none": RecorderKind(
        label="MCAP, uncompressed",
        make=partial(_mcap, compression="NONE"),
        needs="mcap",
        is_compressed=False,
    ),
    "minari": RecorderKind(
        label="Minari, HDF5, uncompressed",
        make=_minari,
        needs="minari",
        is_compressed=False,
    ),
    "raw": RecorderKind(label="ceiling: buffered write()", make=RawRecorder, is_compressed=False),
}
