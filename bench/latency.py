"""What does the simulation feel of it: how long is a call, and what does one more field cost?

Between calls the caller computes for as long as the writer needs for a step, so that the writer
keeps up: otherwise back-pressure would be measured, which `bench.record` does. The peers run on the
caller's thread, and their stalls are the calls that compress a chunk. The limit is the row by row
copy of the same values into NumPy arrays, which only compiled code can beat.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import VARIANTS, Step, Variant, simulate
from bench.findings import Figure, Findings, Setting, Table, figure, interleaved
from bench.measure import TIMED, warmed_up
from bench.recorder import Log
from bench.recorders import RECORDERS
from shardwriter import DataExporter

__all__ = ["measure"]

COMPARED = ("gzip", "gzip-caller", "h5py-gzip", "h5py-none")
COPY = "copy"
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
GAP_NS = 60_000  # a writer needs about 15 us for a step
EXTRA_FIELDS = (0, 2, 4, 8)
BINS_US = np.geomspace(0.5, 500_000, 121)


def measure(setting: Setting) -> Findings:
    """Measure the calls of each recorder, and the cost of a field."""
    variant = VARIANTS["A1k"].shortened(20 if setting.is_quick else 4)
    steps = simulate(variant).steps(variant.n_steps, 1)
    gc.collect()
    gc.freeze()  # else each full collection would traverse the prepared steps
    pooled: dict[str, list[NDArray[np.int64]]] = {name: [] for name in [*COMPARED, COPY]}
    rounds = interleaved(
        {name: _calls_of(name, variant, steps, setting, pooled[name]) for name in pooled}, setting
    )
    findings = Findings(figures=_figures(rounds, setting), tables=[_table(rounds)])
    findings.series["latency"] = {
        "edges_us": BINS_US.tolist(),
        "counts": {
            _label(name): np.histogram(np.concatenate(pooled[name]) / 1e3, BINS_US)[0].tolist()
            for name in COMPARED
        },
    }
    return findings


def _label(name: str) -> str:
    return "NumPy row copies" if name == COPY else RECORDERS[name].label


def _calls_of(
    name: str,
    variant: Variant,
    steps: Sequence[Step],
    setting: Setting,
    pooled: list[NDArray[np.int64]],
) -> Callable[[], dict[str, float]]:
    chosen = variant
    if name != COPY:
        chosen = replace(variant, n_steps=variant.n_steps // RECORDERS[name].divisor)

    def measured() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=setting.folder) as place:
            if name == COPY:
                took = _timed(_row_copies(variant), steps, GAP_NS)
            else:
                recorder = warmed_up(RECORDERS[name].make(Path(place), chosen), steps, chosen)
                took = _timed(recorder.begin(TIMED), steps[: chosen.n_steps], GAP_NS)
                recorder.end()
                recorder.finish()
                recorder.close()
        pooled.append(took)
        return {label: float(np.percentile(took, q)) / 1e3 for label, q in PERCENTILES.items()}

    return measured


def _timed(log: Log, steps: Sequence[Step], gap_ns: int) -> NDArray[np.int64]:
    clock = time.perf_counter_ns
    took_ns = np.empty(len(steps), np.int64)
    for i, step in enumerate(steps):
        start = clock()
        log(*step)
        end = clock()
        took_ns[i] = end - start
        while clock() - end < gap_ns:  # the simulation computes; it does not sleep
            pass
    return took_ns


def _row_copies(variant: Variant) -> Log:
    """Copy what a step carries into arrays, and nothing else."""
    rows = 250
    v = np.empty((rows, variant.n_neurons), np.float32)
    position, velocity = np.empty((2, rows, 3), np.float32)
    reward = np.empty(rows)
    ids = np.empty(variant.n_neurons, np.int32)

    def log(t: int, row: Any, spikes: Any, p: Any, q: Any, r: Any) -> None:
        n = t % rows
        v[n] = row
        ids[: len(spikes)] = spikes
        position[n] = p
        velocity[n] = q
        reward[n] = r

    return log


def _figures(rounds: list[dict[str, float]], setting: Setting) -> list[Figure]:
    found = []
    for label in PERCENTILES:
        beside = {"peer": (f"h5py-gzip {label}", _label("h5py-gzip"))}
        if label == "p50":
            beside["ceiling"] = (f"{COPY} p50", _label(COPY))
        found.append(
            figure(
                f"latency/{label}",
                f"A1k: a call while the writer keeps up, {label}",
                rounds,
                f"gzip {label}",
                "us",
                is_rate=False,
                **beside,
            )
        )
    ratios = [{"tail": each["gzip p99.9"] / each["gzip p50"]} for each in rounds]
    what = "A1k: p99.9 / p50 of a call"
    found.append(figure("latency/tail", what, ratios, "tail", "x", is_rate=False))
    return [*found, _field_cost(setting)]


def _field_cost(setting: Setting) -> Figure:
    """Return what one more float32[3] field adds to a call: the slope over several numbers."""
    calls = 1_000 if setting.is_quick else 10_000
    value = np.zeros(3, np.float32)

    def logged(fields: int) -> Callable[[], float]:
        behavior = {f"field_{i}": value for i in range(1 + fields)}

        def timed() -> float:
            options = {"async_write": True, "n_async_workers": 1, "progress": False}
            with tempfile.TemporaryDirectory(dir=setting.folder) as place:
                exporter = DataExporter("fields", place, **options)
                with exporter.start_episode() as episode:
                    log = episode.log_timestep
                    times = np.empty(calls)
                    for t in range(calls):
                        start = time.perf_counter()
                        log(t, behavior=behavior)
                        times[t] = time.perf_counter() - start
                exporter.close(merge=False)
            return float(np.median(times)) * 1e6

        return timed

    def copied() -> float:
        rows = np.empty((250, 3), np.float32)
        start = time.perf_counter()
        for t in range(calls):
            rows[t % 250] = value
        return (time.perf_counter() - start) / calls * 1e6

    actions = {str(n): logged(n) for n in EXTRA_FIELDS}
    rounds = interleaved({**actions, COPY: copied}, setting)
    for each in rounds:
        medians = [each[str(n)] for n in EXTRA_FIELDS]
        each["slope"] = float(np.polyfit(EXTRA_FIELDS, medians, 1)[0])
    return figure(
        "latency/field",
        "each additional float32[3] field",
        rounds,
        "slope",
        "us",
        is_rate=False,
        ceiling=(COPY, "one NumPy row copy"),
    )


def _table(rounds: list[dict[str, float]]) -> Table:
    names = [*COMPARED, COPY]
    rows = [
        [
            _label(name),
            *(
                f"{np.median([each[f'{name} {label}'] for each in rounds]):,.1f}"
                for label in PERCENTILES
            ),
        ]
        for name in names
    ]
    columns = ["one call of A1k, us", *PERCENTILES]
    return Table(title="Latency of a call", columns=columns, rows=rows)
