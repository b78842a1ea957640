"""The picture of a whole experiment: return, length and firing rate of every episode.

Invariant: everything is in the index; of the shards at most one is opened, for its neurons' number.
"""

from typing import Any

import numpy as np

from shardwriter.errors import counted
from shardwriter.files.layout import REWARDS
from shardwriter.loader import ExperimentLoader
from shardwriter.notebook import name_of, statuses
from shardwriter.plot.firing_rate import firing_rate
from shardwriter.plot.style import PALETTE

__all__ = ["draw_overview"]

Array = np.ndarray[Any, Any]

_FEW = 200  # episodes whose points are drawn at full size
_MARKS = {  # by status: colour and marker, so that neither has to be told by colour alone
    "completed": (PALETTE[0], "o"),
    "empty": ("#777777", "v"),
    "interrupted": (PALETTE[1], "s"),
    "failed": (PALETTE[3], "X"),
}


def draw_overview(loader: ExperimentLoader) -> Any:
    """Return a matplotlib Figure with a panel for each of the quantities that was recorded."""
    from matplotlib.figure import Figure

    index = loader.episode_index
    panels = _quantities(loader, index)
    figure = Figure(figsize=(7.0, 0.9 + 1.7 * len(panels)), layout="constrained")
    name = name_of(loader.get_metadata())
    title = f"{name} · {counted(len(index), 'episode')}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(rows, panels.items(), strict=True):
        _draw(axes, index, values)
        axes.set_ylabel(label)
    rows[-1].set_xlabel("episode")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    _add_legend(figure, rows[0])
    return figure


def _quantities(loader: ExperimentLoader, index: Array) -> dict[str, Array]:
    """Return what was recorded, by the label of its axis."""
    quantities = {}
    if (index["rows_rewards"] > 0).any():
        unit = loader.get_units().of(REWARDS, "values")
        total = f"return ({unit})" if unit else "return"
        quantities[f"{total}\n(summed reward)"] = index["total_reward"]
    quantities["length\n(timesteps)"] = index["steps"].astype(float)
    if index["spikes"].any():
        rate = firing_rate(loader, index)
        whose = "all neurons" if rate.neurons is None else f"mean of {rate.neurons:,} neurons"
        quantities[f"firing rate\n({rate.unit}, {whose})"] = rate.values
    return quantities


def _draw(axes: Any, index: Array, values: Array) -> None:
    """Draw a point for every episode, by status, and where there are many their running mean.

    Those that did not complete lie on top of the others and of the mean, and are never faint.
    """
    ids, status_of = index["episode_id"], statuses(index)
    for status, (colour, marker) in _MARKS.items():
        mine = status_of == status
        if not mine.any():
            continue
        is_faint = status == "completed" and len(index) > _FEW
        axes.plot(
            ids[mine], values[mine], marker, color=colour, label=f"{status} ({mine.sum():,})",
            markersize=2.0 if is_faint else 4.0 if status == "completed" else _size(mine.sum()),
            alpha=0.35 if is_faint else 1.0, rasterized=len(index) > _FEW,
            markeredgewidth=0 if status == "completed" else 0.4, markeredgecolor="white",
            zorder=2 if status == "completed" else 4, clip_on=False,
        )  # fmt: skip
    completed = np.flatnonzero((status_of == "completed") & np.isfinite(values))
    width = max(5, len(completed) // 50)
    if len(completed) >= 4 * width:
        mean = np.convolve(values[completed], np.full(width, 1 / width), mode="valid")
        middle = ids[completed][(width - 1) // 2 :][: len(mean)]
        label = f"mean of {width} completed"
        axes.plot(middle, mean, color="black", linewidth=1.2, label=label, zorder=3)
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() >= 0:
        axes.set_ylim(0, 1.08 * float(finite.max()) or 1.0)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.margins(x=0.02)


def _size(count: int) -> float:
    """Return the size of marks, in points, that are to be seen but not to hide each other."""
    return 6.5 if count <= 50 else 5.5 if count <= 500 else 4.0


def _add_legend(figure: Any, axes: Any) -> None:
    """Add a legend, with marks of full size, unless all episodes completed and that is all."""
    from matplotlib.lines import Line2D

    lines, labels = axes.get_legend_handles_labels()
    if len(labels) == 1 and labels[0].startswith("completed"):
        return
    handles = [
        Line2D(
            [], [], color=line.get_color(), marker=line.get_marker(), markersize=6,
            markeredgewidth=0, linewidth=line.get_linewidth(), linestyle=line.get_linestyle(),
        )
        for line in lines
    ]  # fmt: skip
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
