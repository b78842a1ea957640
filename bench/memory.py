"""How much memory does recording take, beyond the slots that were asked for?

The peak of the process that simulates and of its writer, interpreter, NumPy and h5py included, each
less the size of the buffers, which both map. The peer does the same with buffered h5py. The states
of a network are replayed, as the network itself would take memory.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.data import VARIANTS, Floats, Ints, LifNetwork
from bench.findings import Findings, Setting, figure, interleaved
from bench.machine import descendants, rss_bytes
from bench.recorders import RECORDERS
from shardwriter import DataExporter

__all__ = ["measure"]

POOL = 50


def measure(setting: Setting) -> Findings:
    """Measure rollout and writer, and the peer."""
    steps = 2_000 if setting.is_quick else 40_000
    rounds = interleaved(
        {
            "ours": lambda: _in_new_process("ours", steps, setting.folder),
            "h5py": lambda: _in_new_process("h5py", steps, setting.folder),
        },
        setting,
    )
    peer = ("h5py rollout", "h5py buffered, gzip 4, all in one process")
    names = {"rollout": "the process that simulates", "writer": "its writer"}
    return Findings(
        figures=[
            figure(
                f"memory/{name}",
                f"A1k, {steps:,} steps: peak RSS of {label}, less {rounds[0]['ours slots']:.0f} MB "
                "of slots",
                rounds,
                f"ours {name}",
                "MB",
                is_rate=False,
                peer=peer,
                ceiling=("ours imports", "interpreter, NumPy and h5py alone"),
            )
            for name, label in names.items()
        ]
    )


def _in_new_process(which: str, steps: int, folder: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        states = Path(place, "states.pickle")
        states.write_bytes(pickle.dumps(_states()))
        command = [sys.executable, "-m", "bench.memory", which, str(steps), place]
        root = Path(__file__).resolve().parent.parent
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        plain = [sys.executable, "-c", "import h5py, numpy\n" + PEAK]
        alone = subprocess.run(plain, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found | {"imports": float(alone.stdout)}


PEAK = 'print(next(int(l.split()[1]) for l in open("/proc/self/status") if "VmHWM" in l) / 1000)'


def _states() -> list[tuple[Ints, Floats]]:
    """Return the ids of neurons that fire and all potentials, of a few steps."""
    network = LifNetwork(1_000)
    return [(network.step(), network.potentials) for _ in range(POOL)]


def _record(which: str, steps: int, folder: Path) -> dict[str, float]:
    """Record in this process."""
    pool = pickle.loads((folder / "states.pickle").read_bytes())
    vector = np.zeros(3, np.float32)
    if which == "h5py":
        recorder = RECORDERS["h5py-gzip"].make(folder, VARIANTS["A1k"])
        log = recorder.begin(0)
        for t in range(steps // 4):
            ids, v = pool[t % POOL]
            log(t, v, ids, vector, vector, np.float32(1))
        recorder.end()
        return {"rollout": rss_bytes(peak=True) / 1e6}
    buffers = folder / "buffers"
    buffers.mkdir()
    options = {"neural_sampling_rate": 1, "async_write": True, "n_async_workers": 1}
    exporter = DataExporter("memory", folder, buffer_dir=buffers, progress=False, **options)
    with exporter.start_episode() as episode:
        for t in range(steps):
            ids, v = pool[t % POOL]
            behavior = {"position": vector, "velocity": vector}
            episode.log_timestep(t, {"v": v}, None, behavior, 1.0, spike_ids=ids)
        slots = sum(path.stat().st_size for path in buffers.iterdir())
    writer = sum(rss_bytes(pid, peak=True) for pid in descendants())
    exporter.close(merge=False)
    return {
        "slots": slots / 1e6,
        "rollout": (rss_bytes(peak=True) - slots) / 1e6,
        "writer": (writer - slots) / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(_record(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
