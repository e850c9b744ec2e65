"""What figures say in a sentence, and what they leave out."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.asked import Asked
from sim.figures.chart_parts import first_rows
from sim.figures.conclusions import along, best, gap_to_belady, largest_part
from sim.figures.drawings.attribution import MOST_PANELS, first_capacities
from sim.figures.labels import fit_labels
from sim.figures.notes import machine_words, marked, other_bars, spread
from sim.figures.one_capacity import capacity_words, one_capacity
from sim.figures.registry import FIGURES, drawn
from sim.results.table import AND, FIRST_ORDER, METHOD
from tests.support.tables import legend, run, study_of

SHARES = (0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)


def swept():
    """Three policies, the last not the fastest, at several capacities, and the bounds that know none."""
    runs = [run(name, time / share, capacity=share) for name, time in (("a", 5.0), ("lru", 9.0)) for share in SHARES]
    return study_of(*runs, run("all_resident", 1.0, capacity=1.0), run("on_demand", 99.0, capacity=0.0))


def test_bounds_without_a_capacity_do_not_choose_the_capacity():
    kept = one_capacity(swept())
    assert dict(zip(kept["contender"], kept["capacity"], strict=True)) == {
        "all_resident": 1.0,
        "on_demand": 0.0,
        "a": 0.25,
        "lru": 0.25,
    }


def test_bounds_that_stand_in_one_panel_take_nobody_s_place():
    others = [run(f"p{place}", 10.0 + place, capacity=share) for place in range(6) for share in (0.25, 0.5)]
    table = study_of(*others, run("all_resident", 1.0, capacity=1.0), run("on_demand", 99.0, capacity=0.0))
    assert first_rows(table)[1] == ""
    many = [run(f"p{place}", 10.0 + place, capacity=share) for place in range(7) for share in SHARES]
    kept, title = first_rows(study_of(*many, run("all_resident", 1.0, capacity=1.0)))
    assert "all_resident" in set(kept["contender"])
    assert title == "The fastest 6 of 7 policies, bounds and baseline among them; left out: p5"  # p6 is the slowest


def test_of_many_capacities_a_few_are_shown_the_usual_one_among_them():
    shown, title = first_capacities(swept())
    assert title == f"{MOST_PANELS} of 5 capacities"
    inner = set(shown.loc[shown["policy"] == "lru", "capacity"])
    assert len(inner) == MOST_PANELS and 0.25 in inner and 1.0 not in inner
    assert {"all_resident", "on_demand"} <= set(shown["contender"])
    few = swept()[lambda table: table["capacity"].isin((0.25, 0.5))]
    assert first_capacities(few)[1] == ""


def test_a_lead_that_rounds_to_nothing_is_said_to_be_none():
    alike = study_of(run("a", 10.0), run("b", 10.01), run("lru", 10.02))
    assert best(alike, "tpot_s.mean", "is fastest", "less time than") == "All 3 policies are alike in this, to 1 %."
    two = study_of(run("a", 10.0), run("lru", 10.01))
    assert best(two, "tpot_s.mean", "is fastest", "less").startswith("Both policies are alike")
    close = study_of(run("a", 10.0), run("b", 10.01), run("lru", 20.0))
    assert best(close, "tpot_s.mean", "is fastest", "less time than") == (
        "a is fastest: under 1 % less time than b and 50 % less time than lru."
    )


def test_where_belady_s_rule_is_passed_the_sentence_says_where():
    def pair(share, ceiling, live):
        bound = run("belady", capacity=share, eviction="belady", **{"decode.hit_rate": ceiling})
        return [bound, run("lru", capacity=share, **{"decode.hit_rate": live})]

    assert gap_to_belady(study_of(*pair(0.25, 0.6, 0.5))).endswith("stays 10 points below Belady's.")
    said = gap_to_belady(study_of(*pair(0.0625, 0.1, 0.13), *pair(0.25, 0.6, 0.5)))
    assert "stays 10 points below Belady's; not at 6.25 % of the experts" in said


def test_what_a_knob_does_to_contenders_is_a_fall_a_growth_or_a_change():
    def table(*ends):
        rows = [(name, at, time) for name, *times in ends for at, time in zip((1.0, 2.0), times, strict=True)]
        found = study_of(*(run(name, time) for name, _, time in rows))
        return found.assign(line=[name for name, _, _ in rows], knob=[at for _, at, _ in rows])

    words = "From the least to the largest rate the time per token"
    assert along(table(("a", 10.0, 5.0), ("b", 10.0, 2.0)), "knob", "rate") == f"{words} falls by 50 to 80 %."
    assert along(table(("a", 10.0, 12.0)), "knob", "rate") == f"{words} grows by 20 %."
    assert along(table(("a", 10.0, 40.0)), "knob", "rate") == f"{words} grows 4.0 times."
    assert along(table(("a", 10.0, 9.0), ("b", 10.0, 12.0)), "knob", "rate") == f"{words} changes by -10 to +20 %."


def test_the_largest_part_is_that_of_the_usual_capacity():
    parts = {"time_s_per_token.link": 0.002, "time_s_per_token.host": 0.001}
    table = study_of(run("a", 10.0, capacity=0.25, **parts), run("a", 1.0, capacity=0.9, **parts))
    assert largest_part(table, {"link": "waiting", "host": "host"}).startswith("Fastest is a at 25 %")


def test_a_label_that_is_longer_than_its_panel_is_broken():
    figure = Figure(figsize=(3, 1.2), layout="constrained")
    panel = figure.subplots()
    panel.set_ylabel("Time per output token (ms),\nfor 6 of 27 layers")
    fit_labels(figure)
    assert panel.get_ylabel().replace("\n", " ") == "Time per output token (ms), for 6 of 27 layers"
    assert panel.get_ylabel().count("\n") > 1
    figure.draw_without_rendering()
    assert panel.yaxis.get_label().get_window_extent().height <= panel.get_window_extent().height


def test_counts_of_draws_are_listed_while_they_are_few():
    assert spread([6, 18]) == "6 or 18"
    assert spread([1, 2, 3, 24]) == "1 to 24"


def test_a_best_value_between_the_ends_of_a_knob_is_named():
    times = {"a": (10.0, 9.0, 9.95), "b": (10.0, 9.5, 9.0)}
    rows = [(name, at, time) for name, found in times.items() for at, time in zip((2, 8, 16), found, strict=True)]
    table = study_of(*(run(name, time) for name, _, time in rows))
    table = table.assign(line=[name for name, _, _ in rows], knob=[at for _, at, _ in rows])
    assert along(table, "knob", "window").endswith(
        " It is least between the ends for a at 8, 9.5 % below the better end."
    )


def test_a_figure_of_one_capacity_names_the_others():
    table = study_of(*(run(name, 10.0, capacity=share) for name in ("a", "b") for share in (0.125, 0.25)))
    shown = table[table["capacity"] == 0.25]
    assert capacity_words(shown, table) == "At 25 % of the experts (runs at 12.5 % are not shown)"
    assert capacity_words(shown, shown) == ""


def test_several_ways_to_count_in_the_machine_are_one_phrase():
    methods = [METHOD + AND + "24 plausible machines", METHOD + FIRST_ORDER]
    assert machine_words(pd.DataFrame({"interval_method": methods})) == (
        " and 24 plausible machines or the machine's errors by first order"
    )


def test_a_rule_of_ones_own_that_is_not_the_best_is_in_the_sentence():
    own = "lru eviction=mine.py"
    table = study_of(run("importance", 10.0), run("lru", 20.0), run(own, 19.7))
    assert best(table, "tpot_s.mean", "is fastest", "less time than").endswith(f"than lru. {own}: -1.5 % beside lru.")
    assert "beside" not in best(table[table["contender"] != "lru"], "tpot_s.mean", "is fastest", "less time than")


def test_bars_of_another_kind_have_a_dagger():
    methods = [METHOD + AND + "24 plausible machines", METHOD + FIRST_ORDER]
    mixed = study_of(run("lru"), run("lru eviction=own.py")).assign(interval_method=methods)
    assert list(marked(mixed)["name"]) == ["lru", "lru eviction=own.py \u2020"]
    assert "Not replayed on plausible machines (lru eviction=own.py)" in other_bars(mixed)
    assert "lru eviction=own.py \u2020" in legend(drawn(FIGURES["tpot_by_policy"], mixed, 1, Asked(), {}))
    alike = mixed.assign(interval_method=METHOD + FIRST_ORDER)
    assert list(marked(alike)["name"]) == list(alike["name"]) and other_bars(alike) == ""
