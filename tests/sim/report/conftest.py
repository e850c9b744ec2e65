"""One small sweep for all tests of the report."""

from pathlib import Path

import pandas as pd
import pytest

from tests.sim.report.folders import TARGETS, write_replay


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four policies at two capacities; importance asked what if; one run failed."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    for policy in TARGETS:
        for slots in (2, 4):
            write_replay(folder / f"{policy}_{slots}", policy, slots=slots, ask=policy == "importance")
    (folder / "failed").mkdir()
    (folder / "failed" / "x.json").write_text('{"overrides": ["policy=daop"], "error": "it lacks <scores>"}')
    return folder


@pytest.fixture(scope="session")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m sim validate` writes."""
    folder = tmp_path_factory.mktemp("validation")
    times = {"measured_s": [0.1], "measured_low": [0.09], "measured_high": [0.11],
             "predicted_s": [0.12], "predicted_low": [0.1], "predicted_high": [0.13]}  # fmt: skip
    pd.DataFrame({"setting": ["lru, 4 slots"], **times}).to_csv(folder / "validation.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def page(sweep: Path, validation: Path) -> Path:
    """The report of that sweep."""
    from sim.commands.report import main

    out = sweep.parent / "report.html"
    assert main([str(sweep), f"out={out}", f"validation={validation}"]) == 0
    return out
