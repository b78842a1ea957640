"""The panels of an episode's picture, and how they share the page.

A panel is a function that draws a `Recording` into one pair of axes. Invariant: a panel whose group
was not recorded is not on the page.
"""

from collections.abc import Callable
from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np

from shardwriter.files.layout import BEHAVIOR, NEURAL_STATES, REWARDS, WEIGHT_CHANGES
from shardwriter.plot.recording import Recording
from shardwriter.plot.style import PALETTE

__all__ = ["draw"]

Array = np.ndarray[Any, Any]
Panel = Callable[[Any, Recording], None]

_BLUE, _ORANGE, _GREEN, _RED = PALETTE[:4]
_GREY = "#777777"
_MOST_MARKERS = 15_000
_MOST_STEMS = 400
_MOST_POINTS = 4_000
_RASTER_SHAPE = (400, 1000)
_BINS = 120
_LEAST_BIN_S = 0.02


def draw(recording: Recording) -> Any:
    """Return a matplotlib Figure: what shares the time axis on the left, the rest on the right."""
    from matplotlib.figure import Figure

    left, right = _choose(recording)
    height = max(sum(h for _, h in left), sum(h for _, h in right))
    figure = Figure(figsize=(10.0 if right else 7.0, max(0.55 + height, 2.2)), layout="constrained")
    figure.suptitle(recording.title, x=0.01, ha="left", fontsize=9, fontweight="bold")
    columns = figure.add_gridspec(1, 2 if right else 1, width_ratios=[1.9, 1] if right else [1])
    _draw_left(figure, columns[0], left, recording)
    if right:
        heights = [h for _, h in right]
        # What the right column lacks in height stays empty, so that its panels keep their shape.
        rows = columns[1].subgridspec(
            len(right) + 1, 1, height_ratios=[*heights, max(height - sum(heights), 1e-3)]
        )
        for i, (panel, _) in enumerate(right):
            panel(figure.add_subplot(rows[i]), recording)
    return figure


def _draw_left(figure: Any, place: Any, panels: list[tuple[Panel, float]], r: Recording) -> None:
    rows = place.subgridspec(len(panels), 1, height_ratios=[height for _, height in panels])
    axes = None
    for i, (panel, _) in enumerate(panels):
        axes = figure.add_subplot(rows[i], sharex=axes)
        panel(axes, r)
        if r.has_long_span and r.traces:
            axes.axvspan(*r.clock(r.detail), color=_GREY, alpha=0.25, linewidth=0, zorder=0)
        axes.set_xlim(*r.clock((r.first, r.stop)))
        axes.tick_params(labelbottom=i == len(panels) - 1)
    if axes is not None:
        axes.set_xlabel(r.time_label)


def _choose(r: Recording) -> tuple[list[tuple[Panel, float]], list[tuple[Panel, float]]]:
    """Choose the panels of the left and right columns, with their heights in inches."""
    left: list[tuple[Panel, float]] = []
    right: list[tuple[Panel, float]] = []
    if len(r.spikes["timesteps"]):
        left += [(_raster, 2.4), (_rates, 1.2)]
    if len(r.path):
        right.append((_path, 3.0))
    if r.traces:
        height = 0.5 + 0.35 * len(r.traces)
        (right if r.has_long_span else left).append((_traces, height))
    left += [(partial(_series, name=name), 0.9) for name in r.series]
    if len(r.rewards["timesteps"]):
        left.append((_rewards, 1.1))
    if len(r.changes["timesteps"]):
        left.append((_weights, 1.1))
    return (left, right) if left else (right or [(_nothing, 1.0)], [])


def _nothing(axes: Any, _: Recording) -> None:
    """Say that there is nothing to see."""
    text = "nothing recorded that can be drawn"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=_GREY)
    axes.set_axis_off()


def _colour_of(neuron: int, r: Recording) -> str:
    for colour, (first, stop) in zip(PALETTE, r.populations.values(), strict=False):
        if first <= neuron < stop:
            return colour
    return "#222222"


def _bin_edges(r: Recording) -> Array:
    """Return edges of equal bins; the last one takes what is left over, up to half a bin more."""
    least = max(1, round(_LEAST_BIN_S * (r.hertz or 0.0)))
    width = max(least, round((r.stop - r.first) / _BINS))
    whole = max(1, round((r.stop - r.first) / width))
    return np.append(r.first + width * np.arange(whole), r.stop)


# -- spikes -----------------------------------------------------------------------------------


def _raster(axes: Any, r: Recording) -> None:
    """Draw one mark per spike, or, when these would run together, their density."""
    times, ids = r.spikes["timesteps"], r.spikes["neuron_ids"]
    neurons = max([int(ids.max()) + 1, *(stop for _, stop in r.populations.values())])
    groups = list(r.populations.values()) or [(0, neurons)]
    colours = PALETTE if r.populations else ("#222222",)
    if len(times) <= _MOST_MARKERS:
        size = min(4.0, max(0.5, 120.0 / neurons))
        for (first, stop), colour in zip(groups, colours, strict=False):
            mine = (ids >= first) & (ids < stop)
            axes.plot(
                r.clock(times[mine]), ids[mine], "|", color=colour,
                markersize=size, markeredgewidth=0.6, rasterized=True,
            )  # fmt: skip
    else:
        extent = (*r.clock((r.first, r.stop)).tolist(), -0.5, neurons - 0.5)
        image = _density(r, neurons, groups, colours)
        axes.imshow(image, extent=extent, origin="lower", aspect="auto", interpolation="none")
    axes.set_ylim(-0.5, neurons - 0.5)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("neuron")
    for (name, (first, stop)), colour in zip(r.populations.items(), PALETTE, strict=False):
        axes.annotate(
            name.replace("_", " "), (1.005, (first + stop) / 2), color=colour, va="center",
            xycoords=("axes fraction", "data"), annotation_clip=False, fontsize=6.5,
        )  # fmt: skip


def _density(
    r: Recording, neurons: int, groups: list[tuple[int, int]], colours: tuple[str, ...]
) -> Array:
    """Return an RGBA image whose opacity grows with the spikes per pixel."""
    from matplotlib.colors import to_rgb

    rows, columns = min(neurons, _RASTER_SHAPE[0]), min(r.stop - r.first, _RASTER_SHAPE[1])
    counts, _, _ = np.histogram2d(
        r.spikes["neuron_ids"],
        r.spikes["timesteps"],
        bins=(rows, columns),
        range=((0, neurons), (r.first, r.stop)),
    )
    image = np.ones((rows, columns, 4))
    row_ids = (np.arange(rows) + 0.5) * neurons / rows
    for (first, stop), colour in zip(groups, colours, strict=False):
        image[(row_ids >= first) & (row_ids < stop), :, :3] = to_rgb(colour)
    typical = max(1.0, float(np.quantile(counts[counts > 0], 0.9)))
    image[:, :, 3] = np.minimum(1.0, counts / typical) ** 0.8
    return image


def _rates(axes: Any, r: Recording) -> None:
    """Draw each population's mean rate per neuron, or, without populations, all spikes."""
    edges = _bin_edges(r)
    times, ids = r.spikes["timesteps"], r.spikes["neuron_ids"]
    scale = (r.hertz or 1.0) / np.diff(edges)
    if r.populations:
        for colour, (first, stop) in zip(PALETTE, r.populations.values(), strict=False):
            counts, _ = np.histogram(times[(ids >= first) & (ids < stop)], edges)
            rate = counts * scale / max(1, stop - first)
            axes.stairs(rate, r.clock(edges), color=colour, baseline=None)
        axes.set_ylabel("rate (Hz)" if r.hertz else "spikes per\nneuron and step")
    else:
        counts, _ = np.histogram(times, edges)
        axes.stairs(counts * scale, r.clock(edges), color="#222222", baseline=None)
        axes.set_ylabel("spikes / s" if r.hertz else "spikes / step")
    axes.set_ylim(bottom=0)


# -- potentials -------------------------------------------------------------------------------


def _traces(axes: Any, r: Recording) -> None:
    """Draw potentials one above the other, spikes as upright strokes, with a bar for scale."""
    values = np.concatenate(list(r.traces.values()))
    values = values[np.isfinite(values)]
    span = float(np.ptp(values)) if len(values) and np.ptp(values) > 0 else 1.0
    clock, spacing = r.clock(r.trace_times), 1.5 * span
    base = float(values.min()) if len(values) else 0.0
    ticks = []
    for row, (neuron, trace) in enumerate(r.traces.items()):
        offset, colour = row * spacing - base, _colour_of(neuron, r)
        axes.plot(clock, trace + offset, color=colour, linewidth=0.7)
        mine = r.spikes["timesteps"][r.spikes["neuron_ids"] == neuron]
        mine = mine[(mine >= r.detail[0]) & (mine < r.detail[1])]
        low = row * spacing + 0.95 * span
        axes.vlines(r.clock(mine), low, low + 0.4 * span, color=colour, linewidth=0.7)
        ticks.append(row * spacing + 0.5 * span)
    axes.set_yticks(ticks, [f"#{neuron}" for neuron in r.traces])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _scale_bar(axes, r, span)
    if r.has_long_span:
        axes.set_xlim(*r.clock(r.detail))
        axes.set_xlabel(r.time_label)
        axes.set_title(f"{r.trace_name.replace('_', ' ')}, shaded window", loc="left")
        inside = _reward_onsets(r)
        inside = inside[(inside >= r.detail[0]) & (inside < r.detail[1])]
        for time in r.clock(inside)[:_MOST_STEMS]:
            axes.axvline(time, color=_GREY, linestyle=":", linewidth=0.8)
    else:
        axes.set_ylabel(r.trace_name.replace("_", " "))


def _scale_bar(axes: Any, r: Recording, span: float) -> None:
    length = _round_down(span)
    unit = r.units.of(NEURAL_STATES, r.trace_name) or ""
    axes.plot(
        [1.015, 1.015], [0, length], color="black", linewidth=1.2, clip_on=False,
        transform=axes.get_yaxis_transform(),
    )  # fmt: skip
    axes.annotate(
        f"{length:g} {unit}".strip(), (1.03, length / 2), xycoords=("axes fraction", "data"),
        rotation=90, va="center", fontsize=6.5, annotation_clip=False,
    )  # fmt: skip


def _round_down(value: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above `value`."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m * power for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)))


# -- behaviour, reward, weights, path --------------------------------------------------------


def _series(axes: Any, r: Recording, *, name: str) -> None:
    """Draw a behaviour over time: each value, or in long episodes the mean and range of bins.

    Flags are steps, up in a bin if they are in any of it.
    """
    columns, clock = r.series[name], r.clock(r.series_times)
    several = columns.shape[1] > 1
    step = -(-len(columns) // _MOST_POINTS)
    is_flag = columns.dtype.kind == "b"
    drawstyle = "steps-post" if is_flag else "default"
    for i, colour in zip(range(columns.shape[1]), PALETTE, strict=False):
        values = columns[:, i].astype(float)
        label = f"{i}" if several else None
        if step == 1:
            marker = "." if len(values) == 1 else None
            axes.plot(clock, values, color=colour, label=label, marker=marker, drawstyle=drawstyle)
            continue
        starts = np.arange(0, len(values), step)
        counts = np.diff(np.append(starts, len(values)))
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        shown = high if is_flag else np.add.reduceat(values, starts) / counts
        if not is_flag:
            axes.fill_between(clock[starts], low, high, color=colour, alpha=0.3, linewidth=0)
        axes.plot(clock[starts], shown, color=colour, label=label, drawstyle=drawstyle)
    axes.set_ylabel(_folded(r.label(BEHAVIOR, name)))
    if several:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2, handlelength=1)


def _folded(label: str) -> str:
    """Break a long label of a low panel in two."""
    return "\n".join(wrap(label, 16)) if len(label) > 16 else label


def _rewards(axes: Any, r: Recording) -> None:
    """Draw the rewards, and their running sum against an axis of its own."""
    times, values = r.clock(r.rewards["timesteps"]), r.rewards["values"]
    if len(values) <= _MOST_STEMS:
        axes.vlines(times, 0, values, color=_RED, linewidth=2.0)  # where the sum rises, too
    else:
        axes.plot(times, values, color=_RED, linewidth=0.5, rasterized=True)
    axes.axhline(0, color=_GREY, linewidth=0.5)
    axes.set_ylabel(r.label(REWARDS, "reward"), color=_RED)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    axes.set_ylim(1.6 * low, 1.6 * high if high > low else 1.0)
    first, stop = r.clock((r.first, r.stop)).tolist()
    sums = axes.twinx()
    sums.step(
        [first, *times, stop], np.concatenate([[0], np.cumsum(values), [values.sum()]]),
        where="post", color=_BLUE, linewidth=1.0,
    )  # fmt: skip
    sums.spines["right"].set_visible(True)
    sums.set_ylabel("cumulative", color=_BLUE)


def _reward_onsets(r: Recording) -> Array:
    """Return the timesteps of rewards after a step without; none where most steps have one."""
    times = r.rewards["timesteps"]
    if 2 * len(times) > r.stop - r.first:
        return times[:0]
    return times[np.diff(times, prepend=-2) > 1]


def _weights(axes: Any, r: Recording) -> None:
    """Draw how much weight was gained and lost per time bin."""
    edges = _bin_edges(r)
    times, deltas = r.changes["timesteps"], r.changes["deltas"]
    for is_mine, colour, name in (
        (deltas > 0, _GREEN, "potentiation"),
        (deltas < 0, _ORANGE, "depression"),
    ):
        total, _ = np.histogram(times[is_mine], edges, weights=deltas[is_mine])
        if is_mine.any():
            axes.stairs(total, r.clock(edges), color=colour, fill=True, alpha=0.85, label=name)
    axes.axhline(0, color=_GREY, linewidth=0.5)
    axes.set_ylabel(r.label(WEIGHT_CHANGES, "weight", "weight change,\nsummed"))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.35 * (high - low))
    axes.legend(loc="upper right", ncols=2, borderaxespad=0.0)


def _path(axes: Any, r: Recording) -> None:
    """Draw the agent's path from above, coloured by time, with the rewards on it."""
    from matplotlib.collections import LineCollection

    stride = max(1, len(r.path) // _MOST_POINTS)
    xy, clock = r.path[::stride, :2], r.clock(r.path_times[::stride])
    segments = np.stack([xy[:-1], xy[1:]], axis=1)
    line = LineCollection(list(segments), cmap="viridis", array=clock[:-1], linewidth=1.0)
    axes.add_collection(line)
    axes.plot(
        *xy[0], "o", color="white", markeredgecolor="black", markersize=5, label="start", zorder=4
    )
    rewarded = np.searchsorted(r.path_times, _reward_onsets(r))
    rewarded = rewarded[rewarded < len(r.path)]
    if 0 < len(rewarded) <= _MOST_STEMS:
        axes.plot(
            r.path[rewarded, 0], r.path[rewarded, 1], "*", color=_RED, markeredgecolor="white",
            markeredgewidth=0.5, markersize=9, linestyle="none", label="reward",
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    axes.autoscale_view()
    axes.set_xlabel(r.label(BEHAVIOR, r.path_name, "x"))
    axes.set_ylabel(r.label(BEHAVIOR, r.path_name, "y"))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    bar = axes.figure.colorbar(line, ax=axes, shrink=0.85, aspect=30, pad=0.02)
    bar.set_label(r.time_label)
    bar.outline.set_visible(False)
