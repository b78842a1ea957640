"""The quick form of the crash campaign: every named instant once, more than 100 kills."""

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from crash.harness import N_NAMED, run_trial, trials

GROUPS = 8
TRIALS = list(islice(trials(random.Random(20)), N_NAMED))


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_acknowledged_row_is_lost(tmp_path: Path, group: int) -> None:
    chosen = TRIALS[group::GROUPS]
    folders = [tmp_path / str(i) for i in range(len(chosen))]
    # A fresh process, which opens no HDF5 file and so may be forked.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(run_trial, folders, chosen))
    problems = [
        f"{trial}: {outcome.problem}"
        for trial, outcome in zip(chosen, outcomes, strict=True)
        if outcome.problem
    ]
    assert not problems, "\n".join(problems)
    assert sum(outcome.kills for outcome in outcomes) >= len(chosen)


def test_the_quick_form_kills_often_enough() -> None:
    assert sum(trial.kills for trial in TRIALS) >= 100
