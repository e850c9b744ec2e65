"""Prefetches, link, CPU and the Pareto front: values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from sim.figures.drawing import MissingData
from sim.figures.drawings.pareto import front, pareto
from sim.figures.drawings.prefetches import prefetch_accuracy
from sim.figures.drawings.supply import link_and_cpu, link_time, with_link_time
from sim.figures.measures import measures_of
from sim.statistics.run_sample import Run
from tests.support.tables import footnote_of, legend, run, study_of, widths

COPIES = {
    f"decode.{name}_per_step{end}": value * factor
    for name, value in (("bytes", 3e7), ("copies", 5.0)) for end, factor in (("", 1.0), (".low", 0.5), (".high", 2.0))
}  # fmt: skip
LINK = {"link_bytes_per_s": 1e10, "link_latency_s": 1e-4}


def test_measures_of_decode_steps_by_hand():
    blocks = pd.DataFrame(
        {"copied_bytes": [100, 300], "demand_copies": [1, 2], "prefetch_copies": [0, 1], "steps": [2, 2],
         "num_tokens": [2, 6], "prefetch_used": [0, 2], "prefetch_late": [0, 0], "prefetch_wasted": [0, 0],
         "prefetch_abandoned": [0, 0], "group": [0, 1], "phase": 1}
    )  # fmt: skip

    def measured(blocks):
        return measures_of(Run("lru", blocks, pd.DataFrame()))

    found = measured(blocks)
    assert found["decode.bytes_per_step"] == 100
    assert found["decode.copies_per_step"] == 1
    assert found["decode.used_per_token"] == 0.25
    assert found["decode.bytes_per_step.low"] < 100 < found["decode.bytes_per_step.high"]
    alike = measured(pd.concat([blocks.assign(group=[2 * i, 2 * i + 1]) for i in range(3)]).assign(copied_bytes=200))
    assert [alike[f"decode.bytes_per_step{end}"] for end in ("", ".low", ".high")] == [100, 100, 100]
    assert np.isnan(measured(blocks.drop(columns="copied_bytes"))["decode.bytes_per_step"])


def test_time_on_the_link_is_bytes_over_rate_and_a_latency_per_copy():
    found = with_link_time(study_of(run("lru", **COPIES, **LINK))).iloc[0]
    assert found["link_s"] == pytest.approx(3e-3 + 5e-4)
    assert found["link_s.high"] == pytest.approx(2 * 3.5e-3)
    figure = link_time(study_of(run("lru", 40.0, **COPIES, **LINK)), 2)
    (panel,) = figure.axes
    assert widths(panel) == [[3.5], [40.0]]
    assert panel.get_xlabel() == "Time per decode step (ms)"
    assert legend(figure) == ["copies on the link", "time per output token"]
    with pytest.raises(MissingData, match="figure=link_time needs runs with a clock"):
        link_time(study_of(run("lru")))


def test_link_and_cpu_show_busy_shares_and_waits():
    known = {
        "link_utilisation": 0.6,
        "cpu_utilisation": 0.1,
        "time_s_per_token.link": 4e-3,
        "time_s_per_token.cpu": 0.0,
    }
    busy, waits = link_and_cpu(study_of(run("lru", **known)), 2).axes
    assert widths(busy) == [[60], [10]]
    assert widths(waits) == [[4], [0]]
    assert busy.get_xlabel() == "Busy share of the time, prefill included (%)"
    assert waits.get_xlabel() == "Waiting for it per decode token (ms)"
    with pytest.raises(MissingData, match="figure=link_and_cpu needs runs with a clock"):
        link_and_cpu(study_of(run("lru")))


def test_prefetches_by_how_they_ended():
    ends = {"used": 3.0, "late": 1.0, "wasted": 1.0, "abandoned": 0.0}
    known = {f"decode.{end}_per_token": amount for end, amount in ends.items()}
    known |= {"decode.prefetch_precision": 0.8, "decode.prefetch_precision.low": 0.7,
              "decode.prefetch_precision.high": 0.9, "decode.prefetches_per_token": 5.0}  # fmt: skip
    idle = {"decode.prefetch_precision": np.nan, "decode.prefetches_per_token": 0.0}
    figure = prefetch_accuracy(study_of(run("importance", **known), run("lru", **idle)), 2)
    share, amount = figure.axes
    assert widths(share) == [[80]]
    assert widths(amount) == [[3], [1], [1]]
    assert legend(figure) == ["in time", "demanded while on the link", "not demanded"]
    with pytest.raises(MissingData, match="needs a policy that prefetches"):
        prefetch_accuracy(study_of(run("lru", **idle)))


def test_the_front_holds_what_nothing_beats():
    times, costs = np.array([1.0, 2.0, 3.0, 2.0, 1.0]), np.array([5.0, 3.0, 1.0, 4.0, 5.0])
    assert front(times, costs).tolist() == [True, True, True, False, True]  # equal points do not beat each other


def test_the_pareto_front_leaves_out_who_sees_the_future():
    def lost(share: float) -> dict[str, float]:
        return {"decode.lost_gate_mass": share}

    table = study_of(
        run("importance", 20.0, **lost(0.2)), run("lru", 40.0, **lost(0.0)), run("cache_prior", 30.0, **lost(0.3)),
        run("belady", 10.0, eviction="belady", **lost(0.0)), run("all_resident", 5.0, capacity=1.0),
    )  # fmt: skip
    figure = pareto(table, 2)
    (panel,) = figure.axes
    line = next(line for line in panel.lines if line.get_label() == "not beaten in both")
    np.testing.assert_allclose(line.get_xydata(), [[20, 20], [40, 0]])
    assert panel.get_ylabel().replace("\n", " ") == "Gate mass not executed as routed, decode (%)"
    assert "a proxy for quality" in footnote_of(figure)
    measured_too = table.assign(**{"quality.perplexity_ratio": [1.1, 1.0, 1.2, 1.0, 1.0]})
    (panel,) = pareto(measured_too, 1).axes
    assert panel.get_ylabel().startswith("Perplexity")
    with pytest.raises(MissingData, match="at least two runs with a clock"):
        pareto(table.head(1))
