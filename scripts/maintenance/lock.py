"""Prints the versions of all that the tests need: python -m scripts.maintenance.lock > requirements/ci.txt

Run it in a fresh environment (`pip install -e ".[dev,sweep,ray]"`) in which the tests have just passed, and write the
output to requirements/ci.txt.
CI takes it as pip's constraints, where its Python is the one that the first line names. With the word `core` it prints
what replays, sweeps, figures and reports need, without torch: requirements/core.txt.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "moe-offload-sim"
HEAVY = ("torch", "transformers", "tokenizers")
"""What recording, quality and trained predictors need, and replays do not."""


def closure(name: str, extras: frozenset[str], without: tuple[str, ...] = ()) -> dict[str, str]:
    """Version by name of what a distribution needs with some extras, and what that needs in turn.

    ``without``: what is left out with all that only it needs.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, extras)]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            needs = requires(current[0]) or []
            versions[canonicalize_name(current[0])] = version(current[0])
        except PackageNotFoundError:
            raise SystemExit(f"error: {current[0]} is not installed here: pip install -e '.[dev]' first") from None
        for need in map(Requirement, needs):
            wanted = [need.marker is None or need.marker.evaluate({"extra": extra}) for extra in ("", *current[1])]
            if any(wanted) and canonicalize_name(need.name) not in without:
                waiting.append((need.name, frozenset(need.extras)))
    for own in (PROJECT, "pip"):
        versions.pop(own, None)
    return versions


def main() -> None:
    core = sys.argv[1:] == ["core"]
    if core:
        install = "pip install --no-deps -r requirements/core.txt"
        print(f"# What replays, sweeps, figures and reports need, without torch: {install}")
    else:
        print(f"# python {sys.version_info.major}.{sys.version_info.minor}")
    print("# Versions that the tests passed with; made by scripts/maintenance/lock.py, see CONTRIBUTING.md.")
    versions = closure(PROJECT, frozenset(), HEAVY) if core else closure(PROJECT, frozenset({"dev", "sweep", "ray"}))
    for name, number in sorted(versions.items()):
        print(f"{name}=={number.split('+')[0]}")  # the plain version also admits torch's +cpu wheel


if __name__ == "__main__":
    main()
