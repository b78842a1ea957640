"""The figures of the documentation, as PNG.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and lines differ
too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.findings import Findings

__all__ = ["draw"]

OURS, THEIRS, THIRD, FOURTH = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#666666"
DPI = 110


def draw(findings: Mapping[str, Findings], folder: Path, machine: str) -> Iterator[Path]:
    """Draw what the findings have series for, and give each file's path.

    Raises
    ------
    SystemExit
        If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise SystemExit("--figures needs matplotlib: pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    style = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    for each in findings.values():
        for name, series in each.series.items():
            with plt.rc_context(style):
                figure = _PLOTS[name](plt, series, machine)
                path = folder / f"{name}.png"
                figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
                plt.close(figure)
            yield path


def _peers(plt: Any, series: list[dict[str, Any]], machine: str) -> Any:
    """Draw throughput, a panel for each workload."""
    variants = list(dict.fromkeys(each["variant"] for each in series))
    tallest = max(sum(each["variant"] == name for each in series) for name in variants)
    figure, panels = plt.subplots(
        1,
        len(variants),
        figsize=(4.6 * len(variants) + 1, 0.32 * tallest + 1.4),
        layout="constrained",
        squeeze=False,
    )
    for axes, variant in zip(panels[0], variants, strict=True):
        chosen = [each for each in series if each["variant"] == variant]
        chosen.sort(key=lambda each: each["value"])
        for row, each in enumerate(chosen):
            colour = _colour(each)
            axes.errorbar(
                each["value"],
                row,
                xerr=[[each["value"] - each["low"]], [each["high"] - each["value"]]],
                color=colour,
                marker="D" if each["is_ours"] else "o",
                markerfacecolor=colour if each["is_compressed"] else "white",
                ms=6,
            )
        axes.set_yticks(range(len(chosen)), [each["label"] for each in chosen], fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(f"recorded ({chosen[0]['unit']}, log scale)")
        axes.set_title(variant, fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(f"Recording, by library; hollow: uncompressed ({machine})", fontsize=10)
    return figure


def _colour(each: Mapping[str, Any]) -> str:
    if each["is_ours"]:
        return OURS
    return GREY if each["label"].startswith("ceiling") else THEIRS


def _latency(plt: Any, series: dict[str, Any], machine: str) -> Any:
    """Draw which share of the calls takes how long."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    edges = np.array(series["edges_us"])
    styles = [(OURS, "-"), (THIRD, "-"), (THEIRS, "--"), (FOURTH, ":")]
    for (label, counts), (colour, line) in zip(series["counts"].items(), styles, strict=False):
        shares = np.array(counts) / max(1, sum(counts))
        axes.stairs(shares, edges, color=colour, ls=line, lw=1.8, label=label)
    axes.axvline(8, color=GREY, ls="-.", lw=1, label="goal for the median: 8 µs")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("duration of one call (µs)")
    axes.set_ylabel("share of calls per bin")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"What the simulation feels: A1k, one call a step ({machine})", fontsize=10)
    return figure


def _scaling(plt: Any, series: dict[str, Any], machine: str) -> Any:
    """Draw throughput over workers with the ideal, and speed-up with what the machine permits."""
    figure, (speed, gain) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    permitted = series["codec alone"]
    styles = [(OURS, "o"), (THEIRS, "s")]
    arrangements = [(k, v) for k, v in series.items() if k != "codec alone"]
    for (label, each), (colour, marker) in zip(arrangements, styles, strict=True):
        workers = np.array(each["workers"])
        measured = np.array(each["measured"]) / 1e3
        speed.plot(workers, measured, color=colour, marker=marker, label=label)
        speed.plot(workers, np.array(each["model"]) / 1e3, color=colour, ls=":", lw=1.2)
        speed.plot(workers, measured[0] * workers, color=colour, ls="--", lw=0.8, alpha=0.6)
        gain.plot(workers, measured / measured[0], color=colour, marker=marker, label=label)
    gain.plot(
        permitted["workers"], permitted["speedup"], color=THIRD, marker="^", label="codec alone"
    )
    gain.plot(workers, workers, color=GREY, ls="--", lw=1, label="ideal")
    speed.plot([], [], color=GREY, ls="--", lw=1, label="ideal")
    speed.plot([], [], color=GREY, ls=":", lw=1.2, label="model")
    for axes in (speed, gain):
        axes.set_xticks(workers)
        axes.set_xlabel("worker processes")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    speed.set_ylabel("recorded (1,000 steps/s)")
    gain.set_ylabel("times one worker")
    figure.suptitle(f"Scaling, A1k, gzip ({machine})", fontsize=10)
    return figure


def _merge(plt: Any, series: dict[str, Any], machine: str) -> Any:
    """Draw the time of a merge over the number of shards."""
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    shards = np.array(series["shards"])
    curves = [
        ("peer_s", "a loop of h5py", THEIRS, "s", "--"),
        ("ours_s", "shardwriter merge", OURS, "o", "-"),
        ("added_s", "shardwriter merge, 100 shards added", THIRD, "^", "-"),
    ]
    for name, label, colour, marker, line in curves:
        axes.plot(shards, series[name], color=colour, marker=marker, ls=line, label=label)
    linear = series["ours_s"][0] * shards / shards[0]
    axes.plot(shards, linear, color=GREY, ls=":", lw=1, label="linear growth")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("shards of 12 datasets")
    axes.set_ylabel("time to merge (s)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"Growth of merging ({machine})", fontsize=10)
    return figure


_PLOTS: dict[str, Callable[[Any, Any, str], Any]] = {
    "peers": _peers,
    "latency": _latency,
    "scaling": _scaling,
    "merge": _merge,
}
