"""Plots of benchmarks, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import usable_cores

__all__ = ["plot_scaling"]

# Okabe and Ito, https://jfly.uni-koeln.de/color/; markers differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
IDEAL = "#666666"


def plot_scaling(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], path: Path, *, title: str
) -> None:
    """Draw throughput and efficiency over the number of workers.

    Parameters
    ----------
    rows
        As `bench.scaling.summarise` returns them.
    labels
        The legend's text for each load.
    path
        The PNG to write.
    title
        What was measured, and where.

    Raises
    ------
    SystemExit
        If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (speed, share) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for i, load in enumerate(dict.fromkeys(row["load"] for row in rows)):
        chosen = [row for row in rows if row["load"] == load]
        workers = [row["n_workers"] for row in chosen]
        style = {"color": COLOURS[i % 4], "marker": MARKERS[i % 4], "label": labels[load]}
        per_worker = chosen[0]["steps_per_s"] / workers[0] / 1e3
        ideal = [per_worker * n for n in workers]
        speed.plot(workers, ideal, "--", color=IDEAL, label="ideal" if i == 0 else None)
        speed.plot(workers, [row["steps_per_s"] / 1e3 for row in chosen], **style)
        share.plot(workers, [100 * row["efficiency"] for row in chosen], **style)
    share.axhline(100, ls="--", color=IDEAL, label="ideal")
    for axes in (speed, share):
        axes.axvline(usable_cores(), ls=":", color=IDEAL, label="cores of the machine")
        axes.set_xticks(sorted({row["n_workers"] for row in rows}))
        axes.set_xlabel("worker processes")
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    speed.set_ylabel("recorded (1,000 steps/s)")
    share.set_ylabel("efficiency (% of one worker's throughput)")
    speed.legend(frameon=False, loc="upper left")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)
