"""Mutate shards and masters, and read them: ``python tests/fuzz.py --files 10000``.

Each mutated file has to be read, or be refused by one of the package's errors; a crash, another
exception or a hang fails. Reading happens in this process on purpose: it is what a user does.
"""

import argparse
import faulthandler
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from merging import record, shard

from merge import MergeOptions, merge_experiments
from shardwriter import ExperimentLoader
from shardwriter.errors import ShardWriterError


def mutations(whole: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """Yield copies with flipped, overwritten, doubled, zeroed or missing bytes."""
    for _ in range(count):
        data = bytearray(whole)
        kind = rng.randrange(5)
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            at = rng.randrange(len(data) - 16)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), rng.randbytes(4)])
            elif kind == 2:
                data[at : at + 8] = rng.randrange(2**64).to_bytes(8, "little")
            elif kind == 3:
                other = rng.randrange(len(data) - 16)
                data[at : at + 16] = data[other : other + 16]
        if kind == 4:
            del data[rng.randrange(len(data)) :]
        yield bytes(data)


def outcome(experiment: Path) -> str:
    """Merge and read an experiment whole; return ``read`` or the name of the typed error."""
    try:
        merge_experiments([experiment], experiment / "again.h5", MergeOptions(workers=1))
    except ShardWriterError:
        pass
    finally:
        (experiment / "again.h5").unlink(missing_ok=True)
    try:
        with ExperimentLoader(experiment) as loader:
            loader.get_metadata(), loader.get_config(), loader.get_network_structure()
            for episode in loader:
                episode.get_metadata(), episode.get_static_data(), episode.get_final_state()
                episode.get_neural_states(), episode.get_spikes(), episode.get_behavior()
                episode.get_rewards(), episode.get_weight_changes(), episode.get_events()
    except ShardWriterError as error:
        return type(error).__name__
    return "read"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    faulthandler.enable()
    rng = random.Random(options.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        experiment = record(Path(folder), range(2))
        paths = [shard(experiment, 1), experiment / "experiment_data.h5"]
        for path in paths:
            whole = path.read_bytes()
            for i, data in enumerate(mutations(whole, rng, options.files // len(paths))):
                path.write_bytes(data)
                print(f"\r{path.name} {i}", end="", file=sys.stderr, flush=True)
                try:
                    found[outcome(experiment)] += 1
                except Exception:
                    Path("mutated.h5").write_bytes(data)
                    raise
            path.write_bytes(whole)
    print("\n", dict(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
