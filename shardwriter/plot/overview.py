"""The picture of a whole experiment: return, length and firing rate of every episode.

Invariant: everything is in the index; no shard is opened, however many there are.
"""

from typing import Any

import numpy as np

from shardwriter.loader import ExperimentLoader
from shardwriter.plot.style import PALETTE

__all__ = ["draw_overview"]

Array = np.ndarray[Any, Any]

_GREY = "#777777"
_FEW = 200  # episodes whose points are drawn at full size
_MARKS = {  # by status: colour and marker, so that neither has to be told by colour alone
    "completed": (PALETTE[0], "o"),
    "failed": (PALETTE[3], "X"),
    "interrupted": (PALETTE[1], "s"),
    "empty": ("#777777", "v"),
}


def draw_overview(loader: ExperimentLoader) -> Any:
    """Return a matplotlib Figure with a panel for each of the quantities that was recorded."""
    from matplotlib.figure import Figure

    index = loader.episode_index
    panels = _quantities(index)
    figure = Figure(figsize=(7.0, 0.7 + 1.7 * len(panels)), layout="constrained")
    name = loader.get_metadata()["experiment_name"]
    figure.suptitle(
        f"{name} · {len(index):,} episodes", x=0.01, ha="left", fontsize=9, fontweight="bold"
    )
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(rows, panels.items(), strict=True):
        _draw(axes, index, values)
        axes.set_ylabel(label)
    rows[-1].set_xlabel("episode")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    handles, labels = rows[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def _quantities(index: Array) -> dict[str, Array]:
    """Return what was recorded, by the label of its axis."""
    steps = index["steps"].astype(float)
    quantities = {}
    if (index["rows_rewards"] > 0).any():
        quantities["return\n(summed reward)"] = index["total_reward"]
    quantities["length\n(timesteps)"] = steps
    if index["spikes"].any():
        rates = np.full(len(index), np.nan)
        np.divide(index["spikes"], steps, out=rates, where=steps > 0)
        quantities["firing rate\n(spikes / timestep)"] = rates
    return quantities


def _draw(axes: Any, index: Array, values: Array) -> None:
    """Draw a point for every episode, by status, and where there are many their running mean."""
    ids, statuses = index["episode_id"], index["status"].astype(str)
    is_many = len(index) > _FEW
    for status, (colour, marker) in _MARKS.items():
        mine = statuses == status
        if mine.any():
            axes.plot(
                ids[mine], values[mine], marker, color=colour, label=f"{status} ({mine.sum():,})",
                markersize=2.0 if is_many else 4.0, alpha=0.35 if is_many else 1.0,
                markeredgewidth=0, rasterized=is_many,
            )  # fmt: skip
    completed = np.flatnonzero((statuses == "completed") & np.isfinite(values))
    width = max(5, len(completed) // 50)
    if len(completed) >= 4 * width:
        mean = np.convolve(values[completed], np.full(width, 1 / width), mode="valid")
        middle = ids[completed][(width - 1) // 2 :][: len(mean)]
        label = f"mean of {width} completed"
        axes.plot(middle, mean, color="black", linewidth=1.2, label=label)
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() >= 0:
        axes.set_ylim(0, 1.08 * float(finite.max()) or 1.0)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.margins(x=0.02)
