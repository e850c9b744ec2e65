"""The documentation: links lead somewhere, every command has its page, every metric its definition."""

import re
from pathlib import Path

import pytest

from scripts.maintenance import command_pages
from sim.metrics.registry import (
    BESIDE_PLAIN,
    PART_TIMES,
    PEERS,
    RATES,
    REQUEST_TIMES,
    SPECULATION,
    TIERS,
    TOKEN_TIME,
    TOTALS,
    TURN_TIMES,
)
from tests.support.random_traces import random_trace
from tests.support.replays import replay_of, run

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "traces" / "README.md"])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in (one or other for one, other in LINK.findall(text)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("name", command_pages.pages())
def test_the_pages_of_commands_are_what_help_prints(name):
    stored = ROOT / "docs" / name
    writer = "python -m scripts.maintenance.command_pages"
    assert stored.is_file(), f"{writer} writes docs/{name}"
    assert stored.read_text() == command_pages.pages()[name], f"{writer} writes it anew"


def test_no_page_of_a_command_that_is_gone():
    found = {f"commands/{path.name}" for path in (ROOT / "docs" / "commands").glob("*.md")}
    assert found == set(command_pages.pages()) - {"commands.md"}


def test_every_metric_is_defined():
    text = (ROOT / "docs" / "metrics.md").read_text()
    defined = set(re.findall(r"`([a-z_]+(?:\.PART)?)`", text))
    for name in run(replay_of(random_trace(0), "importance", slots_per_layer=3)):
        stem = re.sub(r"^(prefill|decode)\.|\.(mean|p\d\d)$", "", name)
        assert re.sub(r"\.[a-z]+$", ".PART", stem) in defined, name


def test_the_tables_of_metrics_repeat_the_registry():
    parts = {re.sub(r"\.[a-z]+$", ".PART", part.name): part.definition for part in PART_TIMES}
    singles = {metric.name: metric.definition for metric in (*RATES, *REQUEST_TIMES, *TURN_TIMES, TOKEN_TIME)}
    totals = {metric.name: metric.definition for metric in TOTALS}
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert rows == [*(singles | parts | totals).items()]


def test_the_list_of_metrics_of_drafts_repeats_the_registry():
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## Speculation")[2].partition("\n## ")[0]
    items = [" ".join(item.split()) for item in text.split("\n- ")[1:]]
    assert items == [f"`{metric.name}`: {metric.definition}" for metric in (*SPECULATION, *BESIDE_PLAIN)]


def test_the_list_of_metrics_of_storage_repeats_the_registry():
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## Storage behind")[2].partition("\n## ")[0]
    items = [" ".join(item.split()) for item in text.split("\n- ")[1:]]
    assert items == [f"`{metric.name}`: {metric.definition}" for metric in TIERS]


def test_the_list_of_metrics_of_a_second_gpu_repeats_the_registry():
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## A second GPU as a store")[2].partition("\n## ")[0]
    items = [" ".join(item.split()) for item in text.split("\n- ")[1:]]
    assert items == [f"`{metric.name}`: {metric.definition}" for metric in PEERS]


def test_every_figure_is_on_the_page_of_plot():
    from sim.figures.registry import FIGURES

    text = (ROOT / "docs" / "commands" / "plot.md").read_text()
    assert all(f"figure={name} " in text for name in FIGURES)
