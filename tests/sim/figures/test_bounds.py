"""What-if bars and the validation scatter, and what broken files say."""

import json

import numpy as np
import pandas as pd
import pytest

from sim.figures.drawing import MissingData
from sim.figures.drawings.bounds import FILE, scenarios, what_if
from sim.figures.drawings.validation import validation
from sim.figures.style import said_of
from sim.figures.validation_table import read_validation
from tests.support.tables import footnote_of, run, study_of, widths, words
from traces.errors import UserError

ANSWERS = {
    "baseline": {"tpot_s": 0.04, "hit_rate": 0.5},
    "scenarios": [
        {"name": "infinite link", "tpot_s": 0.03, "change": -0.25, "refused": None},
        {"name": "oracle eviction", "tpot_s": None, "change": None, "refused": "it cannot"},
    ],
    "binding": "what binds is the link",
    "bound": "link-bound",
}
ROWS = {
    "setting": ["a", "b"], "measured_s": [0.1, 0.01], "measured_low": [0.09, 0.01], "measured_high": [0.12, 0.01],
    "predicted_s": [0.12, 0.0095], "predicted_low": [0.11, 0.009], "predicted_high": [0.13, 0.01],
}  # fmt: skip


def test_every_scenario_is_a_bar_with_its_change(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(ANSWERS))
    runs = study_of(run("lru", folder=str(tmp_path)), run("belady"))
    assert list(scenarios(runs)["scenario"]) == ["as it is", "infinite link", "oracle eviction"]
    (panel,) = what_if(runs, 1).axes
    assert widths(panel) == [[40, 30, 0]]
    assert words(panel) == ["40.0", "30.0 (-25 %)", "not possible"]
    assert panel.get_xlabel() == "Time per output token (ms)"
    assert panel.get_title(loc="left") == "lru, capacity 25 %"


def test_runs_that_did_not_ask_what_if(tmp_path):
    with pytest.raises(MissingData, match="python -m sim run engine=compiled what_if=true"):
        what_if(study_of(run("lru")))
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match="is broken"):
        scenarios(study_of(run("lru", folder=str(tmp_path))))


def test_predictions_stand_against_measurements(tmp_path):
    (tmp_path / "deep").mkdir()
    pd.DataFrame(ROWS).to_csv(tmp_path / "deep" / "validation.csv", index=False)
    figure = validation(read_validation(tmp_path), 1)
    (panel,) = figure.axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("Measured time (ms)", "Predicted time (ms)")
    handles, names = panel.get_legend_handles_labels()
    points = dict(zip(names, handles, strict=True))["settings"]
    np.testing.assert_allclose(points.lines[0].get_xydata(), [[100, 120], [10, 9.5]])
    across, up = points.lines[2]
    np.testing.assert_allclose(across.get_segments()[0][:, 0], [90, 120])
    np.testing.assert_allclose(up.get_segments()[0][:, 1], [110, 130])
    assert footnote_of(figure).startswith("MEASURED times beside SIMULATED ones, 2 settings")
    assert "at most 12.5 %; the largest error is +20.0 %" in said_of(figure).conclusion
    assert panel.get_xlim() == panel.get_ylim()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.drop(columns="predicted_low"), "lacks the column predicted_low: it must have setting"),
        (lambda table: table.assign(measured_s=["x", "y"]), "the column measured_s must hold seconds"),
    ],
)
def test_a_broken_validation_is_refused(tmp_path, change, sentence):
    change(pd.DataFrame(ROWS)).to_csv(tmp_path / "validation.csv", index=False)
    with pytest.raises(UserError, match=sentence):
        read_validation(tmp_path)


def test_no_validation_names_the_command(tmp_path):
    with pytest.raises(MissingData, match="python -m sim validate writes it"):
        read_validation(tmp_path)
