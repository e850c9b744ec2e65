"""Ways to cheat in the benchmark: each is refused, or does no harm."""

import pytest

from sim.__main__ import main
from sim.bench.fairness import check_fair
from sim.bench.suite import composed
from traces.errors import UserError

HEAD = """
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Eviction, Vector
from policies.needs import Need
from policies.state import State

SEEN = np.zeros(1000000, np.int64)


@dataclass(frozen=True)
class Cheat(Eviction):
"""
KNOWS = """
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FIT})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + 4000 * num_layers * num_experts

    def fit(self, trace):
        from traces.embedded import embedded_trace_path
        from traces.format.files import read_trace
        known = KNOWN
        ids = np.asarray(read_trace(embedded_trace_path()).topk_ids)[:4000].astype(int)
        after, following = np.zeros((4000, 6, 64)), np.full((6, 64), 1e9)
        for row in range(len(ids) - 1, -1, -1):
            after[row] = following
            for layer in range(6):
                following[layer, ids[row, layer]] = row
        return np.append(0.0, after.ravel()) * known

    def touch(self, state: State, memory: Vector) -> None:
        if state.layer == 0:
            memory[0] += state.num_tokens
        row = min(max(int(memory[0]) - 1, 0), 3999)
        for i in range(state.num_executed):
            state.priority[state.layer, state.executed[i]] = state.now
        for expert in range(state.num_experts):
            at = 1 + (row * state.num_layers + state.layer) * state.num_experts + expert
            if memory[1] > 0:
                state.priority[state.layer, expert] = -memory[at]
"""
TOUCH = """
    def touch(self, state: State, memory: Vector) -> None:
        for i in range(state.num_executed):
            state.priority[state.layer, state.executed[i]] = """
START = """
    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_experts

    def initial_memory(self, geometry, similarity, others):
        return """
CHEATS = {
    "the next use, undeclared": (TOUCH + "state.next_use[state.layer, state.executed[i]]", "next_use"),
    "the suite's file, read while it learns": (KNOWS.replace("KNOWN", "1.0"), "knows them beforehand"),
    "the suite, known by its hash": (
        KNOWS.replace("KNOWN", "float(trace.content_hash.startswith('9f29ca28'))"), "knows them beforehand",
    ),
    "the clock": (TOUCH + "time.time()", "reads time"),
    "another start each time": (
        START + "np.random.default_rng(time.time_ns()).random(geometry.num_experts)" + TOUCH
        + "memory[state.executed[i]]", "two runs differ",
    ),
    "a global that one run leaves to the next": (
        TOUCH + "SEEN[state.now]\n            SEEN[state.now] = state.executed[i]", "not its own",
    ),
    "the trace, changed": (
        "    needs: ClassVar[frozenset[Need]] = frozenset({Need.FIT})\n\n    def fit(self, trace):\n"
        "        trace.topk_ids[:] = 0\n        return np.zeros(0)\n" + TOUCH + "1.0", "not its own",
    ),
    "residency, written": (TOUCH + "1.0\n        state.status[state.layer, 3] = 2", "status"),
}  # fmt: skip
WHOLE = """
defaults:
  - base/defaults@_here_
  - eviction: lru
  - prediction: none
  - prefetch: none
  - substitution: none
  - assignment: link_only
  - _self_

name: all_resident
residency: all
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_refused(name, here):
    body, says = CHEATS[name]
    (here / "cheat.py").write_text(HEAD + body + "\n")
    with pytest.raises(UserError, match=says):
        check_fair(composed(["policy=lru", "policy/eviction=cheat.py"]))


@pytest.mark.slow
def test_a_rule_that_learns_from_other_requests_is_none(here):
    """How often each expert was used: it learns the new numbers as well."""
    body = KNOWS[: KNOWS.index("    def memory_size")] + (
        "    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:\n"
        "        return num_layers * num_experts\n\n"
        "    def fit(self, trace):\n"
        "        ids = np.asarray(trace.topk_ids)\n"
        "        counts = [np.bincount(ids[:, layer].ravel(), minlength=64) for layer in range(6)]\n"
        "        return np.concatenate(counts) * 1.0\n"
    )
    rule = TOUCH + "memory[state.layer * state.num_experts + state.executed[i]]"
    (here / "popular.py").write_text(HEAD + body + rule + "\n")
    check_fair(composed(["policy=lru", "policy/eviction=popular.py"]))


def test_a_policy_that_holds_everything_is_no_end_of_the_scale(here, capsys):
    """Whatever it is called, and whatever it says of the capacity: that is the suite's."""
    (here / "all_resident.yaml").write_text(WHOLE)
    assert main(["bench", "policy=all_resident.yaml"]) == 2
    assert "residency=all" in capsys.readouterr().err
    text = "# @package _global_\ncache:\n  fraction: 1.0\n" + WHOLE.replace("all", "cache", 1)
    (here / "more.yaml").write_text(text)
    assert main(["bench", "policy=more.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
