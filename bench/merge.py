"""How does merging grow with the number of shards, and what does reading across them cost?

The shards are copies of one recorded episode of 12 datasets, each with an id and uuid of its own.
The peer is a plain single-process h5py loop that builds the same virtual datasets, in the same
run. Everything runs under ``ulimit -n 256``. The limit of packing is ``cp`` of the same
files, and ``sync``.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bench.findings import Beside, Figure, Findings, Setting, Table
from bench.machine import rss_bytes, tree_cpu_s
from bench.synthetic import ShardCopies

__all__ = ["measure"]

DESCRIPTORS = 256
PEER_MOST = 1_000  # shards that the peer merges; beyond, its rate is taken as it is
ADDED = 100
STEPS = 200
FIELD = "behavior/position"


def record_template(folder: Path, most: int) -> Path:
    """Record the episodes that shards with ids below `most` are copies of; return the experiment.

    They are alike but for their ids, one for each number of digits.
    """
    from shardwriter import DataExporter

    with DataExporter("bench", folder, neural_sampling_rate=10, progress=False) as exporter:
        exporter.save_config({"rate": 0.5})
        for digits in range(4, max(4, len(str(most))) + 1):
            with exporter.start_episode(10**digits - 1) as episode:
                log_steps(episode, np.random.default_rng(0))
    return exporter.output_dir


def log_steps(episode: Any, rng: np.random.Generator) -> None:
    """Log what every shard holds."""
    for t in range(STEPS):
        episode.log_timestep(
            t,
            neural_state={"potential": rng.random(50, np.float32)},
            spikes=rng.random(50) < 0.05,
            behavior={"position": rng.random(3), "speed": rng.random(), "angle": t / 7},
            reward=float(t % 3),
        )
    episode.log_event("goal", 3, {"zone": 1})


def add_shards(directory: Path, template: Path, numbers: range) -> None:
    """Add shards with ids and uuids of their own."""
    for digits in range(4, max(4, len(str(numbers.stop))) + 1):  # ids have at least 4
        first, stop = (0 if digits == 4 else 10 ** (digits - 1)), 10**digits
        part = range(max(numbers.start, first), min(numbers.stop, stop))
        if part:
            ShardCopies(template, stop - 1).write(directory, part)


def peer_merge(directory: Path, target: Path, count: int) -> None:
    """Build the same virtual datasets the plain way."""
    with h5py.File(target, "w", libver=("v108", "v114")) as master:
        for path in sorted((directory / "shards").rglob("*.h5"))[:count]:
            source = os.path.relpath(path, directory)
            with h5py.File(path) as shard:

                def show(name: str, node: Any, source: str = source) -> None:
                    if isinstance(node, h5py.Group):
                        group = master.require_group(name)
                        for key, value in node.attrs.items():
                            group.attrs[key] = value
                        return
                    layout = h5py.VirtualLayout(node.shape, node.dtype)
                    layout[...] = h5py.VirtualSource(source, name, node.shape)
                    master.create_virtual_dataset(name, layout, fillvalue=0)

                shard.visititems(show)


def peer_concat(directory: Path, field: str = FIELD) -> Any:
    """Read one field of all shards the plain way."""
    parts = []
    for path in sorted((directory / "shards").rglob("*.h5")):
        with h5py.File(path) as file:
            (name,) = file["episodes"]
            parts.append(file[f"episodes/{name}/{field}"][()])
    return np.concatenate(parts)


def timed(action: Callable[[], Any]) -> dict[str, float]:
    """Return wall seconds, and CPU seconds of this process and its children."""
    used, start = tree_cpu_s(), time.perf_counter()
    action()
    return {"s": time.perf_counter() - start, "cpu_s": max(0.0, tree_cpu_s() - used)}


def measure_growth(count: int, folder: Path, template: Path, *, reads: bool) -> dict[str, Any]:
    """Measure every operation on an experiment of so many shards, made here."""
    from merge import MergeOptions, merge_experiments, verify
    from shardwriter import ExperimentLoader

    directory = folder / f"bench_{count}"
    (directory / "shards").mkdir(parents=True)
    shutil.copytree(template / "experiment", directory / "experiment")
    add_shards(directory, template, range(count))
    found: dict[str, Any] = {"shards": count}

    def merged(**options: Any) -> None:
        merge_experiments([directory], None, MergeOptions(**options))

    found["merge"] = timed(merged)
    found["unchanged"] = timed(merged)
    add_shards(directory, template, range(count, count + ADDED))
    found["added"] = timed(merged)

    def open_and_read(episode: int) -> None:
        with ExperimentLoader(directory) as loader:
            loader.get_episode(episode).get_behavior()

    open_and_read(0)  # imports
    found["open"] = timed(lambda: open_and_read(count // 2))
    found["rss_mb"] = rss_bytes(peak=True) / 1e6
    most = min(count, PEER_MOST)
    peer = timed(lambda: peer_merge(directory, directory / "peer.h5", most))
    found["peer"] = {"shards": most, **peer}
    (directory / "peer.h5").unlink()
    found["verify"] = timed(lambda: verify(directory))
    if reads:
        with ExperimentLoader(directory) as loader:
            found["check_us"] = check_us(loader, directory, min(count, 1000))
            found["concat"] = timed(lambda: loader.concat(FIELD))
            found["peer_concat"] = timed(lambda: peer_concat(directory))
    found["master_mb"] = (directory / "experiment_data.h5").stat().st_size / 1e6
    shutil.rmtree(directory)
    return found


def check_us(loader: Any, directory: Path, count: int) -> tuple[float, float]:
    """Return what checking a shard costs, and opening it by HDF5 instead, in µs."""
    files = loader._shards
    paths = [directory / "shards" / f"episode_{i:04d}.h5" for i in range(count)]
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for row in range(count):
            files.check(row)
        checked = time.perf_counter()
        for path in paths:
            h5py.File(h5py.h5f.open(os.fsencode(path))).close()
        rounds.append((checked - start, time.perf_counter() - checked))
    check, opened = np.median(rounds, axis=0) / count * 1e6
    return float(check), float(opened)


def measure_pack(folder: Path, *, megabytes: int) -> dict[str, Any]:
    """Pack a few large shards, and copy them by ``cp`` for comparison."""
    from merge import pack
    from shardwriter import DataExporter, ExperimentLoader

    rng = np.random.default_rng(0)
    block = rng.random((1000, 250))
    with DataExporter("pack", folder, neural_sampling_rate=1, progress=False) as exporter:
        for i in range(4):
            with exporter.start_episode(i) as episode:
                for start in range(0, megabytes * 125, 1000):
                    steps = np.arange(start, start + 1000)
                    episode.log_timesteps(steps, neural_state={"potential": block})
    directory = exporter.output_dir
    size = sum(path.stat().st_size for path in (directory / "shards").iterdir())
    command = ["cp", "-r", os.fspath(directory / "shards"), os.fspath(folder / "copy")]
    # A pack is published with fsync, so what is copied has to reach the disk too.
    synced = ["sync", "-f", os.fspath(folder / "copy")]

    def copied() -> None:
        subprocess.run(command, check=True)
        subprocess.run(synced, check=True)

    copy = timed(copied)
    packed = timed(lambda: pack(directory, folder / "pack.h5"))
    field = "neural_states/potential"
    with ExperimentLoader(directory) as loader:
        ours = timed(lambda: loader.concat(field))
    peer = timed(lambda: peer_concat(directory, field))
    return {
        "mb": size / 1e6,
        "cp": copy,
        "pack": packed,
        "concat": ours,
        "peer_concat": peer,
    }


def measure(setting: Setting) -> Findings:
    """Measure merging at several sizes, and reading and packing."""
    counts = [20, 60] if setting.is_quick else [100, 300, 1_000, 3_000]
    if setting.is_full:
        counts.append(10_000)
    if setting.shards:
        counts = [setting.shards]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    warnings.simplefilter("error")
    template = record_template(setting.folder, counts[-1] + ADDED)
    results = [
        measure_growth(count, setting.folder, template, reads=count == counts[-1])
        for count in counts
    ]
    packed = measure_pack(setting.folder, megabytes=2 if setting.is_quick else 64)
    return Findings(
        figures=_figures(results[-1], packed),
        tables=[_growth(results)],
        series={
            "merge": {
                "shards": counts,
                "ours_s": [each["merge"]["s"] for each in results],
                "added_s": [each["added"]["s"] for each in results],
                "peer_s": [
                    each["peer"]["s"] * each["shards"] / each["peer"]["shards"] for each in results
                ],
            }
        },
    )


def _figures(last: dict[str, Any], packed: dict[str, Any]) -> list[Figure]:
    """Reduce the largest size and the packing to figures."""
    shards = last["shards"]
    peer_s = last["peer"]["s"] * shards / last["peer"]["shards"]
    loop = "a loop of h5py"

    def one(
        key: str, what: str, value: float, unit: str, peer: Beside | None = None, **rest: Any
    ) -> Figure:
        rest = {"is_rate": False, **rest}
        return Figure(
            key=f"merge/{key}",
            what=what,
            value=value,
            unit=unit,
            low=value,
            high=value,
            peer=peer,
            **rest,
        )

    def beside(name: str, value: float, other: float) -> Beside:
        return Beside(name=name, value=other, ratio=value / other)

    merge_s, concat_s = last["merge"]["s"], last["concat"]["s"]
    per_shard = merge_s / shards * 1e3
    rate, copy = packed["mb"] / packed["pack"]["s"], packed["mb"] / packed["cp"]["s"]
    large, large_peer = (packed["mb"] / packed[each]["s"] for each in ("concat", "peer_concat"))
    many = f"{shards:,} shards"
    check, opened = last["check_us"]
    return [
        one(
            "per_shard",
            f"merge {many}, each",
            per_shard,
            "ms",
            beside(loop, per_shard, peer_s / shards * 1e3),
        ),
        one("added", f"merge {ADDED} more into {many}", last["added"]["s"] * 1e3, "ms"),
        one("unchanged", f"merge {many} again, unchanged", last["unchanged"]["s"] * 1e3, "ms"),
        one("open", f"open a master of {many}, read an episode", last["open"]["s"] * 1e3, "ms"),
        one(
            "check",
            f"check one of {many}",
            check,
            "us",
            beside("h5py.File", check, opened),
        ),
        one(
            "concat/small",
            f"concat over {many}",
            concat_s * 1e3,
            "ms",
            beside(loop, concat_s * 1e3, last["peer_concat"]["s"] * 1e3),
        ),
        one(
            "concat/large",
            "concat over 4 large shards",
            large,
            "MB/s",
            beside(loop, large, large_peer),
            is_rate=True,
        ),
        one(
            "pack",
            "pack 4 large shards, compared with them",
            rate,
            "MB/s",
            is_rate=True,
            ceiling=beside("cp, sync", rate, copy),
        ),
    ]


def _growth(results: Sequence[dict[str, Any]]) -> Table:
    """Write the growth curve."""
    titles = ["shards", "merge s", "CPU s", "ms/shard", f"+{ADDED} s", "unchanged s"]
    titles += ["peer ms/shard", "peer / ours", "open + read ms", "verify s", "RSS MB", "master MB"]
    rows = []
    for each in results:
        ours = each["merge"]["s"] / each["shards"] * 1e3
        peer = each["peer"]["s"] / each["peer"]["shards"] * 1e3
        values = [each["merge"]["s"], each["merge"]["cpu_s"], ours, each["added"]["s"]]
        values += [each["unchanged"]["s"], peer, peer / ours, each["open"]["s"] * 1e3]
        values += [each["verify"]["s"], each["rss_mb"], each["master_mb"]]
        rows.append([f"{each['shards']:,}", *(f"{value:.2f}" for value in values)])
    return Table(title="Growth of merging", columns=titles, rows=rows)
