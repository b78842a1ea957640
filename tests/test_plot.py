"""The picture of an episode: any episode, whatever it holds."""

import sys

import numpy as np
import pytest

from shardwriter.errors import ConfigError, MissingDependency
from shardwriter.exporter import DataExporter
from shardwriter.loader import ExperimentLoader
from shardwriter.plot import PALETTE, plot_episode, plot_experiment
from shardwriter.plot.overview import draw_overview
from shardwriter.plot.panels import draw
from shardwriter.plot.recording import read_recording

ALL = frozenset({"neural", "spikes", "position", "reward", "weights"})
PANELS = {
    "raster": "neuron",
    "rates": "spikes / step",
    "traces": "membrane potential",
    "reward": "reward",
    "weights": "weight change,\nsummed",
    "path": "y",
}


def record(directory, log, units=None, steps=200):
    """Record one episode with a function of (episode, t, rng); return the experiment's path."""
    rng = np.random.default_rng(0)
    with DataExporter("plots", directory, neural_sampling_rate=1, seed=1) as exporter:
        if units is not None:
            exporter.save_units(units, dt=1e-3)
        with exporter.start_episode(0) as episode:
            for t in range(steps):
                log(episode, t, rng)
    return exporter.output_dir


def logs(groups, neurons=20, dimensions=2):
    """Return a log function that records these groups."""

    def log(episode, t, rng):
        angle = t / 20
        where = np.array([np.cos(angle), np.sin(angle), angle])[:dimensions]
        episode.log_timestep(
            t,
            neural_state=(
                {"membrane_potential": rng.normal(-60, 3, neurons).astype(np.float32)}
                if "neural" in groups
                else None
            ),
            spikes=rng.random(neurons) < 0.05 if "spikes" in groups else None,
            behavior={"position": where, "lever": bool(t % 2)} if "position" in groups else None,
            reward=float(t % 50 == 10) if "reward" in groups else None,
        )
        if "weights" in groups and t % 10 == 0:
            episode.log_weight_change(t, (0, 1), 0.5, 0.5 + rng.normal())

    return log


def drawn(directory, start=None, stop=None):
    """Return the figure of an experiment's only episode."""
    with ExperimentLoader(directory) as loader:
        return draw(read_recording(loader.get_episode(0), start, stop))


def labels(figure):
    return {axes.get_ylabel() for axes in figure.axes} - {""}


def picture(directory, output, **window):
    with ExperimentLoader(directory) as loader:
        assert plot_episode(loader.get_episode(0), output, **window) == output
    data = output.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 5_000
    return data


def test_everything_is_drawn(tmp_path):
    directory = record(tmp_path, logs(ALL))
    picture(directory, tmp_path / "all.png")
    assert set(PANELS.values()) <= labels(drawn(directory))


@pytest.mark.parametrize(
    ("missing", "panels"),
    [
        ("neural", {"traces"}),
        ("spikes", {"raster", "rates"}),
        ("position", {"path"}),
        ("reward", {"reward"}),
        ("weights", {"weights"}),
    ],
)
def test_a_missing_group_leaves_its_panel_out(tmp_path, missing, panels):
    directory = record(tmp_path, logs(ALL - {missing}))
    picture(directory, tmp_path / "some.png")
    expected = {label for name, label in PANELS.items() if name not in panels}
    absent = {PANELS[name] for name in panels}
    found = labels(drawn(directory))
    assert expected <= found
    assert not absent & found


@pytest.mark.parametrize("only", sorted(ALL))
def test_one_group_alone_is_drawn(tmp_path, only):
    picture(record(tmp_path, logs({only})), tmp_path / "one.png")


def test_nothing_to_draw_says_so(tmp_path):
    directory = record(tmp_path, lambda episode, t, _: episode.log_timestep(t), steps=3)
    figure = drawn(directory)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["nothing recorded that can be drawn"]


def test_one_timestep_is_drawn(tmp_path):
    picture(record(tmp_path, logs(ALL), steps=1), tmp_path / "short.png")


def test_a_position_in_three_dimensions_is_seen_from_above(tmp_path):
    figure = drawn(record(tmp_path, logs({"position"}, dimensions=3)))
    assert {"y", "lever"} == labels(figure) - {"timestep"}


def test_a_vector_that_is_no_position_is_not_a_path(tmp_path):
    def log(episode, t, rng):
        episode.log_timestep(t, behavior={"wind": rng.normal(size=2)}, reward=1.0)

    assert "y" not in labels(drawn(record(tmp_path, log)))


def test_many_spikes_become_a_density(tmp_path):
    def log(episode, t, rng):
        episode.log_timestep(t, spikes=rng.random(2000) < 0.2)

    directory = record(tmp_path, log, steps=100)
    raster = drawn(directory).axes[0]
    image = raster.images[0].get_array()
    assert image.shape[2] == 4
    assert 0.2 < image[:, :, 3].mean() < 1.0
    picture(directory, tmp_path / "dense.png")


def test_a_window_shows_only_its_timesteps(tmp_path):
    directory = record(tmp_path, logs(ALL))
    figure = drawn(directory, 50, 120)
    assert figure.axes[0].get_xlim() == (50, 120)
    assert picture(directory, tmp_path / "a.png") != picture(
        directory, tmp_path / "b.png", start=50, stop=120
    )


def test_a_window_without_data_is_drawn(tmp_path):
    picture(record(tmp_path, logs(ALL)), tmp_path / "empty.png", start=1000, stop=1010)


def test_long_episodes_show_potentials_of_a_short_window(tmp_path):
    directory = record(tmp_path, logs({"neural", "reward", "spikes"}, neurons=5), steps=2500)
    with ExperimentLoader(directory) as loader:
        recording = read_recording(loader.get_episode(0), None, None)
    first, stop = recording.detail
    assert stop - first == len(recording.trace_times) == 400
    inside = recording.rewards["timesteps"]
    assert np.any((inside >= first) & (inside < stop))
    picture(directory, tmp_path / "long.png")


def test_units_and_populations_name_the_axes(tmp_path):
    def log(episode, t, rng):
        if t == 0:
            episode.log_static_data("populations", {"late": [8, 20], "early": [0, 8]})
        logs(ALL)(episode, t, rng)

    units = {"weight": "nS", "position": "cm", "membrane_potential": "mV"}
    directory = record(tmp_path, log, units)
    figure = drawn(directory)
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"rate (Hz)", "y (cm)", "weight change,\nsummed (nS)"} <= labels(figure)
    assert {"early", "late"} <= texts
    assert "time (ms)" in {axes.get_xlabel() for axes in figure.axes}
    picture(directory, tmp_path / "units.png")


@pytest.mark.parametrize(
    "populations",
    [
        "all of them",
        {"a": [0, 1, 2]},
        {"a": [0.5, 1.5]},
        {str(i): [i, i + 1] for i in range(len(PALETTE) + 1)},
    ],
)
def test_static_data_of_another_meaning_is_ignored(tmp_path, populations):
    def log(episode, t, rng):
        if t == 0:
            episode.log_static_data("populations", {"populations": populations})
        logs(ALL)(episode, t, rng)

    assert "timestep" in {axes.get_xlabel() for axes in drawn(record(tmp_path, log)).axes}


@pytest.mark.parametrize("potential", [np.nan, -65.0, np.inf])
@pytest.mark.filterwarnings(
    "ignore::shardwriter.recording.content_checks.NonFiniteWarning"
)  # on purpose
def test_potentials_without_a_range_are_drawn(tmp_path, potential):
    def log(episode, t, _):
        episode.log_timestep(t, neural_state={"v": np.full(3, potential)})

    picture(record(tmp_path, log), tmp_path / "flat.png")


def test_many_rewards_are_drawn(tmp_path):
    def log(episode, t, rng):
        episode.log_timestep(t, reward=rng.normal())

    picture(record(tmp_path, log, steps=1000), tmp_path / "rewards.png")


def test_the_time_axis_has_every_timestep(tmp_path):
    def log(episode, t, _):
        episode.log_timestep(t, {"v": np.zeros(3)}, np.full(3, t == 90))

    raster, *_ = drawn(record(tmp_path, log)).axes
    assert raster.get_xlim() == (0, 200)


def test_only_weight_changes_that_there_are_get_a_name(tmp_path):
    def log(episode, t, _):
        episode.log_weight_change(t, (0, 1), 0.5, 0.75)

    (panel,) = drawn(record(tmp_path, log)).axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["potentiation"]


@pytest.mark.parametrize(("every", "marks"), [(50, 4), (1, 0)])
def test_a_run_of_rewards_is_marked_once_on_the_path(tmp_path, every, marks):
    def log(episode, t, rng):
        behavior = {"position": rng.normal(size=2)}
        episode.log_timestep(t, behavior=behavior, reward=float(t % every < 20))

    lines = [line for axes in drawn(record(tmp_path, log)).axes for line in axes.get_lines()]
    assert sum(len(line.get_xdata()) for line in lines if line.get_label() == "reward") == marks


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    directory = record(tmp_path, logs(ALL), steps=5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with ExperimentLoader(directory) as loader, pytest.raises(MissingDependency) as caught:
        plot_episode(loader.get_episode(0), tmp_path / "no.png")
    assert "shardwriter[plot]" in str(caught.value)
    assert not (tmp_path / "no.png").exists()


def test_only_the_fields_asked_for_are_drawn(tmp_path):
    directory = record(tmp_path, logs(ALL))
    with ExperimentLoader(directory) as loader:
        recording = read_recording(loader.get_episode(0), None, None, ["spikes", "lever"])
        assert labels(draw(recording)) == {"neuron", "spikes / step", "lever"}
        with pytest.raises(ConfigError, match="behavior/lever"):
            plot_episode(loader.get_episode(0), tmp_path / "a.png", fields=["levre"])
        with pytest.raises(ConfigError, match=r"\.png, \.pdf"):
            plot_episode(loader.get_episode(0), tmp_path / "a.jpg")
    assert not list(tmp_path.glob("a.*"))


def test_a_long_behaviour_keeps_its_extremes(tmp_path):
    def log(episode, t, rng):
        episode.log_timestep(t, behavior={"force": 50.0 if t == 7_777 else 0.0})

    axes = drawn(record(tmp_path, log, steps=9_000)).axes[0]
    assert max(path.vertices[:, 1].max() for path in axes.collections[0].get_paths()) == 50.0
    assert len(axes.lines[0].get_xdata()) < 5_000


def overview(directory):
    with ExperimentLoader(directory) as loader:
        return draw_overview(loader)


def record_some(directory, episodes, failing=(), interrupted=(), dt=None, network=None, steps=5):
    """Record episodes in which 3 of 6 neurons fire in every step; return the path."""
    spikes = np.tile(np.arange(6) < 3, (steps, 1))
    with DataExporter("many", directory, neural_sampling_rate=1, progress=False) as exporter:
        exporter.save_units({}, dt=dt)
        if network:
            exporter.save_network_structure({"ids": np.arange(network)}, {})
        for episode_id in range(episodes):
            try:
                with exporter.start_episode(episode_id) as episode:
                    episode.log_timesteps(np.arange(steps), spikes=spikes, reward=np.ones(steps))
                    if episode_id in failing:
                        raise ValueError(episode_id)
                    if episode_id in interrupted:
                        raise KeyboardInterrupt
            except (ValueError, KeyboardInterrupt):
                continue
    return exporter.output_dir


def test_all_episodes_are_drawn_from_the_index(tmp_path):
    directory = record_some(tmp_path, 12)
    with ExperimentLoader(directory) as loader:
        assert plot_experiment(loader, tmp_path / "all.pdf").stat().st_size > 1_000
    figure = overview(directory)
    assert len(figure.axes) == 3
    assert figure.axes[0].get_ylabel().startswith("return")
    assert sum(len(line.get_xdata()) for line in figure.axes[1].lines) == 12
    assert figure.legends == []


def test_the_running_sum_does_not_hide_the_rewards(tmp_path):
    rewards, sums = drawn(record(tmp_path, logs({"reward"}))).axes
    (stems,), (line,) = rewards.collections, sums.get_lines()
    assert stems.get_linewidth() > 1.5 * line.get_linewidth()


def test_the_return_has_the_unit_of_rewards(tmp_path):
    figure = overview(record(tmp_path, logs({"reward"}), {"reward": "ml"}))
    assert figure.axes[0].get_ylabel() == "return (ml)\n(summed reward)"


def test_a_flag_of_a_long_episode_is_up_or_down(tmp_path):
    def log(episode, t, _):
        episode.log_timestep(t, behavior={"lick": t % 1000 == 500})

    (panel,) = drawn(record(tmp_path, log, steps=10_000)).axes
    (line,) = panel.get_lines()
    assert len(line.get_xdata()) < 5_000
    assert sorted(set(line.get_ydata())) == [0, 1]


@pytest.mark.parametrize("few", [200, 5])
def test_episodes_that_did_not_complete_stand_out(tmp_path, monkeypatch, few):
    monkeypatch.setattr("shardwriter.plot.overview._FEW", few)
    figure = overview(record_some(tmp_path, 10, failing=[3], interrupted=[7]))
    lines = {line.get_label().split()[0]: line for line in figure.axes[1].lines}
    assert list(lines["failed"].get_xdata()) == [3]
    assert list(lines["interrupted"].get_xdata()) == [7]
    for status in ("failed", "interrupted"):
        assert lines[status].get_alpha() == 1
        assert lines[status].get_markersize() > lines["completed"].get_markersize()
        assert lines[status].get_zorder() > lines["completed"].get_zorder()
    assert len({line.get_marker() for line in lines.values()}) == 3
    assert len({line.get_color() for line in lines.values()}) == 3
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["completed (8)", "interrupted (1)", "failed (1)"]


@pytest.mark.parametrize(
    ("dt", "network", "label", "rate"),
    [
        (0.002, 6, "firing rate\n(Hz, mean of 6 neurons)", 250.0),
        (0.002, None, "firing rate\n(spikes / s, all neurons)", 1500.0),
        (None, 6, "firing rate\n(spikes / neuron / step, mean of 6 neurons)", 0.5),
        (None, None, "firing rate\n(spikes / step, all neurons)", 3.0),
    ],
)
def test_a_rate_says_what_it_is_one_of(tmp_path, dt, network, label, rate):
    axes = overview(record_some(tmp_path, 2, dt=dt, network=network)).axes[2]
    assert axes.get_ylabel() == label
    np.testing.assert_allclose(axes.lines[0].get_ydata(), rate)


def test_neural_states_tell_the_number_of_neurons_unless_others_fired(tmp_path):
    figure = overview(record(tmp_path / "a", logs({"neural", "spikes"}, 20), {}))
    assert figure.axes[1].get_ylabel() == "firing rate\n(Hz, mean of 20 neurons)"

    def log(episode, t, _):
        episode.log_timestep(t, neural_state={"v": np.zeros(2)}, spikes=np.ones(3))

    figure = overview(record(tmp_path / "b", log, {}))
    assert figure.axes[1].get_ylabel() == "firing rate\n(spikes / s, all neurons)"


def test_the_rate_is_drawn_where_the_shard_is_gone(tmp_path):
    directory = record(tmp_path, logs({"neural", "spikes"}), {})
    (directory / "shards" / "episode_0000.h5").unlink()
    assert overview(directory).axes[1].get_ylabel() == "firing rate\n(spikes / s, all neurons)"
