"""Mutate shards and masters, and read them: ``python tests/fuzz.py --files 10000``.

In every other one the checksums fit what was changed. Each mutated file has to be read, or be
refused by one of the package's errors; a crash, another exception or a hang fails. Reading happens
in this process on purpose: it is what a user does.
"""

import argparse
import faulthandler
import random
import sys
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path

from merging import record, record_long, shard
from mutating import hostile_mutations, mutations

from merge import MergeOptions, merge_experiments
from shardwriter import ExperimentLoader
from shardwriter.errors import ShardWriterError
from shardwriter.files.layout import MASTER


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
        experiments = record(Path(folder), range(2)), record_long(Path(folder))
        paths = [(each, path) for each in experiments for path in (shard(each, 1), each / MASTER)]
        half = options.files // len(paths) // 2
        for experiment, path in paths:
            whole = path.read_bytes()
            changed = chain(hostile_mutations(path, rng, half), mutations(whole, rng, half))
            for i, data in enumerate(changed):
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
