"""Every script says in its first line what it does and how it is run, and is short enough to be read."""

import ast

import pytest

from sim.paths import ROOT

SCRIPTS = {path.relative_to(ROOT): path.read_text() for path in sorted((ROOT / "scripts").rglob("*.py"))}
CHILDREN = ("scripts/torture/files.py",)
"""Programs that another script starts."""


@pytest.mark.parametrize("path", [path for path, text in SCRIPTS.items() if "__name__ ==" in text], ids=str)
def test_the_first_line_names_the_command(path):
    if str(path) in CHILDREN:
        return
    module = ".".join(path.with_suffix("").parts).removesuffix(".__main__")
    first = ast.get_docstring(ast.parse(SCRIPTS[path])).splitlines()[0]
    assert f"python -m {module}" in first
    assert first.split()[0] in ("Prints", "Writes", "Checks", "Measures", "Regenerates")


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_no_script_is_longer_than_300_lines(path):
    assert len(SCRIPTS[path].splitlines()) <= 300
