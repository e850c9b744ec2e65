"""The benchmark of policies: scores by hand, ranks, and what is refused."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sim.__main__ import main
from sim.bench import fairness, quality, suite
from sim.bench import score as scoring
from sim.bench.leaderboard import SHIPPED, html, table
from sim.bench.quality import Quality, measured
from sim.bench.score import BOUNDS, CLASSES, LOSSLESS, REST, SCALE, UNMEASURED, ranked, score
from sim.bench.suite import CELLS, Played, Replayed
from sim.commands.bench import label
from sim.paths import CONF, ROOT, yaml_names
from sim.statistics.bootstrap import estimate, ratio


def played(name, seconds, lost=0.0, sees=False, prompts=False, cells=None):
    """Every cell the same: decode time of each of six requests of ten steps, in ns."""
    times = np.stack([np.asarray(seconds, float) * 1e9 * 10, np.full(6, 10.0)], axis=1)
    one = Replayed(times, lost, lost > 0 or prompts, prompts)
    return Played(name, (one,) * len(cells or CELLS), sees)


NONE, ALL = played("on_demand", [5, 6, 5, 6, 5, 6]), played("all_resident", [1, 1, 1, 1, 1, 1])


def test_a_score_by_hand():
    half = score(played("mine", [3, 3.5, 3, 3.5, 3, 3.5]), NONE, ALL)
    assert half.value == pytest.approx((5.5 - 3.25) / 4.5) and half.low <= half.value <= half.high
    assert half.by_batch == (half.value, half.value) and half.worst_cell == pytest.approx(half.value)
    assert score(played("on_demand", [3] * 6), NONE, ALL).kind == LOSSLESS  # a name alone makes nobody an end
    ends = [score(one, NONE, ALL) for one in (NONE, ALL)]
    assert [one.value for one in ends] == [0.0, 1.0] and {one.kind for one in ends} == {SCALE}


@pytest.mark.parametrize(
    ("lost", "sees", "quality", "kind"),
    [
        (0.0, False, None, LOSSLESS),
        (0.2, False, Quality(0.010, 0.009, 0.0108), CLASSES[1]),
        (0.01, False, Quality(0.010, 0.009, 0.0109), CLASSES[2]),
        (0.01, False, Quality(0.030, 0.029, 0.0314), REST),
        (0.01, False, Quality(why="torch is not installed"), UNMEASURED),
        (0.01, False, None, UNMEASURED),
        (0.0, True, None, BOUNDS),
    ],
)  # fmt: skip
def test_classes(lost, sees, quality, kind):
    one = score(played("mine", [3] * 6, lost, sees), NONE, ALL, quality)
    assert one.kind == kind
    (row,) = table([one]).to_dict("records")
    assert (row["rank"] == "1") == (kind in CLASSES) and row["note"] == (quality.why if quality else "")
    assert (row["kl"] != "") == (quality is not None and not quality.why)


def test_what_replaces_only_in_prompts_is_not_lossless():
    one = played("mine", [3] * 6, prompts=True)
    assert score(one, NONE, ALL).kind == UNMEASURED and "prompts" in measured({}, one).why


def test_where_torch_is_absent_that_is_said(monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(quality, "single_thread", absent)
    assert measured({}, played("mine", [3] * 6, 0.1)).why.startswith("torch is not installed")


def test_quality_speaks_only_of_what_is_given_up_as_in_the_replays(monkeypatch):
    worst, other = (estimate(np.full((4, 2), value), ratio) for value in (2.0, 1.0))
    in_cells = [(other, 0.2)] * 8 + [(worst, 0.15)]
    monkeypatch.setattr(quality, "_in_cells", lambda *_: in_cells)
    assert measured({}, played("mine", [3] * 6, 0.2)).kl == worst.value
    said = measured({}, played("mine", [3] * 6, 0.22)).why
    assert "15.0%" in said and "22.0%" in said


def test_ranks_say_how_sure_they_are():
    near = [5.0, 2.0, 5.0, 2.0, 5.0, 2.0]
    times = {"best": [2.0] * 6, "a": near, "b": [time + 0.01 * (-1) ** i for i, time in enumerate(near[::-1])]}
    scores = [score(played(name, seconds), NONE, ALL) for name, seconds in times.items()]
    found = {one.policy: (rank, span) for one, rank, span in ranked(scores)}
    assert found["best"] == (1, (1, 1))
    assert {found["a"][1], found["b"][1]} == {(2, 3)}


def test_equal_scores_share_a_rank():
    """A digit that is not printed decides nothing, in the draws neither."""
    times = {"b": [2.0] * 6, "a": [2.0 + 1e-9] * 6, "c": [2.0 - 1e-9] * 6, "worse": [3.0] * 6}
    found = ranked([score(played(name, seconds), NONE, ALL) for name, seconds in times.items()])
    assert [(one.policy, rank, span) for one, rank, span in found] == [
        ("a", 1, (1, 1)), ("b", 1, (1, 1)), ("c", 1, (1, 1)), ("worse", 4, (4, 4)),
    ]  # fmt: skip


@pytest.fixture
def two_cells(monkeypatch):
    """One machine and budget, both batch sizes."""
    cells = (CELLS[1], CELLS[10])
    assert [cell.batch for cell in cells] == [1, 4]
    for module in (suite, scoring):
        monkeypatch.setattr(module, "CELLS", cells)


def test_the_command_ranks_and_writes_the_same_bytes_again(two_cells, tmp_path, capsys):
    contents = []
    for name in ("a", "b"):
        assert main(["bench", "policy=lru", "policy=lru policy/assignment=two_pointer", f"out={tmp_path / name}"]) == 0
        contents.append([(tmp_path / name / f"leaderboard.{end}").read_bytes() for end in ("csv", "html")])
    assert contents[0] == contents[1]
    found = pd.read_csv(tmp_path / "a" / "leaderboard.csv")
    assert found["policy"].tolist() == ["lru assignment=two_pointer", "lru", "all_resident", "on_demand"]
    assert found["score"].tolist()[2:] == [1.0, 0.0] and 0 < found["score"][1] < found["score"][0] < 1
    page = contents[0][1].decode()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "SIMULATED" in page
    said = capsys.readouterr().out
    assert "in its class" in said and "lossless" in said


def test_a_rule_that_peeks_is_refused(two_cells, tmp_path, capsys, monkeypatch):
    """It evicts by the next use of experts and does not say that it sees the future."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "peek.py").write_text(
        "from dataclasses import dataclass\n\n"
        "from policies.base import Eviction, Vector\n"
        "from policies.state import State\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Peek(Eviction):\n"
        '    """Keep what is used next soonest."""\n\n'
        "    def touch(self, state: State, memory: Vector) -> None:\n"
        "        for expert in range(state.num_experts):\n"
        "            state.priority[state.layer, expert] = -state.next_use[state.layer, expert]\n"
    )
    assert main(["bench", "policy=lru policy/eviction=peek.py"]) == 2
    assert "next_use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "bench takes policies, as policy=lru, or the word all"),
        (["lru"], "'lru' must be policy=NAME: did you mean policy=lru"),
        (["policy=lru hardware=s1_rtx3080ti"], "then overrides of that policy alone"),
        (["policy=lruu"], "policy=lruu is not known"),
        (["policy=lru,dali"], "policy=lru,dali: one policy a word"),
        (["policy=lru", "out="], "at most one out=FOLDER"),
    ],
)
def test_other_words_are_refused(words, sentence, capsys):
    assert main(["bench", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_one_of_ones_own_stands_among_all_shipped_ones(monkeypatch, tmp_path):
    """`all` beside a policy; what Hydra composes and the replays are not under test here."""
    monkeypatch.setattr(suite, "composed", lambda words: SimpleNamespace(name=words[0][len("policy=") :].split(".")[0]))
    monkeypatch.setattr(suite, "play", lambda policy, tell: played(policy.name, [3] * 6))
    monkeypatch.setattr(fairness, "check_fair", lambda policy, is_end: None)
    mine = "policy=mine.yaml"
    assert main(["bench", "all", mine, "policy=lru", "policy=on_demand policy/prefetch=none", f"out={tmp_path}"]) == 0
    found = pd.read_csv(tmp_path / "leaderboard.csv")["policy"].tolist()
    assert sorted(found) == sorted([*yaml_names(CONF / "policy"), "mine", "on_demand prefetch=none"])


def test_the_shipped_board_holds_every_policy_and_is_of_this_suite():
    board = pd.read_csv(SHIPPED)
    assert {*board["policy"]} == {*yaml_names(CONF / "policy")}
    assert set(board["suite"]) == {suite.VERSION} and set(board["label"]) == {"times SIMULATED, KL MEASURED"}
    replacing = board[board["lost_gate_mass"] > 0]
    assert len(replacing) == 11 and replacing["kl_high"].notna().sum() >= 9


def test_the_page_of_the_shipped_board_is_made_of_its_table():
    board = pd.read_csv(SHIPPED, dtype=str, keep_default_na=False)
    assert (ROOT / "docs" / "results" / "leaderboard.html").read_text() == html(board)


@pytest.mark.slow
def test_the_shipped_board_is_what_the_command_gives():
    ends = [suite.play(suite.composed([f"policy={name}"])) for name in suite.ENDS]
    board = pd.read_csv(SHIPPED).set_index("policy")
    assert score(suite.play(suite.composed(["policy=lru"])), *ends).value == pytest.approx(
        board["score"]["lru"], abs=1e-4
    )


def test_a_name_on_the_board_says_whose_it_is():
    assert label(["policy=lru"], "lru") == "lru" and label(["policy=mine.yaml"], "mine") == "mine"
    assert label(["policy=mine.yaml"], "dali") == "dali (mine.yaml)"
    assert label(["policy=dali.yaml"], "dali") == "dali (dali.yaml)"
    assert label(["policy=dali", "policy/eviction=lru", "policy.eviction.x=1"], "dali").startswith("dali eviction=lru")


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    """The whole suite, replays and measured quality, with nothing kept from one to the other but compiled code."""
    contents = []
    for name in ("a", "b"):
        words = ["bench", "policy=importance", "policy=dali", f"out={tmp_path / name}"]
        subprocess.run([sys.executable, "-m", "sim", *words], cwd=ROOT, check=True, capture_output=True, timeout=600)
        contents.append([(tmp_path / name / f"leaderboard.{end}").read_bytes() for end in ("csv", "html")])
    assert contents[0] == contents[1]
    row = pd.read_csv(tmp_path / "a" / "leaderboard.csv").set_index("policy").loc["importance"]
    shipped = pd.read_csv(SHIPPED).set_index("policy").loc["importance"]
    assert row["class"] == shipped["class"] and row["kl"] == pytest.approx(shipped["kl"], abs=2e-4)


def test_the_page_shows_names_of_others_as_text():
    one = score(replace(played("<b>\x1b[31m", [3] * 6)), NONE, ALL)
    page = html(table([one]))
    assert "<b>" not in page and "\x1b" not in page and "&lt;b&gt;" in page
