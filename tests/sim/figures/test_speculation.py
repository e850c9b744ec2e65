"""The figure of drafts: its lines and its sentence from chosen values."""

import pytest

from sim.figures.drawing import MissingData
from sim.figures.drawings.speculation import looks_of, says, speculation
from tests.support.tables import legend, run, study_of


def row(drafts, speed, union):
    measures = {"decode.tokens_per_s": speed, "decode.union_size": union}
    ends = {f"{name}{end}": value for name, value in measures.items() for end in (".low", ".high")}
    return run("lru", overrides=(f"speculate.tokens={drafts}",), **measures, **ends)


def test_a_line_over_drafts_and_where_it_is_fastest():
    table = study_of(row(0, 50.0, 4.0), row(1, 60.0, 6.2), row(3, 55.0, 9.3))
    figure = speculation(table, 2)
    speeds, unions = figure.axes
    assert speeds.get_yscale() == "log" and speeds.get_ylabel().startswith("Tokens per second")
    assert next(line.get_ydata().tolist() for line in unions.get_lines()) == [4.0, 6.2, 9.3]
    assert legend(figure) == ["lru"]
    assert says(table.assign(line="lru", knob=[0.0, 1.0, 3.0])) == (
        "Drafts at which each line is fastest: lru 1 (+20 %)."
    )


def test_a_policy_keeps_its_colour_and_every_line_differs():
    """Two lines of each policy: one colour and marker, two dashes."""
    rows = [
        run(f"{policy} speculate.rejected={rejected}", overrides=(f"speculate.tokens={drafts}",))
        for policy in ("lru", "llama_cpp")
        for rejected in ("other", "recorded")
        for drafts in (0, 1, 3)
    ]
    table = study_of(*rows)
    looks = looks_of(table.assign(line=table["contender"]))
    assert len(looks) == 4
    for policy in ("lru", "llama_cpp"):
        one, two = (looks[f"{policy} speculate.rejected={rejected}"] for rejected in ("other", "recorded"))
        assert (one["color"], one["marker"]) == (two["color"], two["marker"])
        assert one["linestyle"] != two["linestyle"] and one["fillstyle"] != two["fillstyle"]
    assert len({look["color"] for look in looks.values()}) == 2


def test_speeds_within_a_decade_have_numbers_at_several_places():
    figure = speculation(study_of(row(0, 35.0, 4.0), row(1, 60.0, 6.2), row(3, 95.0, 9.3)), 2)
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels() if low <= label.get_position()[1] <= high]
    assert shown == ["50", "70"]


def test_it_needs_runs_that_differ_in_their_drafts():
    with pytest.raises(MissingData, match=r"experiment=speculation"):
        speculation(study_of(row(1, 50.0, 4.0), row(2, 60.0, 6.2)), 2)
