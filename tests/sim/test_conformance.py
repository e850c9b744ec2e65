"""The conformance vectors: both engines give them, a reader in numpy agrees, and wrong tools are found out."""

import importlib.util
import json
import math
import re

import pytest

from scripts.maintenance.conformance import CASES, answers, vector
from sim.__main__ import main
from sim.commands.judge import __doc__ as judge_help
from sim.conformance.judge import RIGHT, UNANSWERED, VECTORS, WRONG, judge, vectors
from sim.paths import ROOT
from traces.errors import UserError

DOCS = ROOT / "docs" / "conformance"
READER = importlib.util.spec_from_file_location("reader", DOCS / "reader.py")
reader = importlib.util.module_from_spec(READER)
READER.loader.exec_module(reader)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_engines_give_the_committed_answers(case):
    stored = json.loads((VECTORS / f"{case.name}.json").read_text())
    assert stored == json.loads(json.dumps(vector(case)))
    assert stored["answers"] == answers(case, "compiled")


def test_no_vector_without_a_case():
    assert {*vectors()} == {case.name for case in CASES}


def outcomes(found):
    return {one.name: one.outcome for one in found}


def flattened(one):
    """LRU over a list of accesses, one after the other."""
    slots, warm, held = one["cache"]["slots_per_layer"], one["cache"].get("start") == "warm", {}
    rows = [token for request in one["trace"]["requests"] for token in request["ids"]]
    steps = []
    for step in one["answers"]["steps"]:
        hits = []
        for layer in range(len(rows[0])):
            order = held.setdefault(layer, list(range(slots)) if warm else [])
            count = 0
            for expert in [expert for token in step["tokens"] for expert in rows[token][layer] if expert >= 0]:
                count += expert in order
                if expert in order:
                    order.remove(expert)
                order.append(expert)
                del order[:-slots]
            hits.append(count)
        steps.append({"hits": hits})
    return {"steps": steps}


def wrong_tools():
    """What each wrong tool answers."""
    known = vectors()
    lru = {name: flattened(one) for name, one in known.items() if one["policy"] == "lru"}
    late = {
        name: reader.replay(one, lambda ids, steps, number, *rest: reader.next_step(ids, steps, number + 1, *rest))
        for name, one in known.items()
        if one["policy"] == "belady_admit"
    }
    on_the_link = {}
    for name, one in known.items():
        if one["policy"] == "lru+lookahead":
            totals = one["answers"]["totals"]
            on_the_link[name] = {"totals": {"hit": totals["hit"] + totals["late"], "demanded": totals["demanded"]}}
    rules = {"lru": None, "belady_admit": reader.next_step}
    forgotten = {
        name: reader.replay(kept_only(one), rules[one["policy"]])
        for name, one in known.items()
        if "drafts" in one["trace"]["requests"][0]
    }
    return {
        "flattened_lru": lru, "late_belady": late, "hit_on_the_link": on_the_link, "forgotten_drafts": forgotten
    }  # fmt: skip


def kept_only(one):
    """A vector as a tool sees it that demands nothing for drafts that are rejected."""
    steps = [step | {"tokens": step["kept"]} for step in one["answers"]["steps"]]
    return one | {"answers": {"steps": steps}}


@pytest.mark.parametrize(
    ("tool", "wrong"),
    [
        ("flattened_lru", {"lru_step_is_looked_up_whole", "lru_batch_union"}),
        ("late_belady", {"belady_next_use"}),
        ("hit_on_the_link", {"prefetch_on_the_link_is_late"}),
        ("forgotten_drafts", {"lru_drafts_rejected", "lru_drafts_evict", "lru_drafts_batch", "belady_admit_drafts"}),
    ],
)
def test_wrong_tools_are_found_out(tool, wrong, capsys):
    path = DOCS / "answers" / f"{tool}.json"
    given = {"tool": tool, "answers": wrong_tools()[tool]}
    assert json.loads(path.read_text()) == given
    found = outcomes(judge(given))
    assert wrong <= {name for name, outcome in found.items() if outcome == WRONG}
    assert main(["judge", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"{tool}: " in said and "must be" in said


def test_the_reader_is_right_about_what_it_answers(tmp_path, capsys):
    rules = {"lru": None, "belady_admit": reader.next_step}
    given = {
        name: reader.replay(one, rules[one["policy"]]) for name, one in vectors().items() if one["policy"] in rules
    }
    found = outcomes(judge({"tool": "reader", "answers": given}))
    assert {name for name, outcome in found.items() if outcome == RIGHT} == {*given} and len(given) >= 8
    assert {outcome for name, outcome in found.items() if name not in given} == {UNANSWERED}
    (tmp_path / "mine.json").write_text(json.dumps({"tool": "reader", "answers": given}))
    assert main(["judge", str(tmp_path / "mine.json")]) == 0
    assert f"reader: {len(given)} right, 0 wrong, {len(found) - len(given)} not answered" in capsys.readouterr().out
    page, lines = (DOCS / "README.md").read_text(), len((DOCS / "reader.py").read_text().splitlines())
    assert f"in {lines} lines of numpy; answers {len(given)} of the vectors" in page
    assert f"a reader of {lines} lines of numpy" in judge_help


def test_right_answers_in_full_are_right():
    given = {name: one["answers"] for name, one in vectors().items()}
    assert {one.outcome for one in judge({"answers": given})} == {RIGHT}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "answers: must hold a member for each vector"),
        ({"answers": {}}, "answers: none of the "),
        ({"answers": {"lru": {"steps": [], "totals": None}}}, "vectors is answered"),
        ({"answers": {"lruu": {}}}, "answers.lruu is no vector: did you mean lru?"),
        ({"answers": {"lru": 7}}, "answers.lru: must hold steps, totals or both"),
        ({"answers": {"lru": {"steps": [{}]}}}, "answers.lru.steps has 1 steps: must be 8"),
        ({"answers": {"lru": {"steps": [7] * 8}}}, "must be names and values"),
        ({"answers": {"lru": {"steps": {}}}}, "answers.lru.steps: must be a list"),
        ({"answers": {"lru": {"totals": {"hitz": 1}}}}, "answers.lru.totals.hitz is not a member"),
        ({"answers": {"lru": {"steps": [{"outcomes": [7]}] * 8}}}, "must be the outcome of each expert"),
    ],
)
def test_answers_of_another_shape_are_one_sentence(given, sentence, tmp_path, capsys):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?").replace(".", r"\.")):
        judge(given)
    (tmp_path / "a.json").write_text(json.dumps(given))
    assert main(["judge", str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("3", '"3"'), (True, "true"), (math.nan, "NaN"), (10**400, "1000"), ([3], r"\[3\]"), (3.5, "3.5")],
)
def test_a_number_of_another_kind_is_wrong_and_shown_as_it_is(value, shown):
    (found,) = [one for one in judge({"answers": {"lru": {"totals": {"hit": value}}}}) if one.name == "lru"]
    assert found.outcome == WRONG and re.search(f"hit: {shown}.*, must be 3", found.why)


def test_the_vectors_are_written_out(tmp_path, capsys):
    assert main(["judge", "vectors", f"out={tmp_path / 'v'}"]) == 0
    assert {path.stem for path in (tmp_path / "v").iterdir()} == {*vectors()}
    assert main(["judge", str(tmp_path / "none.json")]) == 2
    assert main(["judge", str(tmp_path / "v" / "lru.json"), "out=x"]) == 2
