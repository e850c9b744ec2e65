"""A report's content as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from sim.report.content import Content
from traces.text import visible

FOLDER = Path(__file__).resolve().parent


def render(content: Content) -> str:
    """The HTML of a report: everything from outside is escaped, scripts and styles are this package's own."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_sum(style)}'; script-src '{_sum(script)}'"
    template = environment.get_template("page.html.jinja")
    return template.render(content=content, style=style, script=script, policy=policy)


def _shown(value: Any) -> Any:
    """What stands on the page, visible; the package's own style and script are no text of others."""
    return visible(value) if type(value) is str else value


def _sum(text: str) -> str:
    """What names a style or a script in a content security policy: no other may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
