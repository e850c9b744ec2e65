"""SMoE's ablation: the arithmetic of its tables by hand, and the whole script on few requests."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.studies.smoe import claims, replays, rivals

ROOT = Path(__file__).resolve().parents[2]


def sums(time, tokens, resident, executed, link=0.0):
    arrays = [np.array(values, float) for values in (time, tokens, resident, executed)]
    return replays.Sums(*arrays, parts_ns={"link": np.array(time) * link, "cpu": np.zeros(len(time))})


def test_changes_by_hand():
    """Two requests of 10 and 30 tokens; 100 + 500 ns become 50 + 500: 15 ns per token become 13.75."""
    old = sums([100, 500], [10, 30], [2, 1], [4, 4], link=0.25)
    new = sums([50, 500], [10, 30], [3, 3], [4, 4])
    assert replays.value(old, "TPOT") == 15.0 and replays.value(new, "TPOT") == 13.75
    assert replays.change([(old, new)], "TPOT") == pytest.approx(13.75 / 15 - 1)
    assert replays.change([(old, new)], "cache ratio") == pytest.approx((6 / 8) / (3 / 8) - 1)
    assert old.share("link", "cpu") == pytest.approx(0.25)


def test_a_change_is_the_mean_of_the_changes_of_the_set_ups():
    """-50 % where a token takes 1 ns and +100 % where it takes 1000: +25 %, not what their sum says."""
    fast = sums([1, 1], [1, 1], [1, 1], [1, 1]), sums([0.5, 0.5], [1, 1], [1, 1], [1, 1])
    slow = sums([1000, 1000], [1, 1], [1, 1], [1, 1]), sums([2000, 2000], [1, 1], [1, 1], [1, 1])
    assert replays.change([fast, slow], "TPOT") == pytest.approx(0.25)


def test_the_bootstrap_is_paired():
    """A rule that saves a fifth of every request saves a fifth in every draw, however requests differ."""
    time = np.array([1.0, 10.0, 100.0, 1000.0])
    old, new = (sums(time * factor, [1] * 4, [1] * 4, [1] * 4) for factor in (1.0, 0.8))
    assert replays.change_interval([(old, new)], "TPOT") == pytest.approx((-0.2, -0.2))
    low, high = replays.change_interval([(old, sums(time[::-1] * 0.8, [1] * 4, [1] * 4, [1] * 4))], "TPOT")
    assert low < -1 < 1 < high  # not paired: nothing is known


@pytest.mark.parametrize(
    ("published", "bounds", "older", "machines", "verdict"),
    [
        (-0.2, (-0.25, -0.15), (-0.5, -0.4), [-0.9], "agrees"),
        (-0.2, (-0.15, -0.10), (-0.25, -0.18), [-0.3], "agrees at older capacities"),
        (-0.2, (-0.15, -0.10), (-0.12, -0.10), [-0.3, -0.1], "agrees for some machine"),
        (-0.2, (-0.05, 0.01), (-0.12, -0.10), [-0.1], "no effect here"),
        (-0.2, (-0.15, -0.10), (-0.12, -0.10), [-0.1], "same sign, weaker"),
        (-0.2, (-0.55, -0.40), (-0.52, -0.50), [-0.5], "same sign, stronger"),
        (-0.2, (0.10, 0.15), (0.12, 0.20), [0.1], "contradicts"),
    ],
)
def test_verdicts(published, bounds, older, machines, verdict):
    assert claims.judge(published, bounds, older, machines) == verdict


def test_parts_and_supplies():
    bare, whole = (replays.Contender(parts).policy(0.3) for parts in ((), replays.CHAIN))
    names = [type(part).__name__ for part in whole.parts()]
    assert names == ["ScoreWindow", "Lookahead", "TopScore", "ScoreBand", "TwoPointer"]
    assert (whole.substitution.alpha, whole.prefetch.alpha) == (0.3, 0.3)
    assert [type(part).__name__ for part in bare.parts()][::4] == ["Lru", "LinkOnly"] and not bare.needs()
    forced = replays.Contender(replays.CHAIN, side="link only")
    assert type(forced.policy(0.3).assignment).__name__ == "LinkOnly" and forced.label.endswith(", link only")
    ours = [replays.Contender(system=name).policy(0.3) for name in ("importance", "smoe_code")]
    assert [policy.substitution.alpha for policy in ours] == [0.3, 0.25]  # the code has one alpha for all set-ups


def test_the_paper_has_no_llama_cpp_for_xverse():
    counts = [len(claims.baselines(setup, replays.BASELINES)) for setup in replays.SETUPS]
    assert counts == [6, 5, 6]
    assert len(claims.baselines(replays.SETUPS[0], replays.BASELINES, "link only")) == 5


def test_lossless_rivals_keep_some_experts_and_see_no_future():
    names = rivals.lossless()
    assert {"lru", "dali", "hybrimoe_paper", "hybrimoe_code", "fiddler", "promoe"} <= set(names)
    assert not {"importance", "smoe_code", "oracle", "belady", "pregated_moe", "all_resident", "deepspeed"} & set(names)
    forms = {form: {one.label for one in rivals.rivals(form, (*names,))} for form in ("paper", "code", "any")}
    assert "hybrimoe_code" not in forms["paper"] and "hybrimoe_paper" not in forms["code"]
    assert forms["paper"] | forms["code"] == forms["any"] == {*names, "lru+cpu"}


def test_the_usual_machine_is_the_runtimes():
    trace, _ = replays.split(None, 2, 2)
    machine = replays.NOMINAL.apply("s1_rtx3080ti", replays.borrowed("deepseek_moe_16b", trace))
    assert machine.runtime.host_s_per_layer == pytest.approx(4e-4) and machine.runtime.decision_s_per_layer == 0


def test_the_chain_of_published_figures():
    published = claims.published_claims((1, 3))
    chain = [claim for claim in published if claim.text.startswith("+")]
    assert [claim.published for claim in chain[:4]] == [-0.08, -0.20, -0.14, -0.34]
    assert [claim.text for claim in chain[:4]] == ["+eviction", "+router", "+prefetch", "+cpu"]
    assert chain[5].implied == (0.41, 0.65)
    assert len(published) == 27 and len(claims.published_claims((1,))) == 18


@pytest.mark.slow
def test_quick_run_prints_every_table_and_writes_what_it_says(tmp_path):
    command = [sys.executable, "-m", "scripts.studies.smoe.ablation", "--quick", "--requests", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    for words in ("SIMULATED", "ESTIMATED", "top-6", "all combinations, batch 1", "one part left out", "best split"):
        assert words in done.stdout
    rows = list(csv.DictReader((tmp_path / "smoe_replays.csv").open()))
    tpot = {
        row["contender"]: float(row["tpot_s"])
        for row in rows
        if (row["setup"], row["figures"], row["older_capacity"]) == ("S1", "", "False")
        and float(row["host_s"]) == replays.STATED_HOST_S
        and float(row["cpu_ratio"]) == replays.THREE_CORES
    }
    whole = "lru+eviction+router+prefetch+cpu"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("eviction+router+prefetch+cpu"))
    assert line.split()[1] == f"{tpot[whole] * 1e3:.1f}" and tpot[whole] < tpot["lru"]
    found = json.loads((tmp_path / "smoe_claims.json").read_text())
    assert found["label"] == "SIMULATED" and len(found["claims"]) == 18
    for claim in found["claims"]:
        assert claim["low"] <= claim["ours"] <= claim["high"] and claim["verdict"]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), [(["19"], "between 6 and 18"), (["1", "--quick"], "between 2 and 18")])
def test_too_few_or_many_requests_end_in_one_sentence(words, sentence):
    command = [sys.executable, "-m", "scripts.studies.smoe.ablation", "--requests", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and f"--requests={words[0]}: must be {sentence}" in done.stderr
