"""Committed real runs: today's simulator still says of them what their report says."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim.validation.live import analyse

COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "validation"
FOLDERS = sorted(path.parent for path in COMMITTED.glob("*/plan.json"))
POINTS = 0.5
"""Percentage points by which an error may differ from the stated one."""


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def stated_and_found(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    stated = json.loads((request.param / "validation.json").read_text())
    return stated["summary"], analyse(request.param, stated["config"]["gate"], draws=0).summary


def test_there_is_a_committed_validation() -> None:
    assert FOLDERS


def test_decisions_are_still_those_of_the_real_runs(stated_and_found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stated, computed = stated_and_found
    decisions = computed["decisions"]
    assert decisions["demand_only_identical"] == decisions["demand_only_settings"] > 0
    assert decisions["prefetch_least_outcomes_equal"] == pytest.approx(
        stated["decisions"]["prefetch_least_outcomes_equal"], abs=0.05
    )


def test_the_machine_was_as_noisy_as_stated(stated_and_found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stated, computed = stated_and_found
    assert computed["noise gate"] == stated["noise gate"]


def test_errors_are_still_as_stated(stated_and_found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stated, computed = stated_and_found
    names = [name for name in computed if name.startswith("time per")]
    assert len(names) == 5
    for name in names:
        assert computed[name]["count"] == stated[name]["count"]
        for key in ("mean_absolute_error_percent", "worst_error_percent"):
            if stated[name][key] is None:
                assert computed[name][key] is None
            else:
                assert computed[name][key] == pytest.approx(stated[name][key], abs=POINTS)
    assert computed["ranking"]["resolved_pairs"] == stated["ranking"]["resolved_pairs"]
    assert computed["ranking"]["right"] >= stated["ranking"]["right"]
