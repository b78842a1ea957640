"""Crash campaign: ``python tests/crash/run.py --kills 2000`` prints the matrix.

Exit code 0: nothing was lost; 1: something was, or a trial went wrong, and its folder is kept.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from crash.harness import RANDOM, Outcome, Trial, phase_of, run_trial, trials  # noqa: E402  (path)

Done = dict[int, tuple[Trial, Outcome]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=1e9, help="end after so long")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where; kept for the trials that fail")
    parser.add_argument("--log", type=Path, help="file of outcomes; given again, goes on with it")
    parser.add_argument("--only", default="", help="words that a trial's description must have")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=options.folder))
    done: Done = _read(options.log) if options.log and options.log.exists() else {}
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # told to end early: print what there is
        _run(options, folder, done, start)
    print(matrix(list(done.values())))
    failed = sum(outcome.problem is not None for _, outcome in done.values())
    print(
        f"\n{_kills(done)} kills in {len(done)} trials, seed {options.seed}, the last of them in "
        f"{time.monotonic() - start:.0f} s; {failed} trials with lost, invented or left-over data"
    )
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _run(options: argparse.Namespace, folder: Path, done: Done, start: float) -> None:
    context = multiprocessing.get_context("spawn")
    given = _given(options, done)
    running: dict[Future[Outcome], tuple[int, Trial]] = {}
    with ProcessPoolExecutor(options.jobs, context) as pool:
        while True:
            is_over = time.monotonic() > start + 60 * options.minutes
            under_way = sum(trial.kills for _, trial in running.values())
            is_enough = is_over or _kills(done) + under_way >= options.kills
            if not is_enough and len(running) < options.jobs:
                i, trial = next(given)
                running[pool.submit(run_trial, folder / f"{i:05d}", trial)] = (i, trial)
                continue
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                i, trial = running.pop(future)
                done[i] = trial, future.result()
                _note(options.log, i, trial, done[i][1])


def _given(options: argparse.Namespace, done: Done) -> Iterator[tuple[int, Trial]]:
    words = options.only.split(",")
    for i, trial in enumerate(trials(random.Random(options.seed))):
        if i not in done and all(word in repr(trial) for word in words):
            yield i, trial


def _kills(done: Done) -> int:
    return sum(outcome.kills for _, outcome in done.values())


def _note(log: Path | None, i: int, trial: Trial, outcome: Outcome) -> None:
    if outcome.problem:
        print(f"{i:05d} {trial}: {outcome.problem}", file=sys.stderr, flush=True)
    if log is not None:
        with log.open("a") as file:
            file.write(json.dumps([i, asdict(trial), asdict(outcome)]) + "\n")


def _read(log: Path) -> Done:
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return {i: (Trial(**trial), Outcome(**outcome)) for i, trial, outcome in entries}


def matrix(done: list[tuple[Trial, Outcome]]) -> str:
    """Return the table of README.md and docs/guarantees.md."""
    cells: dict[tuple[str, str, str], list[tuple[Trial, Outcome]]] = defaultdict(list)
    for trial, outcome in done:
        phase = phase_of(trial.instant)
        cells[(trial.role, phase, trial.mode)].append((trial, outcome))
    lines = [
        "| process | phase | mode | instants | kills | rows acknowledged | rows lost |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for (role, phase, mode), found in sorted(cells.items()):
        instants = "–" if phase == RANDOM else str(len({trial.instant for trial, _ in found}))
        lines.append(f"| {role} | {phase} | {mode} | {instants} | {_counts(found)} |")
    lines.append(f"| **all** | | | | {_counts(done)} |")
    return "\n".join(lines)


def _counts(found: list[tuple[Trial, Outcome]]) -> str:
    outcomes = [outcome for _, outcome in found]
    failed = sum(outcome.problem is not None for outcome in outcomes)
    lost = f"in {failed} trials" if failed else "0"
    kills, rows = sum(o.kills for o in outcomes), sum(o.rows for o in outcomes)
    return f"{kills:,} | {rows:,} | {lost}"


if __name__ == "__main__":
    sys.exit(main())
