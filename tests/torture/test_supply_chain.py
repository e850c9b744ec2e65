"""The locked versions are those that pyproject.toml allows, and complete."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def test_the_lock_names_every_dependency_once_within_its_bounds():
    lines = (ROOT / "requirements" / "ci.txt").read_text().splitlines()
    assert re.fullmatch(r"# python 3\.\d+", lines[0])  # read by .ci/run
    locked = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in locked}
    assert len(versions) == len(locked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), text


def test_ci_takes_the_lock_and_keeps_the_command_of_the_readme():
    text = (ROOT / ".ci" / "run").read_text()
    assert text.index("PIP_CONSTRAINT=") < text.index('eval "$install"')
