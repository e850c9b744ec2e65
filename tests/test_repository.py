"""What the repository promises about itself."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sorted(path for folder in ("sim", "policies", "traces") for path in (ROOT / folder).rglob("*.py"))
MAY_IMPORT = {"traces": {"traces"}, "policies": {"policies", "traces"}, "sim": {"sim", "policies", "traces"}}
HEAVY = {"torch", "transformers", "pandas", "matplotlib", "scipy.stats", "scipy.optimize"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = imports(path) & set(MAY_IMPORT)
    assert own <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", sorted((ROOT / "policies").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_policies_know_no_clock_no_model_no_configuration(path):
    assert not imports(path) & {"simpy", "torch", "hydra", "omegaconf", "transformers"}


def test_a_run_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, sim.__main__, sim.commands.run, sim.assembly.build, sim.metrics.step_table, sim.results.outputs, "
        "sim.results.summary, sim.engine.clocks.simpy_engine; print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name for name in HEAVY if f"'{name}'" in done.stdout}


def test_readme_prints_the_commands_that_ci_runs():
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python -m sim run policy=importance" in readme
    assert 'pip install -e ".[dev]" && pytest' in readme
    assert r'pip install -e "\.\[dev\]"' in (ROOT / ".ci" / "run").read_text()


def test_every_rule_has_a_source_and_every_policy_yaml_a_comment():
    for path in (ROOT / "policies").glob("*/*.py"):
        if path.name not in ("__init__.py", "none.py", "base.py"):
            assert "Source:" in path.read_text(), path
    for path in (ROOT / "conf" / "policy").glob("*.yaml"):
        assert path.read_text().startswith("# "), path


def test_no_machine_path_is_mentioned():
    pattern = re.compile(r"/(root|home|tmp)/\w")
    for path in [*PYTHON, *ROOT.glob("*.md"), *(ROOT / "conf").rglob("*.yaml"), *(ROOT / "scripts").rglob("*.py")]:
        assert not pattern.search(path.read_text()), path


@pytest.mark.parametrize(
    "first", ["policies.state", "traces.statistics.miss_curve", "numba", "sim.engine.decision.core"]
)
def test_compiled_code_is_kept_under_the_key_of_its_sources_whatever_is_imported_first(first):
    import subprocess
    import sys

    code = f"import {first}, sim, numba; print(numba.config.CACHE_DIR)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    from traces.numba_cache import source_key

    assert Path(done.stdout.strip()).name == source_key()
