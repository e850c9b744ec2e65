"""The HTML file: whole, deterministic, escaped, without network; in a real browser where there is one."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sim.commands.report import main
from sim.report.content import content
from sim.report.render import render
from tests.sim.report.folders import write_replay
from traces.errors import UserError

VOID = {"meta", "link", "img", "source", "input", "br"}
ATTACK = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Page(HTMLParser):
    """Tags that are open, those that were closed wrongly, all addresses, all texts by tag, all ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            self.handlers += [name] if name.startswith("on") else []
            self.addresses += [str(value)] if name in ("src", "href", "srcset") else []
            self.ids += [str(value)] if name == "id" else []

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_is_whole_and_names_no_other_address(page):
    found = Page(text_of(page))
    assert (found.open, found.wrong, found.handlers) == ([], [], [])
    assert found.addresses
    assert all(address.startswith("data:") for address in found.addresses)
    assert len(found.ids) == len(set(found.ids))
    assert found.counts["script"] == found.counts["style"] == 1


@pytest.mark.parametrize(
    "words",
    [
        "SIMULATED", "ESTIMATED", "importance has the lowest time per output token", "What was run",
        "policy=daop: it lacks &lt;scores&gt;", "what binds is", "lru, 4 slots", "ESTIMATED: invented for tests",
        "python -m sim run policy=importance cache.slots_per_layer=2", "python -m sim report FOLDER",
        "+20.0 %", "figure=pareto",
    ],
)  # fmt: skip
def test_the_page_says(page, words):
    assert words in text_of(page)


def test_without_a_validation_the_page_says_so(sweep, tmp_path):
    write_replay(tmp_path / "runs" / "a", "lru")
    page = render(content(tmp_path / "runs"))
    assert "No validation was given" in page
    assert "lru was the only policy that was run" in page
    assert "No run asked what if" in page


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(page, sweep, validation, tmp_path):
    again = tmp_path / "again.html"
    assert main([str(sweep), f"out={again}", f"validation={validation}"]) == 0
    assert again.read_bytes() == page.read_bytes()


def test_texts_of_runs_are_escaped(tmp_path):
    folder = tmp_path / "runs"
    write_replay(folder / "a", "lru", estimated=[ATTACK], label=ATTACK, trace=ATTACK, warnings=[ATTACK])
    write_replay(folder / "b", "importance", hardware=ATTACK, overrides=[f"policy.alpha={ATTACK}"], label=ATTACK)
    page = render(content(folder))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    found = Page(page)
    assert (found.counts["script"], found.handlers, found.wrong) == (1, [], [])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "report takes one folder of results, got 0"),
        (["a", "b"], "report takes one folder of results, got 2"),
        (["a", "size=3"], "report: size=3 is not known"),
        (["nowhere"], "nowhere is not a folder"),
    ],
)
def test_wrong_words_are_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        main(words)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        main([str(tmp_path)])


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of this machine."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, page: Path, width: int):
    """The page at a width, with everything it complained of or asked the network for."""
    tab, complaints = browser.new_page(viewport={"width": width, "height": 900}), []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
    tab.goto(page.as_uri())
    return tab, complaints


@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_without_complaint_and_without_scrolling_sideways(browser, page, width):
    tab, complaints = opened(browser, page, width)
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    loaded = "Array.from(document.images).every((image) => image.complete && image.naturalWidth > 0)"
    assert tab.evaluate(loaded)
    assert tab.evaluate("getComputedStyle(document.querySelector('section')).borderTopWidth") == "1px"  # styles apply


SHOWN = "Array.from(document.querySelectorAll('table.sortable tbody tr:not(.group)')).filter((r) => !r.hidden)"


def test_headings_sort_within_groups_and_words_filter(browser, page):
    tab, complaints = opened(browser, page, 1400)
    groups = (
        "Array.from(document.querySelectorAll('table.sortable tbody')).map("
        "(b) => Array.from(b.rows).slice(1).map((r) => Number(r.cells[2].dataset.sort)))"
    )
    button = tab.locator("table.sortable th button").nth(2)
    button.click()
    assert tab.evaluate(groups) == [sorted(group) for group in tab.evaluate(groups)]
    button.click()
    assert tab.evaluate(groups) == [sorted(group, reverse=True) for group in tab.evaluate(groups)]
    assert max(map(len, tab.evaluate(groups))) == 3
    tab.locator(".filter input").fill("lru")
    assert tab.evaluate(f"{SHOWN}.length") == 2
    assert complaints == []


def test_a_reader_chooses_policies_and_a_capacity_and_sees_intervals(browser, page):
    tab, complaints = opened(browser, page, 1400)
    assert tab.locator(".chart circle").count() == tab.evaluate(f"{SHOWN}.length") == 7
    reached = (  # intervals of other policies that cross a point do not catch the pointer
        "Array.from(document.querySelectorAll('.chart circle')).every((dot) => { dot.scrollIntoView(); "
        "const at = dot.getBoundingClientRect(); return document.elementFromPoint(at.x + at.width / 2, "
        "at.y + at.height / 2).tagName === 'circle'; })"
    )
    assert tab.evaluate(reached)
    tab.locator(".policies input[value=belady]").uncheck()
    assert tab.locator(".chart circle").count() == tab.evaluate(f"{SHOWN}.length") == 5
    tab.locator("select.capacity").select_option(index=1)
    assert tab.evaluate(f"new Set({SHOWN}.map((r) => r.dataset.capacity)).size") == 1
    tab.locator(".chart circle").first.hover()
    said = tab.locator(".chart output").inner_text()
    assert "TPOT, ms" in said and "[" in said and "% of the experts" in said
    assert complaints == []


def test_columns_fold_out(browser, page):
    tab, _ = opened(browser, page, 1400)
    width = "document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth"
    assert tab.evaluate(width)
    shown = tab.locator("table.sortable th[scope=col]:visible").count()
    tab.locator("button.fold").click()
    assert tab.locator("table.sortable th[scope=col]:visible").count() > shown
    narrow, _ = opened(browser, page, 400)
    assert narrow.locator("table.sortable th[scope=col]:visible").count() == 3
    assert narrow.evaluate(width)
