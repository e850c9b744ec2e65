"""Statistics of run folders: what is compared with what, and that the sums kept are those of the steps."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.metrics.block_sums import BlockSums
from sim.metrics.registry import QUANTITIES
from sim.metrics.step_table import StepTable
from sim.results.comparisons import compared, comparisons
from sim.results.differences import difference_lines
from sim.results.series import is_plain
from sim.results.table import collect
from sim.statistics.run_sample import Run, value_of
from tests.sim.figures.test_plots import write_run
from tests.support.random_traces import random_trace
from tests.support.replays import replay_of
from traces.errors import UserError


@pytest.mark.parametrize("policy", ["lru", "importance"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_metric_of_the_blocks_is_the_one_of_the_run(policy, batch_size):
    trace = random_trace(0, prompts=(4, 3, 5, 2), decodes=(7, 2, 9, 1))
    replay = replay_of(trace, policy, slots_per_layer=3, batch_size=batch_size)
    table = StepTable(replay)
    table.run()
    sums = BlockSums(trace.num_layers, replay.pools.slots())
    columns = table.columns()
    half = len(table) // 2
    for piece in (slice(0, half), slice(half, None)):
        sums.write({name: column[piece] for name, column in columns.items()})
    run = Run(policy, pd.DataFrame(sums.columns()), pd.DataFrame(table.requests()))
    assert len(run.groups()) == 4 // batch_size
    for name in QUANTITIES:
        expected = table.metrics()[name]
        found = value_of(run, name)
        assert np.isnan(found) if expected is None else found == pytest.approx(expected, rel=1e-12), name


def sweep(folder: Path) -> Path:
    for i, (policy, share) in enumerate((p, s) for s in (0.25, 0.5) for p in ("lru", "belady", "importance")):
        write_run(folder / str(i), policy, share)
    return folder


def test_policies_are_compared_at_equal_capacity_and_corrected_together(tmp_path):
    pairs = comparisons(collect(sweep(tmp_path)), "hit_rate")
    assert len(pairs) == 6 and pairs["conditions"].nunique() == 2
    expected = {("belady", "importance"), ("belady", "lru"), ("importance", "lru")}
    for _, group in pairs.groupby("capacity"):
        assert set(zip(group["series"], group["against"], strict=True)) == expected
    smallest = pairs["p"].idxmin()
    assert pairs["p_holm"][smallest] == pytest.approx(min(1, 6 * pairs["p"][smallest]))
    assert len(comparisons(collect(tmp_path), "tpot_s.mean", baseline="lru")) == 4
    with pytest.raises(UserError, match="baseline=fifo is neither a policy nor a series"):
        comparisons(collect(tmp_path), "hit_rate", baseline="fifo")


OWN = {"eviction": {"_target_": "/rules/spared_lru.py:SparedLru"}}


def windows(folder: Path, *values: int) -> Path:
    """Runs of a rule of one's own at several values of its knob."""
    for value in values:
        words = ("policy/eviction=spared_lru.py", f"policy.eviction.window={value}")
        run = write_run(folder / str(value), "lru", 0.25, overrides=words)
        provenance = json.loads((run / "provenance.json").read_text())
        provenance["config"] = {"policy": OWN}
        (run / "provenance.json").write_text(json.dumps(provenance))
    return folder


def test_a_rule_of_ones_own_is_in_every_name_and_knobs_are_sorted_as_numbers(tmp_path):
    table = collect(windows(tmp_path, 16, 2, 8))
    assert list(table["series"]) == [f"lru eviction=spared_lru.py policy.eviction.window={n}" for n in (2, 8, 16)]
    assert list(collect(windows(tmp_path / "one", 4))["series"]) == ["lru eviction=spared_lru.py"]


def test_a_baseline_is_never_one_of_several_that_differ(tmp_path):
    table = collect(windows(tmp_path, 2, 8))
    with pytest.raises(UserError, match=r"no run is the plain policy lru; baseline=SERIES takes one of lru eviction=s"):
        comparisons(table, "hit_rate", baseline="lru")
    with pytest.raises(UserError, match=r"is a rule of several series: name one of .*=2, .*=8$"):
        comparisons(table, "hit_rate", baseline="spared_lru")
    for name in ("fifo", "spare"):
        with pytest.raises(UserError, match=f"baseline={name} is neither") as caught:
            comparisons(table, "hit_rate", baseline=name)
        assert str(caught.value).count("window=8") == 1
    write_run(tmp_path / "plain", "lru", 0.25)
    found = comparisons(collect(tmp_path), "hit_rate", baseline="lru")
    assert set(found["against"]) == {"lru"} and len(found) == 2
    assert len(comparisons(collect(tmp_path), "hit_rate", str(found["series"][0]))) == 2


def test_parts_and_gate_mass_in_which_pairs_differ_are_listed(tmp_path):
    windows(tmp_path, 2)
    shipped = {"eviction": {"_target_": "policies.eviction.lru.Lru"}}
    write_run(tmp_path / "plain", "lru", 0.25, config={"policy": shipped})
    table = collect(tmp_path)
    lines = difference_lines(table.assign(**{"decode.lost_gate_mass": [0.0, 0.17]}), comparisons(table, "hit_rate"))
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "lru eviction lru, gate mass lost 0 %",
        "lru eviction=spared_lru.py policy.eviction.window=2 eviction spared_lru, gate mass lost 17.0 %",
    ]


def test_the_part_of_a_policy_named_as_it_is_the_plain_policy():
    assert is_plain("lru eviction=lru", "lru") and is_plain("lru seed=1", "lru")
    assert not is_plain("lru eviction=fifo", "lru") and not is_plain("lru policy.eviction.window=2", "lru")


def test_machines_and_settings_are_not_mixed(tmp_path):
    write_run(tmp_path / "0", "lru", 0.25, hardware="s1")
    write_run(tmp_path / "1", "belady", 0.25, hardware="s3")
    write_run(tmp_path / "2", "lru", 0.25, hardware="s1", overrides=("time.link=false",))
    assert comparisons(collect(tmp_path), "hit_rate").empty
    write_run(tmp_path / "3", "lru", 0.25, hardware="s1", overrides=("policy/eviction=lfu",))
    pairs = comparisons(collect(tmp_path), "hit_rate")
    assert len(pairs) == 1 and "eviction=lfu" in pairs["series"][0] + pairs["against"][0]


def test_a_bound_is_compared_at_the_capacity_asked_for(tmp_path):
    write_run(tmp_path / "0", "lru", 0.25)
    run = write_run(tmp_path / "1", "all_resident", 0.25)
    provenance = json.loads((run / "provenance.json").read_text())
    provenance["cache"]["effective_fraction"] = 1.0
    (run / "provenance.json").write_text(json.dumps(provenance))
    assert len(comparisons(collect(tmp_path), "hit_rate")) == 1


def test_uncertain_figures_of_the_machine_are_read(tmp_path):
    run = write_run(tmp_path / "run", "lru", 0.25)
    steps = pd.read_parquet(run / "steps.parquet")
    steps.assign(link_ns=steps["latency_ns"]).to_parquet(run / "steps.parquet")
    plain = collect(run).iloc[0]
    provenance = json.loads((run / "provenance.json").read_text())
    provenance["config"] = {"hardware": {"uncertainty": {"link_bytes_per_s": 0.2}}}
    (run / "provenance.json").write_text(json.dumps(provenance))
    unsure = collect(run).iloc[0]
    assert unsure["tpot_s.high"] - unsure["tpot_s.low"] > 3 * (plain["tpot_s.high"] - plain["tpot_s.low"])
    assert unsure["hit_rate.low"] == plain["hit_rate.low"]


def held_out(run: Path, count: int) -> None:
    """Make a run one that replayed the first `count` requests only."""
    for name in ("steps.parquet", "requests.parquet"):
        table = pd.read_parquet(run / name)
        table[table["group"] < count].to_parquet(run / name)
    provenance = json.loads((run / "provenance.json").read_text())
    provenance["trace_hash"] += f"/requests[0:{count}]"
    (run / "provenance.json").write_text(json.dumps(provenance))


def test_a_policy_that_holds_requests_out_is_compared_on_the_common_ones(tmp_path):
    for number, policy in enumerate(("lru", "belady", "importance")):
        write_run(tmp_path / str(number), policy, 0.25)
    held_out(tmp_path / "2", 9)
    table = collect(tmp_path)
    assert table["conditions"].nunique() == 1
    found = compared(table, "hit_rate")
    pairs = {(row["series"], row["against"]): row for _, row in found.pairs.iterrows()}
    assert set(pairs) == {("belady", "importance"), ("belady", "lru"), ("importance", "lru")}
    assert [pairs[pair]["blocks"] for pair in pairs] == [9, 12, 9]
    assert any(
        "importance and lru: compared on the 9 requests that both replayed, of 9 and 12" in note for note in found.notes
    )
    steps = pd.read_parquet(tmp_path / "0" / "steps.parquet").query("group < 9")
    assert pairs["importance", "lru"]["against_value"] == pytest.approx(steps["hits"].sum() / steps["demanded"].sum())


def test_what_has_no_requests_in_common_is_named(tmp_path):
    for number, policy in enumerate(("lru", "belady", "importance")):
        write_run(tmp_path / str(number), policy, 0.25)
    held_out(tmp_path / "2", 1)
    found = compared(collect(tmp_path), "hit_rate")
    assert len(found.pairs) == 1
    assert any("importance and lru are not compared: they replayed 1 and 12" in note for note in found.notes)
    assert any(note.startswith("importance is in no pair") for note in found.notes)


def test_a_policy_run_under_several_selections_is_compared_within_each(tmp_path):
    for number, (policy, count) in enumerate((p, n) for n in (5, 9) for p in ("lru", "belady")):
        write_run(tmp_path / str(number), policy, 0.25, overrides=(f"trace.requests={count}",))
        held_out(tmp_path / str(number), count)
    found = compared(collect(tmp_path), "hit_rate")
    assert sorted(found.pairs["blocks"]) == [5, 9] and not found.notes


def test_policies_asked_for_other_requests_are_compared_on_the_common_ones(tmp_path):
    for number, (policy, count) in enumerate((("lru", 5), ("belady", 9))):
        write_run(tmp_path / str(number), policy, 0.25, overrides=(f"trace.requests={count}",))
        held_out(tmp_path / str(number), count)
    assert compared(collect(tmp_path), "hit_rate").pairs["blocks"].tolist() == [5]
