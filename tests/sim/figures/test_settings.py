"""What runs were set to, read from their configuration, and the number they were swept over."""

import json

import numpy as np
import pandas as pd
import pytest

from sim.figures.chart_parts import SHOWN_LINES, SHOWN_ROWS, first_lines, first_rows
from sim.figures.drawing import MissingData
from sim.figures.drawings.knob import knob, swept
from sim.figures.run_settings import add_settings, contender, rule_name, settings_of
from tests.support.tables import legend, run, study_of

POLICY = {
    "eviction": {"_target_": "policies.eviction.belady.Belady"},
    "substitution": {"_target_": "policies.substitution.score_band.ScoreBand", "alpha": 0.3},
    "prefetch": {"_target_": "policies.prefetch.top_score.TopScore"}, "residency": "cache", "alpha": 0.35,
}  # fmt: skip


def test_settings_of_a_configuration():
    found = settings_of(
        {"policy": POLICY, "hardware": {"link_bytes_per_s": 1e9}, "trace": {"labels": ["code", "prose"]}}
    )
    assert (found["eviction"], found["substitution"], found["prediction"]) == ("belady", "score_band", None)
    assert (found["alpha"], found["workload"], found["link_bytes_per_s"]) == (0.3, "code+prose", 1e9)
    assert found["sees_future"] is True
    assert (
        settings_of({"policy": POLICY | {"eviction": {"_target_": "policies.eviction.lru.Lru"}}})["sees_future"]
        is False
    )
    assert set(settings_of({}).values()) == {None, False}


def test_a_contender_keeps_what_belongs_to_the_policy():
    series = "importance hardware=s3 batch_size=3 trace.labels=[code] eviction=lru policy.alpha=0.2 hardware.launch_s=1"
    assert contender(series) == "importance eviction=lru policy.alpha=0.2"


def test_figures_of_the_machine_name_the_set_up(tmp_path):
    rows = []
    for place, rate in enumerate((6e9, 12e9)):
        (tmp_path / str(place)).mkdir()
        (tmp_path / str(place) / "provenance.json").write_text(json.dumps({"config": {"policy": POLICY}}))
        rows.append({"folder": str(tmp_path / str(place)), "series": f"lru hardware.link_bytes_per_s={rate}",
                     "trace": "demo", "hardware": "s1", "model": "small", "batch_size": 1})  # fmt: skip
    found = add_settings(pd.DataFrame(rows))
    assert list(found["setup"]) == ["s1 link bandwidth 6 GB/s", "s1 link bandwidth 12 GB/s"]
    assert list(found["name"]) == ["lru, s1 link bandwidth 6 GB/s", "lru, s1 link bandwidth 12 GB/s"]
    assert list(found["contender"]) == ["lru", "lru"]


def test_the_number_with_the_most_values_is_the_axis():
    rows = [
        run(name, tpot, setup=f"s1 link bandwidth {rate / 1e9:g} GB/s",
            overrides=(f"policy={name}", f"hardware.link_bytes_per_s={rate}", "cache.fraction=0.25"))
        for name, tpot in (("lru", 40.0), ("importance", 20.0)) for rate in (6e9, 12e9, 26e9)
    ]  # fmt: skip
    table = study_of(*rows)
    assert list(swept(table)) == ["hardware.link_bytes_per_s"]
    figure = knob(table, 2)
    times, hits = figure.axes
    assert legend(figure) == ["importance", "lru"]
    assert times.get_xlabel() == "Link bandwidth (GB/s)"
    assert (times.get_ylabel(), hits.get_ylabel()) == ("Time per output token (ms)", "Hit rate, decode steps (%)")
    handles, _ = times.get_legend_handles_labels()
    np.testing.assert_allclose(handles[1].lines[0].get_xydata(), [[6, 40], [12, 40], [26, 40]])
    assert not [label for label in times.get_xticklabels() if "$" in label.get_text()]
    with pytest.raises(MissingData, match="at three values at least: python -m sim run -m"):
        knob(table[~table["setup"].str.endswith(" 6 GB/s")])


def test_of_many_runs_the_fastest_are_named():
    table = study_of(*(run(f"p{place}", 100.0 - place) for place in range(SHOWN_ROWS + 3)))
    kept, title = first_rows(table)
    assert len(kept) == SHOWN_ROWS
    assert list(kept["contender"])[:2] == ["p26", "p25"] and "p0" in set(kept["contender"])  # the slowest: the baseline
    assert title == "The fastest 24 of 27 policies, bounds and baseline among them"
    assert first_rows(kept)[1] == ""
    kept, title = first_lines(table, "contender")
    assert (kept["contender"].nunique(), title[:24]) == (SHOWN_LINES, "The fastest 16 of 27 lin")
    assert {"p26", "p0"} <= set(kept["contender"])


def test_what_is_left_out_is_never_lru_nor_a_bound():
    others = [run(f"p{place}", 30.0 + place / 10, capacity=share) for place in range(30) for share in (0.25, 0.5)]
    table = study_of(*others, run("lru", 90.0), run("lru", 80.0, capacity=0.5), run("belady", 70.0, eviction="belady"))
    kept, _ = first_rows(table)
    assert {"lru", "belady", "p0"} <= set(kept["contender"])
    assert kept[kept["capacity"] == 0.5]["contender"].nunique() == kept["contender"].nunique() - 1  # belady has one


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("policies.eviction.belady.Belady", "belady"), ("policies.eviction.belady:Belady", "belady"),
        ("/a/rule.py:Mine", "rule"), ("mine", "mine"), ("", None), (None, None), (7, "7"),
    ],
)  # fmt: skip
def test_the_name_of_a_rule_whatever_names_it(target, name):
    assert rule_name({"_target_": target}) == name
