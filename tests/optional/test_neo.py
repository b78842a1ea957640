"""Neo: trains, signals and events with their times and units."""

from pathlib import Path

import known
import numpy as np
import pytest

from shardwriter import ExperimentLoader
from shardwriter.errors import ConfigError


def test_a_block_has_every_value(tmp_path: Path) -> None:
    with ExperimentLoader(known.record(tmp_path)) as loader:
        block = loader.get_episode(2).to_neo(n_neurons=known.N + 1)
    (segment,) = block.segments
    assert len(segment.spiketrains) == known.N + 1
    for train in segment.spiketrains:
        neuron = train.annotations["neuron_id"]
        steps = np.flatnonzero(known.fired(2)[:, neuron]) if neuron < known.N else []
        np.testing.assert_allclose(train.rescale("s").magnitude, np.multiply(steps, known.DT))
        assert train.t_stop.rescale("s").magnitude == pytest.approx(known.STEPS * known.DT)
    signals = {each.name: each for each in segment.analogsignals}
    v = signals["membrane_potential"]
    assert v.dimensionality.string == "mV"
    assert v.sampling_period.rescale("s").magnitude == pytest.approx(2 * known.DT)
    np.testing.assert_array_equal(v.magnitude, known.potentials(2)[::2])
    np.testing.assert_array_equal(signals["position"].magnitude, known.positions(2))
    reward = signals["values"]  # every seventh step
    assert reward.annotations["recorded_unit"] == "pellet"  # which Neo does not know
    (event,) = segment.events
    assert event.times.rescale("s").magnitude.tolist() == pytest.approx([7 * known.DT])
    assert event.array_annotations["number"].tolist() == [3]


def test_a_neuron_beyond_those_named_keeps_its_train(tmp_path: Path) -> None:
    with ExperimentLoader(known.record(tmp_path, 1)) as loader:
        (segment,) = loader.get_episode(0).to_neo(n_neurons=2).segments
    assert sum(map(len, segment.spiketrains)) == known.fired(0).sum()


def test_without_dt_it_says_what_to_do(tmp_path: Path) -> None:
    with ExperimentLoader(known.record(tmp_path, 1, dt=None)) as loader:
        with pytest.raises(ConfigError, match="dt: expected seconds of a timestep, as dt= here"):
            loader.get_episode(0).to_neo()
        block = loader.get_episode(0).to_neo(dt=0.5)
    assert block.segments[0].analogsignals[1].sampling_period.magnitude == 0.5
