"""Readers that know nothing of shardwriter, of the oldest HDF5 that is supported.

`h5dump` is the system's (``apt-get install hdf5-tools``).
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_episode import known, record_singly

from merge import pack
from shardwriter import DataExporter

H5DUMP = shutil.which("h5dump")


def dumped(file: Path, path: str, values: Any, output: Path) -> Any:
    """Return a dataset by h5dump, with the dtype and shape of `values`."""
    command = [H5DUMP, "-d", path, "-b", "FILE", "-o", output, file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    content = output.read_bytes()
    if isinstance(values, list):
        texts = np.frombuffer(content, f"S{len(content) // len(values)}")
        return [text.decode() for text in texts]
    return np.frombuffer(content, values.dtype).reshape(values.shape)


@pytest.mark.skipif(H5DUMP is None, reason="h5dump not installed")
def test_h5dump_reads_every_value(tmp_path: Path) -> None:
    options = {"neural_sampling_rate": 3, "chunk_size": 16, "progress": False}
    with (
        DataExporter("stock", tmp_path, **options) as exporter,
        exporter.start_episode(3) as episode,
    ):
        record_singly(episode)
    shards = exporter.output_dir.glob("shards/*.h5")
    packed = pack(exporter.output_dir, tmp_path / "packed.h5")
    for file in (exporter.output_dir / "experiment_data.h5", *shards, packed):
        for name, values in known(3).tables.items():
            path = f"/episodes/episode_0003/{name}"
            found = dumped(file, path, values, tmp_path / "values")
            np.testing.assert_array_equal(found, values, err_msg=f"{file} {name}")
