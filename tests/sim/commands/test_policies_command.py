"""`policies`: every system and rule is listed with what it needs, and explained by name."""

import json

import pytest
from omegaconf import OmegaConf

from policies.eviction.mrs import Mrs
from policies.needs import Need
from sim.assembly.build import make_policy
from sim.assembly.catalogue import (
    PARTS,
    load_policy,
    paragraphs,
    rule_names,
    run_with,
    source_of,
    system_names,
)
from sim.assembly.compose import compose_run
from sim.commands.policies import main
from traces.errors import UserError


def printed(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_the_list_names_every_system_and_rule_with_needs(capsys):
    lines = [" ".join(line.split()) for line in printed(capsys).splitlines()]
    for name in system_names():
        assert any(line.startswith(f"{name} ") for line in lines), name
    for part in PARTS:
        at = lines.index(f"{part}: policy/{part}=NAME") + 1
        below = lines[at : at + len(rule_names(part))]
        assert [line.split()[0] for line in below] == rule_names(part)
    assert (
        "belady_admit Belady's MIN with forced admission, over experts that the running step spares. [future]" in lines
    )
    assert "lru Plain offloading with a least-recently-used cache. Decides as mlx_ssd, always." in lines


def test_a_rule_is_explained_by_part_and_name(capsys):
    text = printed(capsys, "eviction/mrs")
    assert text.startswith("eviction mrs: HybriMoE's minus-recent score.\n  policies.eviction.mrs.Mrs\n")
    assert "S <- alpha * TopP(s) + (1 - alpha) * S" in text
    assert "    policy.eviction.alpha=0.5                    of the released code" in text
    assert "policy.eviction.kept=null" in text and "    gate_scores: scores of all experts" in text
    assert "Source: HybriMoE" in text and "policy/eviction=mrs" in text
    assert "system" not in text.splitlines()[0]


def test_a_name_of_several_gives_all_of_them(capsys):
    heads = [line.split(":")[0] for line in printed(capsys, "lru").splitlines() if line and line[0] != " "]
    assert heads == ["system lru", "eviction lru"]


def test_a_system_shows_its_parts_and_how_to_run_it(capsys):
    lines = [" ".join(line.split()) for line in printed(capsys, "smoe_code").splitlines()]
    assert lines[0] == "system smoe_code" and "prediction lookahead_after" in lines and "write_back none" in lines
    assert "python -m sim run policy=smoe_code" in lines and "scope global" in lines and "start warm" in lines
    assert any(line.startswith("lookahead_after (Lookahead): ") for line in lines)


def test_json_holds_the_same(capsys):
    found = json.loads(printed(capsys, "--json"))
    assert [system["name"] for system in found["systems"]] == system_names()
    assert len(found["rules"]) == sum(len(rule_names(part)) for part in PARTS)
    (mrs,) = json.loads(printed(capsys, "mrs", "--json"))["rules"]
    assert mrs["needs"] == ["gate_scores"] and mrs["source"].startswith("HybriMoE, section on score-aware caching")
    assert mrs["knobs"][0] == {"name": "alpha", "default": "0.5", "comment": "of the released code"}


def test_every_need_has_a_sentence():
    assert all(need.sentence for need in Need)


@pytest.mark.slow
@pytest.mark.parametrize("name", system_names())
def test_systems_are_read_as_hydra_composes_them(name):
    composed = compose_run(f"policy={name}").policy
    assert OmegaConf.is_config(composed) and load_policy(name) == make_policy(composed)


def test_every_rule_cites_a_source_or_is_the_part_switched_off(capsys):
    bare = [rule["name"] for rule in json.loads(printed(capsys, "--json"))["rules"] if rule["source"] is None]
    assert set(bare) == {"none"}


def test_unknown_names_end_in_one_sentence():
    with pytest.raises(UserError, match="impotance is neither a system nor a rule: did you mean importance"):
        main(["impotance"])
    with pytest.raises(UserError, match="policy=nothing is not known: choose one of adapmoe, "):
        load_policy("nothing")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "policy/PART=NAME" in text and "--json" in text


def test_paragraphs_and_source_by_hand(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# What it\n# is.\n# Source: here\n# Run with: a=1 b=2 (c: d)\n# Left out: x\n# y.\nz: 1 # no\n")
    header = paragraphs(path)
    assert header == ("What it is.", "Source: here", "Run with: a=1 b=2 (c: d)", "Left out: x y.")
    assert run_with(header) == ["a=1", "b=2"] and run_with(header[:2]) == []
    assert source_of("A.\n\nSource: one\ntwo.\n\nThree.") == "one two." and source_of("A.") is None
    assert source_of(Mrs.__doc__ or "") is not None
