"""A rule of one's own that goes wrong ends in one sentence with file, line, rule and mend, before any run."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from policies.eviction.score_window import ScoreWindow
from policies.prediction.previous_token import PreviousToken
from policies.prefetch.by_weight_all_layers import ByWeightAllLayers
from sim import shipped_rules
from sim.__main__ import main
from sim.assembly import rule_class, trial
from sim.assembly.build import build, make_part
from sim.assembly.catalogue import system_names
from sim.assembly.compose import compose_run
from sim.assembly.replay import DeviceSetup, assemble
from sim.assembly.rule_class import check_class, check_ranges
from sim.assembly.trial import try_rules
from sim.config import RunConfig
from sim.engine.decision.rule_compilation import compile_decision, is_guarded
from sim.paths import ROOT
from sim.shipped_rules import LIST, _listed, digest_of, is_shipped, rule_sources
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, machine
from traces.errors import UserError
from traces.format.files import write_trace

CASES = ROOT.parent / "shared" / "cases" / "rules"
HEAD = """from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from policies.base import Assignment, Eviction, Prediction, Prefetch, Substitution, Vector, require
from policies.needs import Need
from policies.state import State


@dataclass(frozen=True)
class Bad({base}):
    weight: float = 1.0
{needs}
    def __post_init__(self) -> None:
        require("policy.{part}.weight", self.weight, 0.0, 1e6)

    def {method}:
"""
BASES = {
    "touch": ("Eviction", "touch(self, state: State, memory: Vector) -> None"),
    "refresh": ("Eviction", "refresh(self, state: State, memory: Vector, layer: int) -> None"),
    "bypass": (
        "Eviction", "bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool",
    ),
    "predict": ("Prediction", "predict(self, state: State, memory: Vector) -> None"),
    "choose": ("Prefetch", "choose(self, state: State, memory: Vector) -> None"),
    "substitute": ("Substitution", "substitute(self, state: State, memory: Vector) -> None"),
    "assign": ("Assignment", "assign(self, state: State, memory: Vector) -> None"),
}  # fmt: skip
BESIDE = {
    "prediction": {"prefetch": ByWeightAllLayers()},
    "prefetch": {"prediction": PreviousToken()},
}
TRACE = random_trace(0)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()


def written(decision, body, needs=""):
    """The file of a rule whose one decision has this body -> its part."""
    base, method = BASES[decision]
    stated = f"    needs: ClassVar[frozenset[Need]] = frozenset({{{needs}}})\n" if needs else ""
    text = HEAD.format(base=base, part=base.lower(), method=method, needs=stated)
    Path("bad.py").write_text(text + "".join(f"        {line}\n" for line in body.splitlines()))
    return base.lower()


def part_of(part, file="bad.py", **knobs):
    config = OmegaConf.create({"policy": {part: {"_target_": file, **knobs}}})
    return make_part(part, config.policy[part])


def set_up(part, file="bad.py", **knobs):
    policy = replace(BARE, **{part: part_of(part, file, **knobs)}, **BESIDE.get(part, {}))
    return DeviceSetup(policy, machine(), run=RunConfig(engine="compiled"))


def tried(part, file="bad.py", **knobs):
    try_rules(TRACE, set_up(part, file, **knobs), None, False, None)


FAULTS = [
    ("touch", "memory[3] = 1.0", r"memory\[3\] is outside of its 0 cells: return as many as it needs from memory_size"),
    ("touch", "memory[-1] = 1.0", "a negative index"),
    ("touch", "state.priority[state.layer, 0] = 2**state.now", r"computes 2 .* write 2\.0 .. state.now"),
    ("touch", "state.priority[state.layer, 0.5] = 1.0", "an index is a whole number"),
    ("touch", "state.priority[state.layer, state.num_experts] = 1.0", "outside of its shape"),
    ("touch", "state.priority[state.layer, 0] = np.nan", "writes nan to state.priority: must be a finite number"),
    ("touch", "state.priority[state.layer, 0] = np.inf", "writes inf to state.priority: must be a finite number"),
    ("touch", "state.priority[state.layer] *= np.nan", "writes .* to state.priority|leaves a priority"),
    ("touch", "state.priority[state.layer, 0] = 'x'", "writes x to state.priority"),
    ("touch", "state.status[state.layer, 0] = 2", "writes state.status, which is not its own"),
    ("touch", "state.shield[state.layer, :] = 1", "writes state.shield, which is not its own"),
    ("touch", "row = state.status[state.layer]\nrow[0] = 2", "writes state.status, which is not its own"),
    ("touch", "state.executed[0] += 1", "writes state.executed, which is not its own"),
    ("touch", "state.now = 3", "writes state.now, which is not its own: this part writes priority"),
    ("touch", "state.priority = state.priority", "an array: write its cells"),
    ("touch", "state.new = 3", "writes state.new: the state has no such field"),
    ("touch", "x = state.num_executd", "did you mean state.num_executed"),
    ("touch", "x = state.next_use[0, 0]", r"reads state.next_use without stating the need.*Need.FUTURE"),
    ("touch", "x = state.routed[0, 0, 0]", r"reads state.routed without stating the need.*Need.ORACLE"),
    ("touch", "x = state.scores[0, 0]", r"reads state.scores without stating the need.*Need.GATE_SCORES"),
    ("touch", "x = state.weights[0, 0]", r"reads state.weights without stating the need.*Need.IMPORTANCE"),
    ("touch", "x = state.lookahead[0, 0, 0]", r"reads state.lookahead without stating the need.*LOOKAHEAD_BEFORE"),
    ("touch", "x = 1 / (state.step - state.step)", "ends in ZeroDivisionError: division by zero: guard the divisor"),
    ("touch", "x = self.wieght", r"reads self.wieght, which is no knob: did you mean self.weight\?"),
    ("touch", "x = undefined_name", "ends in NameError: name 'undefined_name' is not defined"),
    ("touch", "x = []", "uses a list"),
    ("touch", "x = {1: 2}", "uses a dict"),
    ("touch", "x = [i for i in range(3)]", "uses a list"),
    ("touch", "x = np.random.random()", r"reads np.random: two runs would differ.*policies.hashing.uniform"),
    ("bypass", "return None", "answers None: must be True or False"),
    ("refresh", "state.priority[layer, state.num_experts] = 1.0", "outside of its shape"),
    ("predict", "state.num_predicted = 9", "sets state.num_predicted to 9"),
    ("predict", "state.num_predicted = 0.5", "writes 0.5 to state.num_predicted: must be a whole number"),
    ("predict", "state.predicted[0, 0, 0] = np.nan", "writes nan to state.predicted"),
    ("choose", "state.num_prefetch = 10**6", "sets state.num_prefetch to 1000000"),
    ("choose", "state.prefetch_layer[0] = state.layer\nstate.num_prefetch = 1", "must be a later layer"),
    ("choose", "state.prefetch_layer[0] = state.layer + 1\nstate.prefetch_expert[0] = 999\nstate.num_prefetch = 1",
     "prefetches (for layer|expert 999)"),
    ("substitute", "state.executed_ids[0, 0] = 10**5", "writes an expert outside of 0 to"),
    ("substitute", "state.executed_ids[0, 0] = state.executed_ids[0, 1]", "gives one token the same expert twice"),
    ("substitute", "state.executed_ids[0, 0] = 1.5", "holds whole numbers"),
    ("substitute", "state.executed_ids[0, 0] = 2**40", "writes 1099511627776 to state.executed_ids"),
    ("substitute", "state.degraded[0] = 1", "writes state.degraded without stating the need"),
    ("assign", "state.order[0] = state.num_missing + 1", "not a permutation"),
    ("assign", "state.side[0] = 7", "another side than LINK or CPU"),
    ("assign", "state.side[0] = 1", "gives an expert to the CPU without stating the need"),
]  # fmt: skip


@pytest.mark.parametrize(("decision", "body", "says"), FAULTS, ids=[fault[1][:50] for fault in FAULTS])
def test_a_rule_that_goes_wrong_ends_in_its_sentence(decision, body, says):
    part = written(decision, body)
    with pytest.raises(UserError, match=says) as caught:
        tried(part)
    said = str(caught.value)
    lines = Path("bad.py").read_text().splitlines()
    where = re.search(r"bad\.py:(\d+): Bad\.(\w+)", said)
    assert where is not None and where[2] == decision and "\n" not in said, said
    first = lines.index(next(line for line in lines if f"def {decision}(" in line)) + 1
    assert first <= int(where[1]) <= len(lines)


CLASSES = [
    ("class A(Eviction):\n    weight: float = 1.0\n", r"bad\.py:7: A is no dataclass: write @dataclass"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    def touched(self, state, memory):\n        pass\n",
     r"bad\.py:9: A.touched is no decision of policy/eviction: did you mean touch\?"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    def predict(self, state, memory):\n        pass\n",
     r"bad\.py:9: A.predict is no decision of policy/eviction"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    def touch(self, state):\n        pass\n",
     r"bad\.py:9: A defines touch\(self, state\): must be touch\(self, state, memory\)"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    def touch(state, knobs, memory):\n        pass\n",
     r"must be touch\(self, state, memory\)"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    @staticmethod\n    def touch(state, memory):\n        pass\n",
     r"must be touch\(self, state, memory\)"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    def memory_size(self):\n        return 3\n",
     r"must be memory_size\(self, num_layers, num_experts, num_ranks\)"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    weight = 1.0\n",
     r"bad\.py:9: A.weight is no knob without its type"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    need: ClassVar[frozenset] = frozenset()\n",
     r"bad\.py:9: A.need is nothing that a rule has: did you mean needs\?"),
    ("@dataclass(frozen=True)\nclass A(Eviction):\n    needs: ClassVar[frozenset] = frozenset({'futur'})\n",
     r"bad\.py:9: A.needs=futur: did you mean future\?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), CLASSES)
def test_a_class_that_is_no_rule_as_it_stands_ends_in_its_sentence(text, says):
    Path("bad.py").write_text("from dataclasses import dataclass\nfrom typing import ClassVar\n"
                              "from policies.base import Eviction\n\n\n\n" + text)  # fmt: skip
    with pytest.raises(UserError, match=says):
        part_of("eviction")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "word"])
def test_a_knob_out_of_its_range_is_refused(value):
    part = written("touch", "pass")
    with pytest.raises(UserError, match=r"policy\.eviction\.weight="):
        part_of(part, weight=value)


def test_a_knob_without_a_range_is_refused():
    written("touch", "pass")
    Path("bad.py").write_text(re.sub(r"(?s)    def __post_init__.*?\n\n", "", Path("bad.py").read_text()))
    with pytest.raises(UserError, match=r"bad\.py:11: Bad.weight takes any number: state its range in __post_init__"):
        tried("eviction")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("require(", "requre(", r"rule\.py:14: Bad ends in NameError: name 'requre' is not defined"),
        ("    weight: float = 1.0\n", "", r"rule\.py:13: Bad ends in AttributeError"),
    ],
)
def test_a_rule_that_cannot_be_made_ends_in_a_sentence(old, new, says, tmp_path):
    """Once a traceback: errors of a rule's own `__post_init__`."""
    method = "touch(self, state: State, memory: Vector)"
    text = HEAD.format(base="Eviction", needs="", part="eviction", method=method)
    text += "        state.priority[state.layer, 0] = self.weight\n"
    assert old in text
    (tmp_path / "rule.py").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=says):
        check_ranges(make_part("eviction", OmegaConf.create({"_target_": str(tmp_path / "rule.py")})))


def test_methods_that_are_no_decision_end_in_a_sentence_too():
    written("touch", "pass")
    with Path("bad.py").open("a") as file:
        file.write("\n    def memory_size(self, num_layers, num_experts, num_ranks):\n        return 1 // 0\n")
    with pytest.raises(UserError, match=r"bad\.py:\d+: Bad ends in ZeroDivisionError"):
        tried("eviction")


LATE = "if state.now > 12:\n    "
LATE_FAULTS = ["memory[7] += 1.0", "state.priority[state.layer, 0] = 1.0 / (state.now - state.now)",
               "state.priority[state.layer, 0] = np.nan"]  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "fault"),
    [("simpy", LATE_FAULTS[0]), ("untimed", LATE_FAULTS[0])] + [("compiled", f) for f in LATE_FAULTS],
)
def test_what_a_trial_does_not_reach_cannot_write_past_its_memory_either(engine, fault):
    """The fault comes after the first steps, in compiled code."""
    setup = set_up(written("touch", LATE + fault))
    replay = assemble(TRACE, replace(setup, run=RunConfig(engine=engine)))
    with pytest.raises(UserError, match=r"policy lru: Bad \(.*bad\.py:\d+\) went wrong in steps .* looks for the line"):
        list(replay.blocks())


def test_inside_a_model_it_is_tried_on_the_embedded_trace(capsys):
    part = written("touch", "memory[3] = 1.0")
    assert main(["quality", "policy=lru", f"policy/{part}=bad.py", "hydra.run.dir=out"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*bad\.py:17: Bad\.touch memory\[3\] is outside of its 0 cells.*\n", said), said


def test_no_table_is_printed_and_no_file_written_where_a_rule_goes_wrong(monkeypatch, capsys):
    part = written("touch", LATE + LATE_FAULTS[0])
    monkeypatch.setattr(trial, "BUDGET_S", 0.0)
    write_trace(Path("t.safetensors"), TRACE)
    words = ["policy=lru", f"policy/{part}=bad.py", "trace.path=t.safetensors", "engine=compiled"]
    assert main(["run", *words, "hydra.run.dir=out"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: policy lru: Bad") and said.err.count("\n") == 1
    assert not Path("out/metrics.json").exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [("state.status[0, 0] = 2", "writes what is not its own"), ("state.now = 1", "writes what is not its own"),
     ("x = state.nothing", "reads state.nothing, which the state does not have"),
     ("x = state.next_use[0, 0]", "reads state.next_use without stating the need"),
     ("x = self.no", "self.no, which is no")],
)  # fmt: skip
def test_compiled_rules_of_ones_own_cannot_write_what_is_not_theirs(body, says):
    part = part_of(written("touch", f"if state.now > 10**9:\n    {body}"))
    assert is_guarded(type(part))
    with pytest.raises(UserError, match=rf"bad\.py:18: Bad\.touch .*{says}"):
        compile_decision(part, "touch")


@pytest.mark.parametrize(
    "method",
    [
        "touch = 5",
        "touch: ClassVar = property(lambda self: None)",
        "memory_size: ClassVar = 7",
        "async def touch(self, state, memory):\n        pass",
        "@classmethod\n    def touch(cls, state, memory):\n        pass",
    ],
)
def test_a_decision_is_a_plain_method(method):
    part = written("touch", "pass")
    text = Path("bad.py").read_text().partition("    def touch")[0]
    Path("bad.py").write_text(f"{text}    {method}\n")
    name = "memory_size" if "memory_size" in method else "touch"
    with pytest.raises(UserError, match=rf"bad\.py:1[67]: Bad\.{name} is .*: must be a method, as def {name}\(self, "):
        tried(part)


def test_a_class_that_is_not_frozen_is_said_with_its_line():
    part = written("touch", "pass")
    text = Path("bad.py").read_text()
    Path("bad.py").write_text(text.replace("(frozen=True)", ""))
    with pytest.raises(UserError, match=r"bad\.py:\d+: TypeError: .*: write @dataclass\(frozen=True\) above the class"):
        tried(part)


MEMORY = """
    def memory_size(self, num_layers, num_experts, top_k):
        return {size}

    def initial_memory(self, geometry, similarity, others):
        return {start}
"""


@pytest.mark.parametrize(
    ("size", "start", "says"),
    [
        ("2.5", "np.zeros(2)", r":19: Bad.memory_size=2.5: must be a whole number of cells from 0 to"),
        ("-1", "np.zeros(2)", "Bad.memory_size=-1: must be a whole number of cells"),
        ("None", "np.zeros(2)", "Bad.memory_size=None: must be a whole number of cells"),
        (
            "10**13",
            "np.zeros(2)",
            "Bad.memory_size=10000000000000: must be .* from 0 to 134217728",
        ),
        ("2", "np.zeros(5)", r":22: Bad.initial_memory gives an array of shape \[5\]: must be 2 numbers"),
        ("2", "None", "Bad.initial_memory gives nothing: must be 2 numbers, as many as memory_size says"),
        ("2", "['a', 'b']", r"Bad.initial_memory gives list: must be 2 numbers"),
    ],
)
def test_a_memory_is_as_many_numbers_as_it_says(size, start, says):
    part = written("touch", "memory[0] = 1.0")
    with Path("bad.py").open("a") as file:
        file.write(MEMORY.format(size=size, start=start))
    with pytest.raises(UserError, match=rf"bad\.py.*{says}"):
        tried(part)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("state.status.fill(2)", "changes an array as a whole that is not its own: a rule writes only the fields"),
        ("raise SystemExit", "ends in SystemExit"),
        ("self.weight = 2.0", "ends in FrozenInstanceError.*: knobs stay as they are; what a rule keeps goes into"),
    ],
)
def test_what_a_rule_may_not_change_is_said_with_where_it_may_write(body, says):
    with pytest.raises(UserError, match=rf"bad\.py:17: Bad\.touch {says}"):
        tried(written("touch", body))


def test_a_loop_without_an_end_is_ended(monkeypatch):
    monkeypatch.setattr(trial, "LONGEST_S", 0)
    part = written("touch", "x = 1\nwhile x > 0:\n    x += 1")
    with pytest.raises(UserError, match=r"bad\.py:\d+: Bad.touch has not ended after 0 s: does its loop end"):
        tried(part)


def test_a_good_rule_of_ones_own_gives_what_the_same_shipped_one_gives():
    source = (ROOT / "policies" / "eviction" / "score_window.py").read_text()
    Path("own.py").write_text(source)
    setup = set_up("eviction", "own.py", window=4)
    tried("eviction", "own.py", window=4)
    shipped = replace(setup, policy=replace(BARE, eviction=ScoreWindow(window=4)))
    one, other = (
        np.concatenate([block.counts for block in assemble(TRACE, chosen).blocks()]) for chosen in (setup, shipped)
    )
    np.testing.assert_array_equal(one, other)


SYSTEMS = [name for name in system_names() if name not in ("moe_beyond", "promoe")]  # they load torch


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_shipped_system_passes_the_trial(name, monkeypatch):
    for module in (shipped_rules, trial, rule_class):
        if hasattr(module, "is_shipped"):
            monkeypatch.setattr(module, "is_shipped", lambda rule: False)
    config = compose_run(f"policy={name}", "engine=compiled", "trace.requests=8")
    build(config)


def test_an_edited_rule_of_the_package_is_tried_again(monkeypatch):
    from policies.eviction.lru import Lru

    assert is_shipped(Lru)
    monkeypatch.setitem(_listed(), Lru.__module__, "another")
    import sim.shipped_rules as shipped

    shipped._stands_as_listed.cache_clear()
    try:
        assert not is_shipped(Lru)
        check_class(Lru)
        check_ranges(Lru())
    finally:
        shipped._stands_as_listed.cache_clear()


def test_the_list_of_shipped_rules_is_up_to_date():
    found = {module: digest_of(path) for module, path in rule_sources().items()}
    assert _listed() == found, f"{LIST.name}: run python -m scripts.maintenance.shipped_rules once the tests pass"


NAMES = sorted(path.stem for path in CASES.glob("*.py"))


@pytest.mark.skipif(not NAMES, reason="needs ../shared/cases/rules")
@pytest.mark.parametrize("name", NAMES)
def test_mistakes_of_others_end_in_a_sentence(name):
    Path(f"{name}.py").write_text((CASES / f"{name}.py").read_text())
    values = yaml.safe_load((CASES / f"{name}.yaml").read_text())
    target = values.pop("_target_").replace(f"policies.eviction.{name}.", f"{name}.py:")
    with pytest.raises(UserError, match=rf"{name}\.py") as caught:
        tried("eviction", target, **values)
    assert "\n" not in str(caught.value)
