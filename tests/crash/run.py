"""Crash campaign: ``python tests/crash/run.py --kills 2000`` prints the matrix."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from crash.harness import Outcome, Trial, run_trial, trials  # noqa: E402  (needs the path above)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where; kept for the trials that fail")
    parser.add_argument("--only", default="", help="words that a trial's description must have")
    parser.add_argument("--stop", action="store_true", help="stop at the first problem")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=options.folder))
    done: list[tuple[Trial, Outcome]] = []
    kills = 0
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # told to end early: print what there is
        for i, trial in enumerate(trials(random.Random(options.seed))):
            if not all(word in repr(trial) for word in options.only.split(",")):
                continue
            outcome = run_trial(folder / f"{i:05d}", trial)
            done.append((trial, outcome))
            kills += outcome.kills
            if outcome.problem:
                print(f"{i:05d} {trial}: {outcome.problem}", file=sys.stderr, flush=True)
            if kills >= options.kills or (options.stop and outcome.problem):
                break
    print(matrix(done))
    failed = sum(outcome.problem is not None for _, outcome in done)
    print(
        f"\n{kills} kills in {time.monotonic() - start:.0f} s, seed {options.seed}; "
        f"{failed} trials with lost, invented or left-over data"
    )
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


def matrix(done: list[tuple[Trial, Outcome]]) -> str:
    cells: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for trial, outcome in done:
        cells[(trial.role, trial.mode, trial.instant)].append(outcome)
    lines = [
        "| process killed | mode | at | kills | rows acknowledged | trials with loss |",
        "|---|---|---|---|---|---|",
    ]
    for (role, mode, instant), outcomes in sorted(cells.items()):
        kills, rows = sum(o.kills for o in outcomes), sum(o.rows for o in outcomes)
        bad = sum(o.problem is not None for o in outcomes)
        lines.append(f"| {role} | {mode} | {instant} | {kills} | {rows:,} | {bad} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
