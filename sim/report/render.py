"""A report's content as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from sim.report.content import Content

FOLDER = Path(__file__).resolve().parent
SECTIONS = {
    "capacity": "Capacity", "hit_rates": "Hit rate beside Belady's", "tpot_by_policy": "Time per output token",
    "cache_ratio_by_policy": "Cache ratio", "alpha": "Width of the score bands", "knob": "Against what was swept",
    "chain": "Parts added one by one",
    "evictions": "Eviction rules", "prefetch_accuracy": "Prefetches", "link_time": "Time on the link",
    "link_and_cpu": "Link and CPU", "pareto": "Latency against quality",
}  # fmt: skip
"""Headings of figures; any other is headed by its name."""


def render(content: Content) -> str:
    """The HTML of a report: everything from outside is escaped, scripts and styles are this package's own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_sum(style)}'; script-src '{_sum(script)}'"
    template = environment.get_template("page.html.jinja")
    return template.render(content=content, sections=SECTIONS, style=style, script=script, policy=policy)


def _sum(text: str) -> str:
    """What names a style or a script in a content security policy: no other may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
