"""Rules of one's own: in a file, in an importable module, under the name of an entry point."""

import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from policies.base import Eviction, Prediction
from sim import rule_files
from sim.__main__ import main
from sim.assembly.build import make_policy
from sim.assembly.compose import compose_run
from sim.rule_files import find_class, run_file
from sim.sweep.jobs import place_of
from sim.sweep.key import by_content
from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format.files import write_trace

MRU = '''"""Most recently used goes first."""

from dataclasses import dataclass

from policies.base import Eviction, Vector, require
from policies.state import State


@dataclass(frozen=True)
class {name}(Eviction):
    """Evict what was used last.

    Source: test.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        require("policy.eviction.weight", self.weight, 0.0, 1e6)

    def touch(self, state: State, memory: Vector) -> None:
        for i in range(state.num_executed):
            state.priority[state.layer, state.executed[i]] = -self.weight * state.now
'''
POLICY = """defaults:
  - base/defaults@_here_
  - eviction: {rule}
  - prediction: none
  - prefetch: none
  - substitution: none
  - assignment: link_only
  - _self_
name: mine
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mru.py").write_text(MRU.format(name="Mru"))
    GlobalHydra.instance().clear()


def policy_of(*words):
    return make_policy(compose_run("policy=lru", *words).policy)


@pytest.mark.parametrize("choice", ["mru.py", "./mru.py", "mru.py:Mru", "mru:Mru"])
def test_a_rule_of_ones_own_takes_the_place_of_a_part(choice, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = policy_of(f"policy/eviction={choice}", "policy.eviction.weight=3")
    assert type(policy.eviction).__name__ == "Mru" and policy.eviction.weight == 3.0


def test_a_rule_of_ones_own_runs_and_is_named_in_the_provenance(tmp_path, capsys):
    write_trace(Path("t.safetensors"), random_trace(0))
    words = ["policy=lru", "policy/eviction=mru.py", "engine=compiled", "trace.path=t.safetensors"]
    assert main(["run", *words, f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    written = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert written["config"]["policy"]["eviction"] == {"_target_": f"{tmp_path / 'mru.py'}:Mru", "weight": 1.0}


@pytest.mark.parametrize("folder", [".", "inner"])
def test_a_policy_file_names_rules_beside_itself(folder):
    Path("inner").mkdir()
    place = Path(folder)
    (place / "own.py").write_text(MRU.format(name="Own"))
    (place / "mine.yaml").write_text(POLICY.format(rule="own.py"))
    (place / "part.yaml").write_text("_target_: own.py:Own\nweight: 2.0\n")
    assert type(policy_of(f"policy={place}/mine.yaml").eviction).__name__ == "Own"
    exchanged = policy_of(f"policy={place}/mine.yaml", "policy/eviction=lru").eviction
    assert type(exchanged).__module__ == "policies.eviction.lru"
    assert policy_of(f"policy/eviction={place}/part.yaml").eviction.weight == 2.0


def test_a_slip_in_a_policy_file_is_refused(tmp_path, capsys):
    Path("slip.yaml").write_text(POLICY.format(rule="mru.py") + "residencyy: all\n")
    assert main(["run", "policy=slip.yaml", "trace.path=t.safetensors"]) == 2
    assert "policy.residencyy is not a key of a policy: did you mean residency?" in capsys.readouterr().err


def test_sweeps_take_rules_beside_shipped_ones(tmp_path):
    write_trace(Path("t.safetensors"), random_trace(0))
    Path("other.py").write_text(MRU.format(name="Other"))
    words = ["policy=lru", "policy/eviction=lru,mru.py,other.py:Other", "engine=compiled", "trace.path=t.safetensors"]
    assert main(["run", "-m", *words, "hydra.sweep.dir=sweep"]) == 0
    assert len(list(Path("sweep").glob("lru_*/metrics.json"))) == 3


def test_an_installed_package_offers_rules_by_name(tmp_path, monkeypatch, capsys):
    package = tmp_path / "site"
    (package / "their-1.0.dist-info").mkdir(parents=True)
    (package / "their_rules.py").write_text(MRU.format(name="Theirs"))
    (package / "their-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    points = f"[{rule_files.GROUP}]\ntheir_mru = their_rules:Theirs\n"
    (package / "their-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(package))
    rule_files.entry_point_targets.cache_clear()
    try:
        assert type(policy_of("policy/eviction=their_mru").eviction).__name__ == "Theirs"
        assert main(["policies"]) == 0
        assert (
            "rules of installed packages: policy/PART=NAME\n  their_mru  their_rules:Theirs\n"
            in capsys.readouterr().out
        )
    finally:
        rule_files.entry_point_targets.cache_clear()


def test_the_content_of_a_file_and_of_what_lies_beside_it_counts_and_its_place_does_not(tmp_path):
    Path("helper.py").write_text("A = 1\n")
    Path("mru.py").write_text("import helper\n" + MRU.format(name="Mru"))
    before = by_content({"_target_": f"{tmp_path / 'mru.py'}:Mru"})
    (tmp_path / "moved").mkdir()
    for name in ("mru.py", "helper.py"):
        (tmp_path / "moved" / name).write_text(Path(name).read_text())
    assert by_content({"_target_": f"{tmp_path / 'moved' / 'mru.py'}:Mru"}) == before
    Path("helper.py").write_text("A = 2\n")
    assert by_content({"_target_": f"{tmp_path / 'mru.py'}:Mru"}) != before
    assert before != by_content({"_target_": f"{tmp_path / 'mru.py'}:Other"})


def test_an_edited_rule_is_another_run():
    write_trace(Path("t.safetensors"), random_trace(0))
    keys = []
    for text in (MRU, MRU.replace("-self", "self"), MRU):
        Path("mru.py").write_text(text.format(name="Mru"))
        config = compose_run("policy=lru", "policy/eviction=mru.py", "trace.path=t.safetensors")
        keys.append(place_of(config, Path("x")).key)
    assert keys[0] == keys[2] != keys[1]


def test_an_edited_file_is_run_anew_and_two_folders_may_have_a_helper_each():
    for name, number in (("one", 1), ("other", 2)):
        Path(name).mkdir()
        (Path(name) / "helper.py").write_text(f"A = {number}\n")
        (Path(name) / "rule.py").write_text("from helper import A\n")
    one, other = (run_file(Path(name) / "rule.py", "x=y") for name in ("one", "other"))
    assert (one.A, other.A) == (1, 2)
    assert run_file(Path("one/rule.py"), "x=y") is one
    Path("one/helper.py").write_text("A = 3\n")
    assert run_file(Path("one/rule.py"), "x=y").A == 3
    assert str(Path("one").absolute()) not in sys.path


@pytest.mark.parametrize(
    ("text", "target", "base", "says"),
    [
        (None, "no.py", Eviction, r"x=no\.py: there is no such file"),
        ("def f(:\n", "bad.py", Eviction, r"bad\.py:1: "),
        ("A = 1\nB = A / 0\n", "bad.py", Eviction, r"bad\.py:2: ZeroDivisionError"),
        ("import no_such_module_here\n", "bad.py", Eviction, r"bad\.py:1: No module named"),
        ("raise SystemExit(3)\n", "bad.py", Eviction, r"bad\.py:1: SystemExit"),
        ("A = 1\n", "bad.py", Eviction, "defines no rule of this part: a class derived from policies.base.Eviction"),
        (MRU.format(name="Mru"), "bad.py", Prediction, "defines Mru of policy/eviction, and no rule of this part"),
        (MRU.format(name="A") + MRU.format(name="B"), "bad.py", Eviction, r"defines A and B: name one.*bad\.py:A"),
        (MRU.format(name="Mru"), "bad.py:Mrv", Eviction, "has no Mrv: did you mean Mru"),
        (MRU.format(name="Mru"), "bad.py:State", Eviction, "must be a subclass of policies.base.Eviction"),
        (None, "policies.eviction.lru.Lra", Eviction, "has no Lra: did you mean Lru"),
        (None, "policies.eviction.nothing:Lru", Eviction, "cannot be imported: No module named"),
        (None, "word", Eviction, "must name a class"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_in_one_sentence(text, target, base, says):
    if text is not None:
        Path("bad.py").write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        find_class(target, base, "x")
    assert "\n" not in str(caught.value)
