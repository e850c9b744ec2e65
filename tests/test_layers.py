"""Imports point down: the layers of docs/architecture.md are those of the code."""

from __future__ import annotations

import ast
import graphlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("sim", "policies", "traces")
GROUND = {
    "command_words", "config", "docstrings", "errors", "formatting", "group_files", "help_text",
    "hydra_command", "paths", "plain_yaml", "ranges", "rule_files", "shipped_rules", "spill", "terminal",
}  # fmt: skip
"""Modules that stand beside the packages of `sim`."""


@cache
def layers() -> tuple[tuple[str, ...], ...]:
    """The packages of each layer, lowest first, as the picture in docs/architecture.md shows them, highest first."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    picture = text.split("<!-- layers -->")[1].split("```")[1]
    rows = [re.findall(r"\b(?:sim|policies|traces)[\w.]*", line.split("  #")[0]) for line in picture.splitlines()]
    return tuple(tuple(row) for row in reversed(rows) if row)


@cache
def modules() -> dict[str, Path]:
    """Every module of the three folders."""
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package_of(module: str) -> str:
    """The package of the picture that holds a module: the longest name that fits."""
    fits = [name for row in layers() for name in row if module == name or module.startswith(f"{name}.")]
    return max(fits, key=len)


def imported(path: Path) -> set[str]:
    """The project's modules that a file names in an import, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & set(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_point_to_lower_layers(module):
    height = {name: number for number, row in enumerate(layers()) for name in row}
    own = package_of(module)
    for target in imported(modules()[module]) - {module}:
        other = package_of(target)
        if other != own and target != other.partition(".")[0]:  # `import traces` only settles the cache
            assert height[other] < height[own], f"{module} imports {target}, which is not below it"


def test_no_circle_of_imports():
    """Inside a package too."""
    graph = {name: imported(path) - {name} for name, path in modules().items()}
    parents = {name: {name.rpartition(".")[0]} for name in graph}
    order = graphlib.TopologicalSorter({name: targets - parents[name] for name, targets in graph.items()})
    assert len(list(order.static_order())) == len(graph)


def test_every_package_stands_in_the_picture_and_no_other():
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    named = {name for row in layers() for name in row}
    assert named <= packages | {"sim.__main__"}
    assert {package_of(name) for name in modules()} == named
    assert {name for name in packages if name.count(".") == 1} <= named


def test_modules_beside_the_packages_of_sim_are_few():
    assert {path.stem for path in (ROOT / "sim").glob("*.py")} - {"__init__", "__main__"} == GROUND


@pytest.mark.parametrize("name", [name for name, path in modules().items() if path.name == "__init__.py"])
def test_a_package_says_what_it_holds_what_it_imports_and_where_to_begin(name):
    """In three lines, more where there is code. Rules' folders and packages of packages say what they hold."""
    text = ast.get_docstring(ast.parse(modules()[name].read_text())) or ""
    assert text, f"{name} says nothing of itself"
    if name.count(".") == 1 and not name.startswith("policies."):
        assert re.search(r"May import.*Start\s+(with|at)", text, re.DOTALL), name
