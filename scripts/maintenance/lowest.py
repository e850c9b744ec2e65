"""Prints the lowest versions that pyproject.toml allows, as constraints of pip: python -m scripts.maintenance.lowest

With the word `core` only those of the light path, without torch, with which `.ci/light` runs a short form of the tests.
CONTRIBUTING.md ("Renew the dependencies") says how the tests run with them.
"""

from __future__ import annotations

import sys
import tomllib

from packaging.requirements import Requirement

from scripts.maintenance.lock import HEAVY
from sim.paths import ROOT


def lowest(requirements: list[str]) -> dict[str, str]:
    """Lowest version by name. Raises: ValueError for a requirement without one."""
    found = {}
    for requirement in map(Requirement, requirements):
        bounds = [one.version for one in requirement.specifier if one.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{requirement} has {len(bounds)} lowest versions")
        found[requirement.name] = bounds[0]
    return found


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, version in lowest(project["dependencies"]).items():
        if name not in HEAVY or sys.argv[1:] != ["core"]:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
