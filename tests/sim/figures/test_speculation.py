"""The figure of drafts: its lines and its sentence from chosen values."""

import pytest

from sim.figures.drawing import MissingData
from sim.figures.drawings.speculation import says, speculation
from tests.support.tables import legend, run, study_of


def row(drafts, speed, union):
    measures = {"decode.tokens_per_s": speed, "decode.union_size": union}
    ends = {f"{name}{end}": value for name, value in measures.items() for end in (".low", ".high")}
    return run("lru", overrides=(f"speculate.tokens={drafts}",), **measures, **ends)


def test_a_line_over_drafts_and_where_it_is_fastest():
    table = study_of(row(0, 50.0, 4.0), row(1, 60.0, 6.2), row(3, 55.0, 9.3))
    figure = speculation(table, 2)
    speeds, unions = figure.axes
    assert speeds.get_yscale() == "log" and speeds.get_ylabel().startswith("Tokens per second of decoding")
    assert next(line.get_ydata().tolist() for line in unions.get_lines()) == [4.0, 6.2, 9.3]
    assert legend(figure) == ["lru"]
    assert says(table.assign(line="lru", knob=[0.0, 1.0, 3.0])) == (
        "Drafts at which each line is fastest: lru 1 (+20 %)."
    )


def test_it_needs_runs_that_differ_in_their_drafts():
    with pytest.raises(MissingData, match=r"experiment=speculation"):
        speculation(study_of(row(1, 50.0, 4.0), row(2, 60.0, 6.2)), 2)
