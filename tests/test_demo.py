"""The demo: the network, the world, what is learned, and the run as a whole."""

import sys
from pathlib import Path

import numpy as np
import pytest

from shardwriter.demo import run, summary_text
from shardwriter.demo.forager import Forager, rollout
from shardwriter.demo.learning import final_weights, initial_weights
from shardwriter.demo.network import MOTOR, POPULATIONS, SENSORY, Circuit, Neurons
from shardwriter.demo.plasticity import Dopamine, Plasticity, PlasticityConfig
from shardwriter.demo.world import Arena, ArenaConfig, random_walk
from shardwriter.exporter import DataExporter
from shardwriter.loader import ExperimentLoader


def live(seed, steps, *, learns=True):
    """Return a forager that has lived, its spikes (steps, neurons) and how much it ate."""
    forager = Forager(Circuit(1), np.random.default_rng(seed), learns=learns)
    spikes = np.zeros((steps, len(forager.neurons.potentials)), dtype=bool)
    eaten = 0
    for t in range(steps):
        fired, meal = forager.step(t)
        spikes[t] = fired
        eaten += meal is not None
    return forager, spikes, eaten


# -- world ------------------------------------------------------------------------------------


def test_agent_stays_inside_and_patches_stay_as_many():
    arena = Arena(ArenaConfig(size_cm=30.0, patches=4), np.random.default_rng(0))
    meals = 0
    for turn in np.random.default_rng(1).normal(0.0, 3.0, size=3000):
        arena.move(60.0, turn, 10.0)
        assert np.all((arena.position >= 0.0) & (arena.position <= 30.0))
        meal = arena.eat()
        if meal is not None:
            meals += 1
            assert np.hypot(*(meal.position - arena.position)) <= arena.config.reach_cm + 1e-4
            assert np.hypot(*(meal.regrown_at - arena.position)) > 30.0 / 4 - 1e-4
    assert meals > 10
    assert arena.food.shape == (4, 2)
    assert arena.distance_cm == pytest.approx(3000 * 0.6)


def test_bearing_is_positive_to_the_left():
    arena = Arena(ArenaConfig(patches=1), np.random.default_rng(2))
    towards = arena.food[0] - arena.position
    arena.heading_rad = float(np.arctan2(towards[1], towards[0]))
    assert arena.smell().bearing_rad == pytest.approx(0.0, abs=1e-5)
    arena.heading_rad -= 0.5
    assert arena.smell().bearing_rad == pytest.approx(0.5, abs=1e-5)


def test_odour_is_stronger_nearer_the_food():
    arena = Arena(ArenaConfig(patches=1), np.random.default_rng(2))
    far = arena.smell().concentration
    towards = arena.food[0] - arena.position
    arena.heading_rad = float(np.arctan2(towards[1], towards[0]))
    arena.move(100.0, 0.0, 50.0)
    assert far < arena.smell().concentration <= 1.0


@pytest.mark.parametrize("wrong", [{"patches": 0}, {"reach_cm": 60.0}, {"reach_cm": 0.0}])
def test_impossible_arena_is_refused(wrong):
    with pytest.raises(ValueError, match="arena: expected at least 1 patch"):
        ArenaConfig(**wrong)


def test_random_walk_finds_some_food():
    found = random_walk(ArenaConfig(), np.random.default_rng(0), 60_000, speed_cm_s=30.0)
    assert 2 <= found <= 40


# -- network ----------------------------------------------------------------------------------


def test_same_seed_same_circuit():
    assert np.array_equal(Circuit(3).weights, Circuit(3).weights)
    assert not np.array_equal(Circuit(3).weights, Circuit(4).weights)


def test_populations_tile_the_neurons():
    bounds = [(ids.start, ids.stop) for ids in POPULATIONS.values()]
    assert [first for first, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == MOTOR.stop == len(Circuit(0).weights)


def test_structure_describes_the_weights():
    circuit = Circuit(0)
    structure = circuit.structure()
    sparse = structure["initial_weights"]
    weights = np.zeros(sparse["shape"], dtype=np.float32)
    weights[sparse["row"], sparse["col"]] = sparse["value"]
    assert np.array_equal(weights, circuit.weights)
    assert structure["connections"]["is_plastic"].sum() == circuit.plastic.sum()
    assert len(structure["neurons"]["population"]) == len(structure["neurons"]["ids"])


def test_refractory_neurons_do_not_fire():
    _, spikes, _ = live(0, 500)
    for lag in (1, 2):
        assert not np.any(spikes[lag:] & spikes[:-lag])


def test_a_smell_drives_the_neurons_tuned_to_its_bearing():
    circuit = Circuit(0)
    neurons = Neurons(circuit, np.random.default_rng(0))
    counts = np.zeros(len(circuit.weights))
    for t in range(1000):
        if t % 10 == 0:
            neurons.feel(np.pi / 2, 25.0, exploration=0.0, duration_ms=10.0)
        counts += neurons.step()
    sensory = counts[SENSORY]
    tuned = np.abs(circuit.preferred_rad - np.pi / 2) < 0.5
    opposed = np.abs(circuit.preferred_rad + np.pi / 2) < 0.5
    assert sensory[tuned].mean() > 3 * sensory[opposed].mean()


def test_every_population_fires_at_a_plausible_rate():
    _, spikes, _ = live(1, 1500)
    for ids in POPULATIONS.values():
        assert 1.0 < spikes[:, ids].mean() * 1e3 < 60.0


def test_same_generator_same_life():
    one, other = live(5, 400), live(5, 400)
    assert np.array_equal(one[1], other[1])
    assert np.array_equal(one[0].neurons.weights, other[0].neurons.weights)


# -- plasticity -------------------------------------------------------------------------------


def test_learning_keeps_the_circuits_promises():
    circuit = Circuit(1)
    forager, _, _ = live(2, 1500)
    before, after = circuit.weights, forager.neurons.weights
    block = after[SENSORY, MOTOR].T
    assert np.abs(after - before).max() > 0.5
    assert np.array_equal(before[SENSORY.stop :], after[SENSORY.stop :])
    assert np.all(block[~circuit.plastic] == 0.0)
    assert np.all(block >= 0.0)
    totals = before[SENSORY, MOTOR].sum(axis=0)
    assert after[SENSORY, MOTOR].sum(axis=0) == pytest.approx(totals, rel=1e-3)


def test_without_learning_nothing_changes():
    forager, _, _ = live(2, 300, learns=False)
    assert np.array_equal(forager.neurons.weights, Circuit(1).weights)
    assert len(forager.weight_changes(everything=True).new) == 0


def test_changes_are_reported_once_and_without_gaps():
    forager = Forager(Circuit(1), np.random.default_rng(3))
    known = forager.neurons.weights.copy()
    for t in range(600):
        forager.step(t)
        if t % 100 == 99:
            posts, pres, old, new = forager.weight_changes(everything=t == 599)
            assert np.array_equal(known[pres, posts], old)
            known[pres, posts] = new
    assert np.array_equal(known, forager.neurons.weights)
    assert len(forager.weight_changes(everything=True).new) == 0


@pytest.mark.parametrize(("dopamine", "grows"), [(1.0, True), (-1.0, False)])
def test_reward_strengthens_what_made_a_neuron_fire(dopamine, grows):
    weights = np.ones((1, 2), dtype=np.float32)
    plasticity = Plasticity(weights, np.ones((1, 2), dtype=bool), PlasticityConfig(), 10)
    pre, post = np.zeros((10, 2), dtype=bool), np.zeros((10, 1), dtype=bool)
    pre[2, 0] = post[4, 0] = True  # the second synapse was silent
    plasticity.observe(pre, post)
    plasticity.learn(dopamine)
    assert (weights[0, 0] > weights[0, 1]) == grows
    assert weights.sum() == pytest.approx(2.0)


def test_dopamine_reports_surprise_and_success_ends_exploration():
    dopamine = Dopamine(PlasticityConfig(), frame_ms=10)
    first = dopamine.signal(1.0, has_eaten=False)
    assert first > 0.0
    assert dopamine.exploration < 1.0
    for _ in range(200):
        last = dopamine.signal(1.0, has_eaten=False)
    assert 0.0 <= last < 0.01 * first
    assert dopamine.exploration < 0.5
    assert dopamine.signal(0.0, has_eaten=True) > 0.0
    assert dopamine.signal(-1.0, has_eaten=False) < 0.0


# -- the whole --------------------------------------------------------------------------------


def test_rollout_logs_what_it_says(tmp_path):
    with DataExporter("forage", tmp_path, neural_sampling_rate=1, seed=4) as exporter:
        exporter.save_network_structure(**Circuit(1).structure())
        with exporter.start_episode(0) as episode:
            summary = rollout(episode, steps=1200, circuit_seed=1)
    with ExperimentLoader(exporter.output_dir) as loader:
        episode = loader.get_episode(0)
        changes = episode.get_weight_changes()
        rewards = episode.get_rewards()
        meals = episode.get_events("food_eaten")
        initial = initial_weights(loader)
        learned = final_weights(initial, episode)
        assert episode.get_neural_states()["membrane_potential"].shape == (1200, 400)
        assert episode.get_behavior()["position"].shape == (1200, 2)
    assert np.array_equal(initial, Circuit(1).weights)
    assert len(rewards["values"]) == len(meals["timesteps"]) == summary["food_eaten"]
    assert sum(summary[f"food_quarter_{i}"] for i in (1, 2, 3, 4)) == summary["food_eaten"]
    assert set(np.unique(changes["timesteps"]) % 100) == {99}
    assert np.all(changes["source_ids"] < SENSORY.stop)
    assert np.all(changes["target_ids"] >= MOTOR.start)
    total = np.zeros_like(initial, dtype=np.float64)
    np.add.at(total, (changes["source_ids"], changes["target_ids"]), changes["deltas"])
    assert initial + total == pytest.approx(learned, abs=1e-4)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(tmp_path_factory.mktemp("demo"), episodes=3, steps=400, workers=2, seed=7)


def test_run_records_merges_and_draws(result):
    with ExperimentLoader(result.master) as loader:
        assert loader.list_episodes() == [0, 1, 2]
        index = loader.episode_index
        assert result.steps == index["steps"].sum() == 1200
        assert result.spikes == index["spikes"].sum() > 0
        assert result.food.sum() == pytest.approx(index["total_reward"].sum())
        assert loader.get_config()["steps"] == 400
    assert result.food.shape == (3, 4)
    assert result.raw_bytes > 3 * 400 * 400 * 4
    assert result.picture_problem is None
    for picture in result.pictures:
        assert picture.parent == result.directory
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(result.pictures) == 2


def test_summary_says_where_and_how_to_open(result):
    text = summary_text(result)
    assert str(result.master) in text
    assert all(str(picture) in text for picture in result.pictures)
    assert f"{result.spikes:,}" in text
    snippet = text[text.index("  from shardwriter") :].replace("\n  ", "\n").strip()
    names: dict[str, object] = {}
    exec(snippet, names)
    assert names["potentials"].shape == (400, 400)


def test_run_without_matplotlib_still_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(tmp_path, episodes=1, steps=50, workers=1)
    assert result.pictures == ()
    assert result.master.is_file()
    assert "matplotlib is not installed; pip install 'shardwriter[plot]'" in summary_text(result)
