"""A policy looks the same in every figure of a folder; what a reader asks of figures is done or refused."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from sim.figures.asked import Asked, read_limits, read_names, read_size, read_style
from sim.figures.conclusions import fastest
from sim.figures.drawings.capacity import capacity
from sim.figures.drawings.setups import tpot_by_policy
from sim.figures.looks import bar_fill, line_look
from sim.figures.registry import FIGURES, drawn
from sim.figures.run_settings import knob_axis, once
from sim.figures.style import notes_drawn, said_of
from tests.support.tables import legend, run, study_of
from traces.errors import UserError


@pytest.fixture
def table():
    policies = {"dali": 20.0, "importance": 15.0, "lru": 40.0, "belady": 25.0}
    return study_of(
        *(
            run(name, tpot / share**0.5, capacity=share, eviction="belady" if name == "belady" else "lru")
            for name, tpot in policies.items()
            for share in (0.25, 0.5)
        )
    )


def colours(figure):
    """Name in the legend -> colour."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    return {
        name: to_hex(handle.lines[0].get_color() if hasattr(handle, "lines") else handle.patches[0].get_facecolor())
        for handle, name in zip(handles, names, strict=True)
    }


def test_a_policy_has_one_colour_in_lines_and_bars_whatever_is_shown_beside_it(table):
    lines, bars = colours(capacity(table)), colours(tpot_by_policy(table))
    assert lines == bars
    few = colours(capacity(Asked(policies=["lru", "belady"]).chosen(table)))
    assert few == {name: lines[name] for name in ("belady", "lru")}
    assert len(set(lines.values())) == 4
    grey = lines["belady"][1:]
    assert grey[:2] == grey[2:4] == grey[4:]


def test_looks_of_many_policies_differ_in_colour_or_dashes_and_marker():
    table = study_of(*(run(f"p{place:02}") for place in range(60)))
    lines = [line_look(table[table["contender"] == name]) for name in table["contender"]]
    assert len({(look["color"], str(look["linestyle"]), look["marker"]) for look in lines}) == 60
    fills = [bar_fill(table[table["contender"] == name]) for name in table["contender"]]
    assert all(one != other for one, other in pairwise(fills))


def test_runs_that_use_no_capacity_appear_once(table):
    idle = study_of(*(run("all_resident", 3.0, capacity=1.0, trace_hash="a", residency="all") for _ in range(3)))
    assert len(once(idle)) == 1
    assert len(once(table.assign(residency="cache"))) == len(table)


def test_order_and_names_are_those_asked_for(table):
    asked = Asked(policies=["lru", "importance"], order=["lru", "importance"], names={"importance": "SMoE"})
    figure = capacity(asked.chosen(table))
    assert legend(figure) == ["lru", "SMoE"]
    assert said_of(figure).conclusion.startswith("SMoE is fastest in both cases: 62 % less time per token than lru")


def test_axes_have_the_ends_and_figures_the_size_asked_for(table):
    asked = Asked(limits={"tpot_s.mean": (0.0, 200.0)}, size_in=(5.0, 2.5), notes=False)
    figure = drawn(FIGURES["capacity"], table.assign(layers=6, model_layers=27), 2, asked, {})
    assert figure.axes[1].get_ylim() == (0.0, 200.0)
    assert tuple(figure.get_size_inches()) == (5.0, 2.5)
    assert figure.axes[1].get_ylabel() == "Time per output token (ms),\nfor 6 of 27 layers"
    assert not figure.texts and said_of(figure).note.startswith("SIMULATED")


def test_without_notes_a_figure_is_lower(table):
    with notes_drawn(False):
        plain = capacity(table)
    noted = capacity(table)
    assert plain.get_size_inches()[1] < noted.get_size_inches()[1]
    assert said_of(plain) == said_of(noted) and said_of(plain).conclusion == fastest(table)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("hardware.link_bytes_per_s", ("link bandwidth", "GB/s")),
        ("runtime.host_s_per_layer", ("host time", "ms per layer")),
        ("hardware.gpu_flops_per_s", ("GPU rate", "TFLOP/s")),
        ("hardware.gpu_memory_bytes", ("GPU memory size", "MB")),
        ("policy.window_steps", ("window steps", "")),
        ("batch_size", ("batch size", "")),
    ],
)
def test_knobs_have_words_and_units(key, words):
    assert knob_axis(key)[:2] == words


def test_a_rule_of_ones_own_is_chosen_by_its_file(table):
    own = table.assign(series=table["series"].where(table["policy"] != "dali", "lru eviction=mine.py"))
    for name in ("mine", "mine.py", "lru eviction=mine.py"):
        assert set(Asked(policies=(name,)).chosen(own)["policy"]) == {"dali"}


def test_a_policy_as_it_is_comes_before_all_runs_of_it(table):
    changed = table[table["policy"] == "dali"].assign(
        **dict.fromkeys(("contender", "series", "name"), "dali eviction=lru")
    )
    both = pd.concat([table, changed], ignore_index=True)
    assert set(Asked(policies=("dali",)).chosen(both)["series"]) == {"dali"}
    assert set(Asked(policies=("dali eviction=lru",)).chosen(both)["series"]) == {"dali eviction=lru"}
    assert set(Asked(policies=("dali",)).chosen(changed)["series"]) == {"dali eviction=lru"}


def test_words_under_a_figure_of_a_chosen_size_stand_below_each_other(table):
    asked = Asked(size_in=(3.35, 3.6))
    figure = drawn(FIGURES["capacity"], table, 1, asked, {})
    width, height = figure.get_size_inches()
    assert width == 3.35 and height > 3.6
    figure.draw_without_rendering()
    note, conclusion = (text.get_window_extent() for text in figure.texts)
    panels = min(panel.get_tightbbox().y0 for panel in figure.axes)
    assert note.y0 >= 0 and note.y1 <= conclusion.y0 and conclusion.y1 <= panels


def test_what_cannot_be_asked_is_refused(table, tmp_path):
    with pytest.raises(UserError, match="no run is of fifo; the runs are of dali"):
        Asked(policies=["fifo"]).chosen(table)
    for read, words, sentence in (
        (read_limits, "x:0:1", "no axis shows x"),
        (read_limits, "capacity:0", "must be NAME:LOW:HIGH"),
        (read_limits, "capacity:9:1", "below the high end"),
        (read_limits, "capacity:nan:1", "must be NAME:LOW:HIGH"),
        (read_size, "3", "must be WIDTHxHEIGHT"),
        (read_size, "0x2", "from 0.5 to 40 inches"),
        (read_names, "lru", "must be POLICY:NAME"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(words)
    style = tmp_path / "own.mplstyle"
    for text, sentence in (
        ("figure.hooks: os:system", "figure.hooks is not taken"),
        ("no.such: 1", "no.such is no setting"),
        ("font.size: x", "is no style file"),
        ("", "holds no setting"),
    ):
        style.write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_style(style)
    style.write_text("font.size: 10")
    assert read_style(style) == {"font.size": 10.0}
    with pytest.raises(UserError, match="is no file"):
        read_style(tmp_path / "none")


def test_the_conclusion_counts_cases_and_names_the_next(table):
    assert fastest(table) == (
        "importance is fastest in both cases: 25 % less time per token than dali and 62 % less time per token than lru."
    )
    assert np.isfinite(table["look"]).all()
