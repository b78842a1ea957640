"""The report of an experiment: what is in the file. How it behaves, a browser has to tell."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from known_episode import KnownEpisode
from reporting import HOSTILE, NAME, NEURONS, STEPS, column, data_of, record, unpacked

from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.errors import EpisodeNotFound, ExperimentNotFound
from shardwriter.loader import ShardWarning
from shardwriter.report import drawing, gather, write_report


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("report"))


def report(directory: Path, output: Path, **options: object) -> str:
    written = write_report(directory, output, **options)
    assert (written.path, written.size_bytes) == (output, output.stat().st_size)
    return output.read_text()


class Elements(HTMLParser):
    """The elements of a page, and the addresses in their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_table_is_the_index(directory: Path, tmp_path: Path) -> None:
    data = data_of(report(directory, tmp_path / "report.html"))
    with ExperimentLoader(directory) as loader:
        index = loader.episode_index
    assert column(data, "id") == [0, 1, 2, 3]
    assert column(data, "status") == ["completed", "failed", "completed", "completed"]
    assert column(data, "steps") == [STEPS] * 4
    assert column(data, "return") == index["total_reward"].tolist()
    assert column(data, "spikes") == index["spikes"].tolist()
    in_hertz = index["spikes"] / (STEPS * 1e-3 * NEURONS)
    np.testing.assert_allclose(column(data, "rate"), in_hertz, rtol=1e-8)
    headings = [each["heading"] for each in data["episodes"]["columns"] if each["key"] == "rate"]
    assert headings == ["firing rate (Hz)"]
    assert column(data, "seed") == [str(seed) for seed in index["seed"]]
    assert column(data, "own:distance") == [0.0, None, 2 / 3, 1.0]
    assert column(data, "own:nan") == [None] * 4
    assert column(data, "error")[0] == ""
    assert column(data, "error")[1].startswith("ValueError: </script>")


def test_an_episode_is_there_to_draw(directory: Path, tmp_path: Path) -> None:
    data = data_of(report(directory, tmp_path / "report.html", episodes=[2, 2, 1]))
    assert [each["id"] for each in data["drawn"]] == [2, 1]
    drawn = data["drawn"][0]
    with ExperimentLoader(directory) as loader:
        episode = loader.get_episode(2)
        spikes, states = episode.get_spikes(), episode.get_neural_states()
        rewards, behavior = episode.get_rewards(), episode.get_behavior()
    np.testing.assert_array_equal(unpacked(drawn["spikes"]["steps"]), spikes["timesteps"])
    np.testing.assert_array_equal(unpacked(drawn["spikes"]["ids"]), spikes["neuron_ids"])
    counts = np.bincount(spikes["timesteps"], minlength=STEPS)
    np.testing.assert_array_equal(unpacked(drawn["spikes"]["counts"]), counts)
    potentials, speed, returned = drawn["curves"]
    assert potentials["label"] == f"membrane potential ({HOSTILE})"
    np.testing.assert_array_equal(unpacked(potentials["steps"]), states["timesteps"])
    for name, values in zip(potentials["names"], potentials["values"], strict=True):
        neuron = int(name.removeprefix("neuron "))
        expected = states["membrane_potential"][:, neuron]
        np.testing.assert_array_equal(unpacked(values), expected)
    expected = behavior["speed"].astype(np.float32)
    np.testing.assert_array_equal(unpacked(speed["values"][0]), expected)
    sums = unpacked(returned["values"][0])
    np.testing.assert_allclose(sums[1:-1], np.cumsum(rewards["values"]), rtol=1e-6)
    assert (sums[0], sums[-1]) == (0.0, sums[-2])
    np.testing.assert_array_equal(unpacked(returned["steps"])[1:-1], rewards["timesteps"])
    expected = behavior["position"][:, 1].astype(np.float32)
    np.testing.assert_array_equal(unpacked(drawn["path"]["y"]), expected)
    assert [p["name"] for p in drawn["populations"]] == ["left", NAME]


def test_chosen_unasked_are_ends_and_extremes(directory: Path, tmp_path: Path) -> None:
    written = write_report(directory, tmp_path / "report.html")
    assert written.drawn == (0, 3)  # of those that completed
    assert (written.episodes, written.problems) == (4, 0)


def test_hostile_names_and_texts_are_data(directory: Path, tmp_path: Path) -> None:
    page = report(directory, tmp_path / "report.html")
    tags = Elements(page).tags
    assert tags.count("script") == 2
    assert "img" not in tags
    data = data_of(page)
    assert data["title"] == NAME
    assert [HOSTILE, HOSTILE] in data["config"]
    assert ["nested.rate", "0.5"] in data["config"]
    assert ["subject", HOSTILE] in data["options"]
    assert HOSTILE in column(data, "own:note")


def test_nothing_is_fetched(directory: Path, tmp_path: Path) -> None:
    page = report(directory, tmp_path / "report.html")
    assert all(each.startswith(("#", "data:")) for each in Elements(page).addresses)
    assert "default-src 'none'" in page
    beside_data = page.replace(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0], "")
    assert set(re.findall(r"https?://[\w./]+", beside_data)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|import\(", beside_data)


@pytest.mark.leaves_unfinished
def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    directory = record(tmp_path)
    (directory / "shards" / "episode_0000.h5").unlink()
    (directory / "shards" / "episode_0009.h5.part").touch()
    with pytest.warns(ShardWarning, match="unfinished: episode 9"):
        written = write_report(directory, episodes=[0, 2], expected=range(6))
    assert written.path == directory / "report.html"
    assert written.problems
    assert written.drawn == (2,)
    health = data_of(written.path.read_text())["health"]
    assert health["statuses"] == "3 completed, 1 failed"
    assert [row[0] for row in health["unread"]] == ["0"]
    assert health["unfinished"]["text"] == "9"
    assert health["missing"]["text"] == "1, 4-5"
    assert len(health["verified"]["problems"]) == health["verified"]["count"] == written.problems


def test_an_episode_that_is_not_there_writes_nothing(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(EpisodeNotFound):
        write_report(directory, tmp_path / "report.html", episodes=[7])
    with pytest.raises(ExperimentNotFound):
        write_report(tmp_path / "nowhere", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_of_every_kind_of_data(tmp_path: Path) -> None:
    with DataExporter("all", tmp_path, neural_sampling_rate=3, progress=False) as exporter:
        for number in range(2):
            with exporter.start_episode(number) as episode:
                KnownEpisode(number).log(episode)
        exporter.start_episode(5)  # logs nothing
    page = report(exporter.output_dir, tmp_path / "r.html", episodes=[0, 5], verify=False)
    data = data_of(page)
    assert data["health"]["verified"] is None
    assert {"behavior/phase", "events/lap/name"} <= {row[0] for row in data["fields"]}
    assert data["drawn"][1]["spikes"] is None


def test_an_experiment_without_episodes(tmp_path: Path) -> None:
    with DataExporter("none", tmp_path, progress=False) as exporter:
        pass
    data = data_of(report(exporter.output_dir, tmp_path / "report.html"))
    assert column(data, "id") == data["drawn"] == []


def test_long_episodes_are_bounded(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_MOST_SPIKES", 25)
    monkeypatch.setattr(drawing, "_MOST_POINTS", 10)
    (drawn,) = data_of(report(directory, tmp_path / "r.html", episodes=[0]))["drawn"]
    with ExperimentLoader(directory) as loader:
        spikes = loader.get_episode(0).get_spikes()
        speed = loader.get_episode(0).get_behavior()["speed"].astype(np.float32)
    every = drawn["spikes"]["every"]
    kept = spikes["neuron_ids"] % every == 0
    assert 1 < every < NEURONS
    assert np.count_nonzero(kept) <= 25
    np.testing.assert_array_equal(unpacked(drawn["spikes"]["ids"]), spikes["neuron_ids"][kept])
    assert unpacked(drawn["spikes"]["counts"]).sum() == drawn["spikes"]["count"] == len(kept)
    curve = drawn["curves"][1]
    stretches = speed.reshape(5, -1)
    expected = np.stack([stretches.min(axis=1), stretches.max(axis=1)], axis=1).ravel()
    np.testing.assert_array_equal(unpacked(curve["values"][0]), expected)
    assert not curve["is_whole"]


def test_the_table_is_bounded(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_MOST_ROWS", 3)
    data = data_of(report(directory, tmp_path / "report.html"))
    assert column(data, "id") == [0, 1, 3]  # the failed one, and an even choice
    assert data["episodes"]["count"] == 4


def test_potentials_of_a_long_episode_are_read_piecewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 3_000  # longer than a picture's closer look
    values = np.random.default_rng(0).normal(size=(steps, 3)).astype(np.float32)
    with (
        DataExporter("long", tmp_path, neural_sampling_rate=1, progress=False) as exporter,
        exporter.start_episode(0) as episode,
    ):
        episode.log_timesteps(np.arange(steps), {"v": values}, reward=np.ones(steps))
    monkeypatch.setattr(drawing, "_ONE_READ", 5_000)

    def potentials() -> dict[str, object]:
        (drawn,) = data_of(report(exporter.output_dir, tmp_path / "r.html"))["drawn"]
        return drawn["curves"][0]

    whole = potentials()
    assert whole["note"] == ""
    for neuron, packed in enumerate(whole["values"]):
        np.testing.assert_array_equal(unpacked(packed), values[:, neuron])
    monkeypatch.setattr(drawing, "_MOST_READ", 20_000)  # bytes, with 20 a timestep
    part = potentials()
    assert part["note"] == "read up to timestep 1,000 only"
    np.testing.assert_array_equal(unpacked(part["values"][0]), values[:1000, 0])


def test_the_command(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "page.html"
    arguments = ["report", str(directory), "-o", str(output), "--episodes", "2", "--quiet"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert main([*arguments, "--json", "--no-verify"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "path": str(output),
        "size_bytes": output.stat().st_size,
        "episodes": 4,
        "drawn": [2],
        "problems": None,
    }
