"""What commands end with: the next useful command, which is one that runs."""

import json
import shlex

import pytest

from sim.__main__ import main
from sim.commands.bench import follow_up
from sim.terminal import next_commands


def following(printed):
    """The commands at the end of what a command printed, as words after `python -m sim`."""
    lines = printed[printed.rindex("next: ") + len("next: ") :].splitlines()
    assert all(line.strip().startswith("python -m sim ") for line in lines), lines
    return [shlex.split(line)[3:] for line in lines]


def test_words_are_quoted_for_a_shell():
    assert next_commands(["report", "my runs"], ["info", "a"]) == (
        "next: python -m sim report 'my runs'\n      python -m sim info a"
    )


@pytest.fixture
def swept(tmp_path, monkeypatch, capsys):
    """Two runs in a folder, and what the second one printed."""
    monkeypatch.chdir(tmp_path)
    for policy in ("lru", "on_demand"):
        words = [f"policy={policy}", "engine=compiled", "trace.requests=2", f"out=my runs/{policy}"]
        assert main(["run", *words]) == 0
    return capsys.readouterr().out.rpartition("results in ")[2]


def test_each_command_leads_to_the_next(swept, tmp_path, capsys):
    report, what_if = following(swept)
    assert report == ["report", str(tmp_path / "my runs/on_demand")]
    assert what_if == ["run", "policy=on_demand", "engine=compiled", "trace.requests=2", "what_if=true"]
    assert main(["compare", "my runs", "machines=0", "metric=hit_rate"]) == 0
    assert "tokens/s" not in capsys.readouterr().out
    assert main(["compare", "my runs", "machines=0"]) == 0
    printed = capsys.readouterr().out
    assert "A tokens/s" in printed and "B tokens/s" in printed
    (report,) = following(printed)
    assert main([*report, "machines=0"]) == 0
    (plot,) = following(capsys.readouterr().out)
    assert plot == ["plot", "my runs", "notes=false"]
    assert main([*plot, "figure=attribution", "machines=0"]) == 0
    assert following(capsys.readouterr().out) == [["report", "my runs"]]


def test_what_was_asked_already_is_not_offered(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "policy=lru", "engine=untimed", "trace.requests=1", "out=a"]) == 0
    assert following(capsys.readouterr().out) == [["report", str(tmp_path / "a")]]


def test_an_imported_trace_leads_to_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "demo", "routing.csv"]) == 0
    assert main(["import", "table", "routing.csv", "again.safetensors"]) == 0
    info, sweep = following(capsys.readouterr().out)
    assert main(info) == 0
    assert sweep[:3] == ["run", "-m", "trace.path=again.safetensors"]


def test_a_checked_rule_leads_to_its_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check-policy", "eviction/fifo", "trace.requests=1", "budget=5"]) == 0
    assert following(capsys.readouterr().out) == [["run", "policy=lru", "policy/eviction=fifo", "trace.requests=1"]]


@pytest.mark.slow
def test_traces_cards_and_tables_lead_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["card", "demo", "my card.yaml"]) == 0
    (drawn,) = following(capsys.readouterr().out)
    assert drawn[:3] == ["run", "trace=synthetic", "card=my card.yaml"]
    assert main([*drawn, "trace.requests=1", "trace.tokens=2", "quiet=true"]) == 0
    assert main(["info", "demo"]) == 0
    plot, sweep = following(capsys.readouterr().out)
    assert plot[:2] == ["plot", "demo"] and sweep[2] == "trace=demo"
    assert main(["export", "demo", "routing.csv"]) == 0
    assert following(capsys.readouterr().out) == [["import", "table", "routing.csv", "again.safetensors"]]
    assert main(["judge", "vectors", "out=v"]) == 0
    assert following(capsys.readouterr().out) == [["judge", "mine.json"]]
    vector = json.loads(sorted((tmp_path / "v").glob("*.json"))[0].read_text())
    answers = {vector["name"]: {"totals": vector["answers"]["totals"]}}
    (tmp_path / "mine.json").write_text(json.dumps({"tool": "mine", "answers": answers}))
    main(["judge", "mine.json"])
    assert following(capsys.readouterr().out) == [["judge", "vectors", "out=vectors"]]


def test_a_gathered_folder_and_an_exported_run_lead_to_its_report(swept, capsys):
    assert main(["gather", "my runs"]) == 0
    assert following(capsys.readouterr().out) == [["report", "my runs"], ["compare", "my runs"]]
    assert main(["export", "my runs/lru", "keep.csv", "--as", "frequency"]) == 0
    assert following(capsys.readouterr().out) == [["report", "my runs/lru"]]


def test_a_score_leads_to_all_scores_and_those_to_more_capacities():
    mine = [["policy=lru", "policy/assignment=two_pointer"]]
    assert follow_up(mine, every=False) == ["bench", "all", "policy=lru policy/assignment=two_pointer", "out=board"]
    assert follow_up([["all"], *mine], every=True) == ["run", "-m", *mine[0], "cache.fraction=0.125,0.25,0.5"]
    assert follow_up([["all"]], every=True)[2] == "policy=lru,importance"
