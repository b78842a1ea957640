"""What a notebook shows of handles: the facts, and nothing that is markup."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from reporting import NAME, record

from shardwriter import DataExporter, ExperimentLoader


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> ExperimentLoader:
    return ExperimentLoader(record(tmp_path_factory.mktemp("shown"), episodes=14))


class Cells(HTMLParser):
    """The texts and tags of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_loader_tells_of_its_episodes(loader: ExperimentLoader) -> None:
    assert repr(loader).endswith("14 episodes (13 completed, 1 failed)>")
    shown = Cells(loader._repr_html_())
    assert str(loader.path) in shown.texts
    assert NAME in str(loader.path)
    assert "img" not in shown.tags
    assert "… 4 more …" in shown.texts
    assert shown.texts.count("completed") == 9
    assert shown.texts.count("failed") == 1


def test_an_episode_tells_what_it_holds(loader: ExperimentLoader) -> None:
    episode = loader.get_episode(1)
    count = len(episode.get_spikes()["timesteps"])
    assert repr(episode) == f"<RecordedEpisode 1: failed, 60 steps, {count} spikes>"
    texts = Cells(episode._repr_html_()).texts
    assert texts[texts.index("rows of neural_states") + 1] == "30"
    assert texts[texts.index("seed") + 1] == str(episode.get_metadata()["seed"])


def test_what_records_tells_how_far_it_is(tmp_path: Path) -> None:
    with DataExporter(NAME, tmp_path, progress=False) as exporter:
        exporter.start_episode(0).end()
        episode = exporter.start_episode(1)
        for t in range(3):
            episode.log_timestep(t, behavior={"x": 1.0})
        texts = Cells(episode._repr_html_()).texts
        assert texts[:5] == ["Episode 1", "state", "recording", "steps", "3"]
        shown = Cells(exporter._repr_html_())
    assert "img" not in shown.tags
    assert f"DataExporter {NAME}" in shown.texts
    counts = {
        name: shown.texts[shown.texts.index(name) + 1]
        for name in ("finished episodes", "unfinished episodes")
    }
    assert counts == {"finished episodes": "1", "unfinished episodes": "1"}
    assert "ended" in Cells(episode._repr_html_()).texts
    assert "closed" in Cells(exporter._repr_html_()).texts
