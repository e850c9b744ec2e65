"""Writes docs/commands.md and docs/commands/*.md from each --help: python -m scripts.maintenance.command_pages"""

from __future__ import annotations

from sim.__main__ import command_names, load
from sim.docstrings import docstring
from sim.help_text import help_of
from sim.paths import ROOT

DOCS = ROOT / "docs"
SEE_ALSO = {
    "run": "[What the metrics mean](../metrics.md), [limits](../limits.md), [adding a policy](../../CONTRIBUTING.md).",
    "plot": "[What the metrics mean](../metrics.md).",
    "card": "[Cards and synthetic traces](../cards.md).",
    "report": "[How to read the report](../report.md).",
    "record": "[The trace format](../../traces/README.md).",
    "export": "[The trace format](../../traces/README.md).",
    "import": "[The trace format](../../traces/README.md).",
    "info": "[The trace format](../../traces/README.md).",
    "check-policy": "[Adding a policy](../../CONTRIBUTING.md).",
    "policies": "[Adding a policy](../../CONTRIBUTING.md).",
}


def pages() -> dict[str, str]:
    """Text of every page by its path below docs."""
    summaries = {name: docstring(load(name)).strip().splitlines()[0] for name in command_names()}
    index = ["# Commands", "", "`python -m sim COMMAND`; each page is what `--help` prints.", ""]
    index += [f"- [{name}](commands/{name}.md): {summary}" for name, summary in summaries.items()]
    texts = {"commands.md": "\n".join(index) + "\n"}
    for name in summaries:
        text = f"# python -m sim {name}\n\n```text\n{help_of(load(name))}\n```\n"
        texts[f"commands/{name}.md"] = text + (f"\nSee also: {SEE_ALSO[name]}\n" if name in SEE_ALSO else "")
    return texts


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
