"""Does a writer that has nothing to do use CPU?

Its threads' time on a processor is read from ``/proc/<pid>/task/*/schedstat``, which counts in
nanoseconds.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.findings import Findings, Setting, figure
from bench.machine import descendants
from shardwriter import DataExporter

__all__ = ["measure"]


def measure(setting: Setting) -> Findings:
    """Measure the writer, and the process that waits, between two steps of an open episode."""
    seconds = 1.0 if setting.is_quick else 5.0
    options = {"neural_sampling_rate": 1, "async_write": True, "n_async_workers": 1}
    exporter = DataExporter("idle", setting.folder, progress=False, **options)
    with exporter.start_episode() as episode:
        for t in range(100):
            episode.log_timestep(t, behavior={"x": float(t)})
        time.sleep(1.0)  # until the writer is up
        rounds = []
        for _ in range(1 if setting.is_quick else 2):
            before = _on_cpu_s(descendants())
            time.sleep(seconds)
            used = _on_cpu_s(descendants()) - before
            rounds.append({"writer": used * 1e3})
    exporter.close(merge=False)
    return Findings(
        figures=[
            figure(
                "idle/writer",
                f"CPU time of a blocked writer in {seconds:.0f} s",
                rounds,
                "writer",
                "ms",
                is_rate=False,
            )
        ]
    )


def _on_cpu_s(processes: list[int]) -> float:
    return sum(
        int(schedstat.read_text().split()[0]) / 1e9
        for process in processes
        for schedstat in Path(f"/proc/{process}/task").glob("*/schedstat")
    )
