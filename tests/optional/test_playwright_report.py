"""The report in a browser: what it shows, and how it answers.

The browser is the system's Chromium (``apt-get install chromium``).
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from reporting import HOSTILE, NAME, record

from shardwriter.report.gather import gathered
from shardwriter.report.render import page as rendered

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root, as in containers, Chromium needs the flag.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = record(tmp_path_factory.mktemp("report"))
    return gathered(
        directory,
        episodes=[0, 2],
        expected=range(6),
        root=None,
        verifies=True,
        progress=False,
    )


def repeated(data: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the data of a report with as many episodes, the same ones again and again."""
    columns = []
    for column in data["episodes"]["columns"]:
        values = (column["values"] * (count // len(column["values"]) + 1))[:count]
        columns.append(
            {**column, "values": list(range(count)) if column["key"] == "id" else values}
        )
    return {**data, "episodes": {"count": count, "columns": columns}}


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Open a report; whatever it complains of, or fetches, fails the test."""
    complaints: list[str] = []
    pages: list[Page] = []

    def open_page(data: dict[str, Any], **context: Any) -> Page:
        file = tmp_path / "report.html"
        file.write_text(rendered(data))
        page = browser.new_page(**context)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.wait_for_selector("#closer-view canvas")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    files = (tmp_path / "report.html").as_uri()
    assert [text for text in complaints if text != files and not text.startswith("data:,")] == []


def cells(page: Page, key: str) -> list[str]:
    """Return a column of the rows in view."""
    heads = page.locator("#table thead th").all_inner_texts()
    place = [head.strip() for head in heads].index(key) + 1
    return page.locator(f"#table tbody tr > :nth-child({place})").all_inner_texts()


def wait_for_ink(page: Page, is_same: bool, before: str) -> None:
    """Wait until the first canvas of the closer look is as before, or is not."""
    for _ in range(200):  # the page's policy lets no test evaluate a condition in it
        if (ink(page) == before) == is_same:
            return
        page.wait_for_timeout(50)
    raise TimeoutError("the canvas did not change")


def ink(page: Page) -> str:
    """Return what the first canvas of the closer look shows."""
    return page.locator("#closer-view canvas").first.evaluate("c => c.toDataURL()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_shows_what_was_recorded(opened: Any, data: dict[str, Any], scheme: str) -> None:
    page = opened(data, color_scheme=scheme)
    assert page.inner_text("h1") == NAME
    assert page.title() == NAME
    assert cells(page, "status") == ["completed", "failed", "completed", "completed"]
    assert "behavior/position" in page.inner_text("#fields")
    assert "3 completed, 1 failed" in page.inner_text("#health-line")
    assert "1, 4-5" in page.inner_text("#health-view")
    assert "sound: 4 shards" in page.inner_text("#health-view")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert page.locator("#overview-plots canvas").count() == 3
    for canvas in page.locator("canvas").all():
        assert canvas.get_attribute("aria-label")
        drawn = "c => new Set(new Uint32Array(c.getContext('2d')"
        drawn += ".getImageData(0, 0, c.width, c.height).data.buffer)).size"
        assert canvas.evaluate(drawn) > 3


def test_hostile_texts_are_shown_and_not_run(opened: Any, data: dict[str, Any]) -> None:
    page = opened(data)
    page.locator("summary").last.click()
    assert HOSTILE in page.locator("#table").text_content()
    assert HOSTILE in page.locator("#provenance-view").text_content()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_sorting_and_filtering(opened: Any, data: dict[str, Any]) -> None:
    page = opened(data)
    by_return = page.locator("#table thead button", has_text="return")
    by_return.click()
    assert cells(page, "episode") == ["0", "1", "2", "3"]
    by_return.click()
    assert cells(page, "episode") == ["3", "2", "1", "0"]
    sorts = page.locator("#table thead th[aria-sort]")
    assert [sorts.count(), sorts.get_attribute("aria-sort")] == [1, "descending"]
    page.fill("#query", "return>5 completed")
    assert cells(page, "episode") == ["3", "2"]
    assert "2 of 4" in page.inner_text("#found")
    page.fill("#query", "distance<=0.7")
    assert cells(page, "episode") == ["2", "0"]  # none of the failed one's
    page.fill("#query", "nothing-like-it")
    assert cells(page, "episode") == []
    page.fill("#query", "")
    page.select_option("#status", "failed")
    assert cells(page, "episode") == ["1"]


def test_thousands_of_episodes_are_shown_a_page_at_a_time(
    opened: Any, data: dict[str, Any]
) -> None:
    page = opened(repeated(data, 5_000))
    assert cells(page, "episode") == [str(i) for i in range(50)]
    page.click("#page-next")
    assert cells(page, "episode")[0] == "50"
    page.click("#page-last")
    assert cells(page, "episode")[-1] == "4999"
    assert page.is_disabled("#page-next")
    page.locator("#table thead button", has_text="episode").click()
    assert cells(page, "episode")[0] == "4999"
    page.fill("#query", "id>=4990 failed")
    assert cells(page, "episode") == ["4997", "4993"]
    assert page.is_hidden("#pages")


def test_a_point_leads_to_its_row(opened: Any, data: dict[str, Any]) -> None:
    page = opened(repeated(data, 130))
    canvas = page.locator("#overview-plots canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for x in range(int(box["width"]) - 60, int(box["width"])):  # until a point is met
        page.mouse.click(box["x"] + x, box["y"] + 12)
        if page.locator("#table tr.found").count():
            break
    row = page.locator("#table tr.found th").inner_text()
    assert int(row) > 100


def test_an_episode_can_be_looked_into(opened: Any, data: dict[str, Any]) -> None:
    page = opened(data)
    whole = ink(page)
    raster = page.locator("#closer-view canvas").first
    raster.focus()
    page.keyboard.press("+")
    wait_for_ink(page, False, whole)
    page.keyboard.press("0")
    wait_for_ink(page, True, whole)
    raster.scroll_into_view_if_needed()
    box = raster.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 105, steps=4)
    page.mouse.up()
    wait_for_ink(page, False, whole)
    page.mouse.move(box["x"] + 80, box["y"] + 105)
    first = page.locator("#closer-view .readout").inner_text()
    assert "timestep" in first
    assert "neuron" in first
    assert not first.startswith("0 s")
    page.get_by_role("button", name="Whole episode").click()
    wait_for_ink(page, True, whole)
    page.get_by_role("button", name="Look at episode 2").click()
    page.locator("#closer-view h3", has_text="episode 2").wait_for()
    pressed = page.locator("#closer-choice [aria-pressed=true]").all_inner_texts()
    assert pressed == ["episode 2"]
