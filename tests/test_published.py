"""Reading published files where the file system has no locks."""

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import pytest
from h5py import h5f

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.files.published import published_file


class WithoutLocks:
    """``h5f.open`` on a file system that answers with an error to every lock."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._open = h5f.open
        self.refused = 0

    def __call__(self, path: bytes, flags: int, fapl: Any = None) -> h5f.FileID:
        if fapl is None or fapl.get_file_locking()[0]:
            self.refused += 1
            raise OSError(self._number, "unable to lock file")
        return self._open(path, flags, fapl=fapl)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_an_experiment_is_read_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with DataExporter("maze", tmp_path) as exporter, exporter.start_episode(3) as episode:
        episode.log_timestep(0, behavior={"x": 1.5})
    without = WithoutLocks(number)
    monkeypatch.setattr(h5f, "open", without)
    with ExperimentLoader(exporter.output_dir) as loader:
        assert loader.get_episode(3).get_behavior()["x"].tolist() == [1.5]
    assert without.refused >= 2  # the master and the shard


def test_other_errors_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.h5"
    h5py.File(path, "w").close()
    with h5py.File(path), published_file(path) as file:  # with the lock, as everybody else
        assert file.id.get_access_plist().get_file_locking()[0]
    with pytest.raises(FileNotFoundError):
        published_file(tmp_path / "none.h5")
    monkeypatch.setattr(h5f, "open", WithoutLocks(errno.EACCES))
    with pytest.raises(PermissionError):
        published_file(path)
    assert os.path.exists(path)
