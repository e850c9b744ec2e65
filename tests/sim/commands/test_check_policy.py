"""`check-policy` tells what a rule has passed, or the first thing that it has not."""

import re
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from policies.eviction.belady import Belady
from sim.__main__ import main
from sim.run import contract
from tests.sim.assembly.test_rule_files import MRU, POLICY
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, replay_of
from traces.errors import UserError
from traces.format.files import write_trace


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_trace(Path("t.safetensors"), random_trace(0))
    Path("mru.py").write_text(MRU.format(name="Mru"))
    Path("mine.yaml").write_text(POLICY.format(rule="mru.py"))
    Path("part.yaml").write_text("_target_: mru.py:Mru\nweight: 2.0\n")
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("target", ["mru.py", "mine.yaml", "part.yaml", "eviction/fifo"])
def test_a_good_rule_passes(target, capsys):
    assert main(["check-policy", target, "trace.path=t.safetensors", "budget=1"]) == 0
    *said, following = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok    ") for line in said) and len(said) == 7
    assert following.startswith("next: python -m sim ")
    assert re.search(r"plain Python under checks: [1-9]\d* steps, [1-9]\d* decisions", said[2])
    assert said[-1] == "ok    no decision depends on later steps: 3 cuts"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bad.py"], r"bad\.py:22: Bad\.touch memory\[3\] is outside"),
        (["bad.py:Worse"], r"bad\.py:Worse: the file defines Bad: name one"),
        (["no.py"], r"no\.py: there is no such file"),
        (["word"], "must be a rule's file"),
        (["os:path"], "os:path: must be a rule's class"),
        ([], "takes one rule or policy, got 0"),
        (["mru.py", "mru.py"], "takes one rule or policy, got 2"),
        (["mru.py", "budget=0"], "budget=0: must be a number of seconds"),
        (["mru.py", "policy.eviction.weight=-1"], r"policy\.eviction\.weight=-1"),
    ],
)
def test_what_does_not_pass_is_one_sentence(words, says, capsys):
    text = MRU.format(name="Bad").replace("        for i in", "        memory[3] = 1.0\n        for i in")
    Path("bad.py").write_text(text)
    assert main(["check-policy", *words, "trace.path=t.safetensors"]) == 2
    said = capsys.readouterr().err
    assert re.search(says, said) and said.count("\n") == 1, said


def test_a_rule_that_starts_at_random_is_found_out():
    text = MRU.format(name="Luck")
    text = text.replace("from policies.state", "import numpy as np\nfrom policies.state")
    text += (
        "\n    def memory_size(self, num_layers, num_experts, num_ranks):\n        return num_experts\n"
        "\n    def initial_memory(self, geometry, similarity, others):\n"
        "        return np.random.default_rng().random(geometry.num_experts)\n"
    )
    text = text.replace("-self.weight * state.now", "memory[state.executed[i]]")
    Path("luck.py").write_text(text)
    from sim.rule_files import rules_in

    (rule,) = rules_in(Path("luck.py"), "x")
    replay = replay_of(random_trace(0), BARE.__class__(**{**vars(BARE), "eviction": rule()}), fraction=0.6)
    with pytest.raises(UserError, match=r"Luck \(.*luck\.py:\d+\).*two runs differ"):
        list(contract.check_policy(replay, 0.1))


def test_a_rule_that_sees_the_future_is_found_out(monkeypatch):
    monkeypatch.setattr(contract, "SEES_FUTURE", frozenset())
    policy = BARE.__class__(**{**vars(BARE), "eviction": Belady()})
    with pytest.raises(UserError, match=r"Belady .* changes where another trace follows after step \d+"):
        list(contract.check_policy(replay_of(random_trace(0), policy, fraction=0.3), 0.1))


def test_scrambling_leaves_earlier_rows_alone():
    trace = random_trace(0)
    later = np.arange(trace.num_tokens) >= 5
    other = contract.scrambled(trace, later)
    np.testing.assert_array_equal(other.topk_ids[:5], trace.topk_ids[:5])
    np.testing.assert_array_equal(other.router_logits.values[:5], trace.router_logits.values[:5])
    assert (other.topk_ids[5:] != trace.topk_ids[5:]).any()


def test_that_one_layer_is_not_tested_is_said(capsys):
    text = MRU.format(name="Claims").replace("    def touch", "    one_layer = True\n\n    def touch")
    Path("claims.py").write_text(text)
    assert main(["check-policy", "claims.py", "trace.path=t.safetensors", "budget=1"]) == 0
    assert "note: not tested: one_layer of Claims" in capsys.readouterr().out
