"""The demo: a spiking network that learns to forage, recorded, merged, read back and drawn.

Every episode is the life of one agent that starts naive. What it does with shardwriter is what
any user would do: `DataExporter.run_episodes` over a rollout, `ExperimentLoader` afterwards.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter.demo.forager import DT_S, UNITS, BodyConfig, rollout
from shardwriter.demo.learning import mean_walk, plot_learning
from shardwriter.demo.network import MOTOR, Circuit
from shardwriter.demo.plasticity import PlasticityConfig
from shardwriter.demo.world import ArenaConfig
from shardwriter.errors import MissingDependency
from shardwriter.exporter import DataExporter
from shardwriter.files.layout import MASTER
from shardwriter.info import experiment_info
from shardwriter.loader import ExperimentLoader
from shardwriter.plot import plot_episode

__all__ = ["DemoResult", "run", "summary_json", "summary_text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """What a demo run recorded, and how its agents fared.

    `food` holds the food eaten by each episode and quarter of its time, shape ``(episodes, 4)``;
    `walker_food` the mean that random walkers of the same speed find in a whole episode.
    `pictures` is empty, and `picture_problem` says why, where matplotlib is missing.
    """

    directory: Path
    master: Path
    pictures: tuple[Path, ...]
    picture_problem: str | None
    workers: int
    steps: int
    spikes: int
    food: np.ndarray[Any, np.dtype[np.int64]]
    walker_food: float
    best_episode: int
    raw_bytes: int
    stored_bytes: int
    wall_s: float


def run(
    output: Path,
    episodes: int = 8,
    steps: int = 20_000,
    workers: int = 2,
    seed: int = 1,
    progress: bool | None = None,
) -> DemoResult:
    """Record foraging episodes in parallel, merge them, read them back and draw them.

    Parameters
    ----------
    output
        Where the experiment's directory is made.
    episodes, steps
        How many lives, of how many milliseconds each; learning shows from about 10,000.
    workers
        Processes at a time.
    progress
        Progress bars; None shows them on a terminal and in a notebook.
    seed
        Seed of the network, which all episodes share, and of the experiment.

    Returns
    -------
    DemoResult
        Without pictures where matplotlib is missing.

    Raises
    ------
    EpisodesFailed
        An episode failed; the others are recorded and merged.
    """
    circuit = Circuit(seed)
    live = partial(rollout, steps=steps, circuit_seed=seed)
    with DataExporter(
        "foraging", output, neural_sampling_rate=1, seed=seed, progress=progress
    ) as exporter:
        exporter.save_config(_config(circuit, steps, seed))
        exporter.save_units(UNITS, dt=DT_S)
        exporter.save_network_structure(**circuit.structure())
        begin = time.perf_counter()
        exporter.run_episodes(live, range(episodes), workers)
        wall_s = time.perf_counter() - begin
    return _assess(exporter.output_dir, steps, workers, wall_s)


def _config(circuit: Circuit, steps: int, seed: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "circuit_seed": seed,
        "network": asdict(circuit.config),
        "arena": asdict(ArenaConfig()),
        "body": asdict(BodyConfig()),
        "plasticity": asdict(PlasticityConfig()),
    }


def _assess(directory: Path, steps: int, workers: int, wall_s: float) -> DemoResult:
    """Read the experiment back, from its files alone."""
    info = experiment_info(directory)
    with ExperimentLoader(directory) as loader:
        index = loader.episode_index
        summaries = [episode.get_metadata()["summary"] for episode in loader]
        keys = [f"food_quarter_{quarter}" for quarter in (1, 2, 3, 4)]
        food = np.array([[int(summary[key]) for key in keys] for summary in summaries])
        best = loader.list_episodes()[int(food.sum(axis=1).argmax())]
        walker = mean_walk([float(s["distance_cm"]) for s in summaries], steps)
        pictures: tuple[Path, ...] = ()
        problem = None
        try:
            pictures = (
                plot_episode(loader.get_episode(best), directory / "episode.png"),
                plot_learning(loader, best, walker, directory / "learning.png"),
            )
        except MissingDependency as error:
            problem = str(error)
    return DemoResult(
        directory=directory,
        master=directory / MASTER,
        pictures=pictures,
        picture_problem=problem,
        workers=workers,
        steps=int(index["steps"].sum()),
        spikes=int(index["spikes"].sum()),
        food=food,
        walker_food=walker,
        best_episode=best,
        raw_bytes=info["raw_bytes"],
        stored_bytes=info["stored_bytes"],
        wall_s=wall_s,
    )


def summary_json(result: DemoResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    values = asdict(result)
    return {
        **values,
        "directory": str(result.directory),
        "master": str(result.master),
        "pictures": [str(picture) for picture in result.pictures],
        "food": result.food.tolist(),
    }


def summary_text(result: DemoResult) -> str:
    """Write a result as lines for people: what was recorded, where it is, how to open it."""
    episode = f"ExperimentLoader({str(result.directory)!r}).get_episode({result.best_episode})"
    return "\n".join(
        [
            "",
            *(f"  {name:<10} {text}" for name, text in _facts(result)),
            "",
            "Open it:",
            "",
            "  from shardwriter import ExperimentLoader",
            f"  episode = {episode}",
            '  potentials = episode.get_neural_states()["membrane_potential"]',
        ]
    )


def _facts(result: DemoResult) -> list[tuple[str, str]]:
    raw, stored = result.raw_bytes / 1e6, result.stored_bytes / 1e6
    ate, (first, _, _, last) = result.food.sum(axis=1).mean(), result.food.mean(axis=0)
    speed = f"{result.steps / result.wall_s:,.0f} steps/s, {raw / result.wall_s:,.0f} MB/s"
    facts = [
        ("episodes", f"{len(result.food)}, each the life of an agent that starts naive"),
        ("steps", f"{result.steps:,} of 1 ms, with {MOTOR.stop} membrane potentials each"),
        ("spikes", f"{result.spikes:,}"),
        ("food", f"{ate:.1f} per episode, {result.walker_food:.1f} for a random walker"),
        ("learning", f"{first:.1f} in the first quarter of each, {last:.1f} in the last"),
        ("data", f"{raw:,.1f} MB raw, {stored:,.1f} MB on disk, {raw / stored:.2f}x smaller"),
        ("rate", f"{speed}, simulating included ({result.wall_s:.1f} s, {result.workers} workers)"),
        ("master", str(result.master)),
    ]
    facts += [("picture", str(picture)) for picture in result.pictures]
    if result.picture_problem:
        facts.append(("picture", f"none: {result.picture_problem}"))
    return facts
