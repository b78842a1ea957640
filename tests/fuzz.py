"""Mutate files and read them: ``python tests/fuzz.py --files 10000 --jobs 2``.

Shards, masters, packs and an experiment's own files are changed, in every other one so that the
checksums fit. Each has to be merged, packed and read, or be refused by one of the package's errors;
a crash, another exception or a hang fails, and leaves its file here as ``mutated-….h5``. Reading
happens in the process that reports it on purpose: it is what a user does. Damage of that process's
heap, which might show files later, ends it where glibc can tell.
"""

import argparse
import faulthandler
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from merging import record, record_long, shard
from mutating import hostile_mutations, mutations

from merge import MergeOptions, merge_experiments, pack, unpack
from shardwriter import ExperimentLoader
from shardwriter.errors import ShardWriterError
from shardwriter.files import trial
from shardwriter.files.layout import EXPERIMENT, MASTER

UNTYPED = "UNTYPED"
SLOW_S = 10.0  # is worth to be told


def outcome(experiment: Path) -> str:
    """Merge, pack and read an experiment whole; return ``read`` or the name of the typed error."""
    merged, packed = experiment / "again.h5", experiment / "packed.h5"
    with suppress(ShardWriterError):
        merge_experiments([experiment], merged, MergeOptions(workers=1))
    with suppress(ShardWriterError):
        pack(experiment, packed)
    merged.unlink(missing_ok=True)
    packed.unlink(missing_ok=True)
    return outcome_of_reading(experiment)


def outcome_of_pack(path: Path) -> str:
    """Unpack and read a packed file; return ``read`` or the name of the typed error."""
    folder = path.with_name("unpacked")
    with suppress(ShardWriterError):
        unpack(path, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome_of_reading(path)


def outcome_of_merging(experiment: Path) -> str:
    """Read a master, and merge what is new into it; return ``read`` or the typed error's name."""
    found = outcome_of_reading(experiment)
    with suppress(ShardWriterError):
        merge_experiments([experiment], None, MergeOptions(workers=1))
        outcome_of_reading(experiment)
    return found


def outcome_of_reading(path: Path) -> str:
    try:
        with ExperimentLoader(path) as loader:
            list(loader.describe())
            loader.get_metadata(), loader.get_config(), loader.get_network_structure()
            for episode in loader:
                episode.get_metadata(), episode.get_static_data(), episode.get_final_state()
                episode.get_neural_states(), episode.get_spikes(), episode.get_behavior()
                episode.get_rewards(), episode.get_weight_changes(), episode.get_events()
            loader.concat("spikes/neuron_ids")
            for _ in loader.iter_windows(4, 4, ["rewards/values"]):
                pass
    except ShardWriterError as error:
        return type(error).__name__
    return "read"


Target = tuple[Path, Path, Callable[[Path], str]]  # what is changed, what is read, and how


def short_shard(folder: Path) -> Target:
    experiment = record(folder, range(2))
    return shard(experiment, 1), experiment, outcome


def short_master(folder: Path) -> Target:
    experiment = record(folder, range(2))
    return experiment / MASTER, experiment, outcome


def long_shard(folder: Path) -> Target:
    experiment = record_long(folder)
    return shard(experiment, 1), experiment, outcome


def long_master(folder: Path) -> Target:
    experiment = record_long(folder)
    return experiment / MASTER, experiment, outcome


def grown_experiment(folder: Path) -> Target:
    experiment = record(folder, range(3))
    new = shard(experiment, 2)
    moved = new.rename(folder / "later.h5")
    merge_experiments([experiment], None, MergeOptions(forget_missing=True))
    moved.rename(new)
    return experiment / MASTER, experiment, outcome_of_merging


def packed_file(folder: Path) -> Target:
    path = pack(record(folder, range(2)), folder / "packed.h5")
    return path, path, outcome_of_pack


def own_file(folder: Path) -> Target:
    experiment = record(folder, range(2))
    return experiment / EXPERIMENT / "network_structure.h5", experiment, outcome


TARGETS = {
    each.__name__: each
    for each in (
        long_master,
        short_master,
        grown_experiment,
        long_shard,
        short_shard,
        packed_file,
        own_file,
    )
}


def fuzz(target: str, fits: bool, files: int, seed: int) -> tuple[Counter[str], list[int]]:
    """Read mutated files; return how often each outcome was, and the seconds of slow ones.

    An error that is not the package's is an outcome ``UNTYPED …``, whose file is kept.

    Parameters
    ----------
    target
        One of ``TARGETS``.
    fits
        Make the checksums fit.
    files
        How many.
    seed
        Of the mutations.
    """
    faulthandler.enable()
    trial._LIMIT_S = 10.0  # a hang is known for one sooner, to save hours
    rng = random.Random(f"{seed} {target} {fits}")
    found: Counter[str] = Counter()
    slow: list[int] = []
    kept = Path(f"mutated-{target}-{fits}.h5")
    with tempfile.TemporaryDirectory() as folder:
        path, read, how = TARGETS[target](Path(folder))
        whole = path.read_bytes()
        changed = hostile_mutations(path, rng, files) if fits else mutations(whole, rng, files)
        for data in changed:
            kept.write_bytes(data)
            path.write_bytes(data)
            start = time.monotonic()
            try:
                found[how(read)] += 1
            except Exception as error:  # noqa: BLE001  (what it is, is what is looked for)
                traceback.print_exc()
                found[f"{UNTYPED} {type(error).__name__}"] += 1
                shutil.copy(kept, f"{kept.stem}-{found.total()}.h5")
            elapsed_s = time.monotonic() - start
            if elapsed_s > SLOW_S:
                slow.append(round(elapsed_s))
    kept.unlink()
    return found, slow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, nargs="+", default=list(TARGETS))
    options = parser.parse_args()
    kinds = [(target, fits) for target in options.target for fits in (True, False)]
    files = -(-options.files // len(kinds))
    os.environ.update(trial._allocator_checks())
    spawn = multiprocessing.get_context("spawn")
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs, spawn) as pool:
        jobs = {pool.submit(fuzz, *kind, files, options.seed): kind for kind in kinds}
        for job in as_completed(jobs):
            found, slow = job.result()
            total += found
            target, fits = jobs[job]
            checksums = "checksums fit" if fits else "any bytes"
            slowest = f"; over {SLOW_S:.0f} s: {slow}" if slow else ""
            print(f"{target}, {checksums}: {dict(found)}{slowest}", flush=True)
    print(f"{total.total():,} files: {dict(total)}")
    return int(any(each.startswith(UNTYPED) for each in total))


if __name__ == "__main__":
    sys.exit(main())
