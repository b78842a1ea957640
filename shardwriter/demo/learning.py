"""What the agents of a demo have learned: the picture over all episodes, and its control.

It reads an experiment the way an analysis would: weights from the network's structure and the
logged changes, food from the events.
"""

from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.demo.network import POPULATIONS, SENSORY
from shardwriter.demo.world import ArenaConfig, random_walk
from shardwriter.loader import ExperimentLoader
from shardwriter.plot import PALETTE, STYLE, require_matplotlib
from shardwriter.reading.recorded_episode import RecordedEpisode

__all__ = ["final_weights", "initial_weights", "mean_walk", "plot_learning"]

Array = np.ndarray[Any, Any]

_BLUE, _ORANGE, _GREEN, _RED = PALETTE[:4]
_GREY = "#777777"
_BINS = 10
_MOST_WALKERS = 64


def mean_walk(distances_cm: list[float], steps: int) -> float:
    """Return what random walkers find in `steps` milliseconds, each as fast as one agent was."""
    found = [
        random_walk(
            ArenaConfig(), np.random.default_rng(i), steps, speed_cm_s=distance / steps * 1e3
        )
        for i, distance in enumerate((distances_cm * _MOST_WALKERS)[:_MOST_WALKERS])
    ]
    return float(np.mean(found))


def initial_weights(loader: ExperimentLoader) -> Array:
    """Return the weights that every episode starts with, ``(neurons, neurons)``, in mV."""
    sparse = loader.get_network_structure()["initial_weights"]
    weights = np.zeros(tuple(sparse["shape"]), dtype=np.float32)
    weights[sparse["row"], sparse["col"]] = sparse["value"]
    return weights


def final_weights(initial: Array, episode: RecordedEpisode) -> Array:
    """Return the weights at the end of an episode, from the changes that it logged."""
    changes = episode.get_weight_changes()
    weights = initial.copy()
    # Assignment keeps the last of several values for one synapse: the newest.
    weights[changes["source_ids"], changes["target_ids"]] = changes["new_weights"]
    return weights


def plot_learning(loader: ExperimentLoader, shown: int, walker_food: float, output: Path) -> Path:
    """Draw how foraging improves, what the synapses have become, and two stretches of a path.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed; nothing was written.
    """
    matplotlib = require_matplotlib()
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 2.9), layout="constrained")
        food, weights, early, late = figure.subplots(1, 4, width_ratios=[1.25, 1.25, 1, 1])
        _draw_food(food, loader, walker_food)
        _draw_weights(weights, loader)
        _draw_paths((early, late), loader.get_episode(shown))
        figure.savefig(output, dpi=150)
    return output


def _draw_food(axes: Any, loader: ExperimentLoader, walker_food: float) -> None:
    """Draw food per second over the episodes' time, against random walkers."""
    index = loader.episode_index
    seconds = float(index["steps"].max()) / 1e3
    edges = np.linspace(0.0, seconds, _BINS + 1)
    counts = np.array(
        [np.histogram(e.get_rewards()["timesteps"] / 1e3, edges)[0] for e in loader]
    ) * (_BINS / seconds)
    middles, mean = (edges[:-1] + edges[1:]) / 2, counts.mean(axis=0)
    error = counts.std(axis=0) / np.sqrt(len(counts))
    axes.fill_between(middles, mean - error, mean + error, color=_BLUE, alpha=0.25, linewidth=0)
    axes.plot(middles, mean, "o-", color=_BLUE, markersize=3, label="network (mean, s.e.m.)")
    axes.axhline(walker_food / seconds, color=_GREY, linestyle="--", label="random walker")
    axes.set(xlabel="time (s)", ylabel="food per second", xlim=(0, seconds))
    axes.set_ylim(0, 1.3 * max(walker_food / seconds, float((mean + error).max()), 0.1))
    axes.set_title(f"foraging, {len(counts)} episodes", loc="left")
    axes.legend(loc="upper left", borderaxespad=0.2)


def _draw_weights(axes: Any, loader: ExperimentLoader) -> None:
    """Draw how much more a bearing drives the left turn than the right one, before and after."""
    preferred = loader.get_network_structure()["neurons"]["preferred_bearing_rad"][SENSORY]
    degrees = np.degrees(preferred)
    before = initial_weights(loader)
    after = np.array([_steering(final_weights(before, e)) for e in loader])
    mean, deviation = after.mean(axis=0), after.std(axis=0)
    axes.axhline(0, color=_GREY, linewidth=0.5)
    axes.plot(degrees, _steering(before), color=_GREY, label="before")
    axes.fill_between(
        degrees, mean - deviation, mean + deviation, color=_GREEN, alpha=0.25, linewidth=0
    )
    axes.plot(degrees, mean, color=_GREEN, label="after (mean, s.d.)")
    axes.set(xlabel="bearing of the food (°, left is positive)", xlim=(-180, 180))
    axes.margins(y=0.15)
    axes.set_ylabel("weight to left – right turn (mV)")
    axes.set_xticks(range(-180, 181, 90))
    axes.set_title("what the synapses learn", loc="left")
    axes.legend(loc="upper left", borderaxespad=0.2)


def _steering(weights: Array) -> Array:
    """Return the mean weight to the left minus the right population, smoothed over bearings."""
    left, right = (weights[SENSORY, POPULATIONS[f"turn_{side}"]] for side in ("left", "right"))
    difference = left.mean(axis=1) - right.mean(axis=1)
    around = np.stack([np.roll(difference, shift) for shift in range(-2, 3)])
    smooth: Array = around.mean(axis=0)
    return smooth


def _draw_paths(panels: tuple[Any, Any], episode: RecordedEpisode) -> None:
    """Draw the first and the last quarter of an agent's path, with what it ate."""
    steps = int(episode.get_metadata()["total_timesteps"])
    size = float(episode.get_static_data("arena")["size_cm"])
    windows = ((0, steps // 4), (3 * steps // 4, steps))
    for axes, (start, stop), name in zip(panels, windows, ("first", "last"), strict=True):
        xy = episode.get_behavior(start, stop)["position"]
        axes.plot(xy[:, 0], xy[:, 1], color="#222222", linewidth=0.8)
        meals = episode.get_events("food_eaten", start, stop)
        eaten = meals.get("position", np.zeros((0, 2)))
        axes.plot(
            eaten[:, 0], eaten[:, 1], "*", color=_RED, markersize=9, markeredgecolor="white",
            markeredgewidth=0.5,
        )  # fmt: skip
        axes.set(xlim=(0, size), ylim=(0, size), xlabel="x (cm)", aspect="equal")
        axes.set_title(f"episode {episode.id}, {name} quarter: {len(eaten)} eaten", loc="left")
    panels[0].set_ylabel("y (cm)")
