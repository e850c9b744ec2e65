"""Whole evaluations: what they measure, that they resume, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.state import DROPPED
from policies.substitution.buddy import Buddy
from policies.substitution.similarity import Similarity
from policies.substitution.skip import Skip
from sim.quality import evaluate
from sim.quality.decode import decode
from sim.quality.drive import DROP, RANDOM
from sim.quality.evaluate import run_study, total_tokens
from sim.quality.generation import continuation, plain_continuations
from sim.quality.loop import Variant
from sim.quality.metrics import quality_row
from sim.quality.parallel import parallel, plain_logits
from sim.quality.report import text, token_table
from sim.quality.settings import ClozeConfig, GenerationConfig
from sim.quality.store import Store
from tests.sim.quality.small import BAND, loaded, study_of
from tests.support.replays import BARE
from tests.support.tiny_models import save_model

SMALL_TASKS = {
    "cloze": ClozeConfig(items=2, choices=2, context_tokens=8, continuation_tokens=4),
    "generation": GenerationConfig(windows=2, prompt_tokens=6, new_tokens=5),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_policy_that_replaces_nothing_changes_nothing() -> None:
    study = study_of(policy=BARE, **SMALL_TASKS)
    row = quality_row(study, run_study(study, Store(None)))
    assert row["policy.perplexity_ratio"] == 1.0 and row["policy.kl"] == 0.0 and row["policy.top1_agreement"] == 1.0
    assert row["policy.exact_match"] == 1.0 and row["policy.match_tokens"] == 5.0
    assert [variant.name for variant in study.variants] == ["policy"]
    assert "replaces nothing" in text(study, row)


def test_everything_resident_replaces_nothing_either() -> None:
    study = study_of(policy=replace(BAND, residency="all"))
    row = quality_row(study, run_study(study, Store(None)))
    assert row["policy.perplexity_ratio"] == 1.0 and row["hit_rate"] == 1.0 and row["policy.substitution_rate"] == 0.0


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_every_measure_of_every_variant(family: str) -> None:
    study = study_of(family, **SMALL_TASKS)
    done: list[int] = []
    results = run_study(study, Store(None), done.append)
    assert sum(done) == total_tokens(study)
    row = quality_row(study, results)
    names = [
        "policy",
        "inherit_weights",
        "drop",
        "random",
        *(f"layer_{i}" for i in range(study.template.trace.num_layers)),
    ]
    assert [variant.name for variant in study.variants] == names
    for name in names:
        assert row[f"{name}.kl"] > 0.0  # type: ignore[operator]
        assert row[f"{name}.perplexity_ratio"] is not None and row[f"{name}.perplexity_ratio.low"] is None  # too few
    assert row["policy.substitution_rate"] == pytest.approx(row["substitution_rate"])
    assert row["substitution_rate"] > 0.0  # type: ignore[operator]
    assert row["policy.drop_rate"] == 0.0 and row["drop.drop_rate"] > 0.0  # type: ignore[operator]
    assert row["tpot_s"] > 0.0 and 0.0 < row["lost_gate_mass"] < 1.0  # type: ignore[operator]
    assert {key for key in row if key.startswith("policy.a.")} and "policy.b.kl" in row
    json.dumps(row, allow_nan=False)
    table = token_table(study, results)
    assert {len(column) for column in table.values()} == {len(names) * 4 * 23}
    assert "as the policy says" in text(study, row)


def test_stand_ins_replace_the_same_ranks_and_nothing_else() -> None:
    study = study_of()
    ruled, dropped, random = (
        parallel(study.loop, study.windows.tokens[:1], variant)[0]
        for variant in (Variant("p"), Variant("d", DROP), Variant("r", RANDOM))
    )
    first = ruled.executed[:, 0], dropped.executed[:, 0], random.executed[:, 0]  # before trajectories part
    changed = first[0] != ruled.arrays.ids[:, 0]
    alive = ~changed.all(-1, keepdims=True)
    assert changed.any() and (first[1][changed & alive] == DROPPED).all()
    assert np.array_equal(first[1][~changed], ruled.arrays.ids[:, 0][~changed])
    assert np.array_equal(first[2][~changed], ruled.arrays.ids[:, 0][~changed])
    assert (first[2][changed] != ruled.arrays.ids[:, 0][changed]).all()
    for token in first[2]:
        assert len(set(token.tolist())) == len(token)


def test_dropping_by_the_rule_is_dropping_by_the_wrapper_as_long_as_caches_agree() -> None:
    """The first layer's first replaced token: SMoE's skipping rule drops what the bands would replace."""
    band = study_of()
    skip = study_of(policy=replace(BARE, name="skip", substitution=Skip(alpha=0.9)))
    wrapped = parallel(band.loop, band.windows.tokens[:1], Variant("d", DROP))[0].executed[:, 0]
    ruled = parallel(skip.loop, band.windows.tokens[:1], Variant("p"))[0].executed[:, 0]
    first = int(np.flatnonzero((wrapped == DROPPED).any(-1))[0])
    assert np.array_equal(wrapped[: first + 1], ruled[: first + 1])


@pytest.mark.parametrize("rule", [Buddy(), Similarity(alpha=0.9)], ids=["buddy", "similarity"])
def test_rules_that_learn_do_so_from_other_windows(rule: Buddy | Similarity) -> None:
    study = study_of(policy=replace(BARE, name="learner", substitution=rule), contrasts=False, per_layer=False)
    row = quality_row(study, run_study(study, Store(None)))
    assert row["policy.substitution_rate"] > 0.0  # type: ignore[operator]
    assert any("3 further windows" in warning for warning in study.notes.warnings)


def test_a_killed_evaluation_goes_on_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quality_row(study := study_of(**SMALL_TASKS), run_study(study, Store(None)))
    calls, real = [0], evaluate.parallel

    def dies(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] > 9:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "parallel", dies)
    study = study_of(batch_windows=1, **SMALL_TASKS)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, Store(tmp_path / "kept"))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["window_0.npz"]
    (tmp_path / "kept" / ".window_1.npz.part").write_bytes(b"half a file")
    calls[0] = -1000
    again = run_study(study_of(batch_windows=1, **SMALL_TASKS), Store(tmp_path / "kept"))
    assert calls[0] == -1000 + 3 * 7 + 2 * 4  # three windows of 7 variants, two items of 4
    resumed = quality_row(study, again)
    words = {key for key, value in whole.items() if isinstance(value, str) or value is None}
    assert {key: resumed[key] for key in words} == {key: whole[key] for key in words}
    ratios = {
        key for key in whole if "kl_over_policy" in key
    } - words  # of divergences that are hardly more than rounding here
    numbers = set(whole) - words - ratios
    assert {key: resumed[key] for key in ratios} == pytest.approx(
        {key: whole[key] for key in ratios}, abs=0.05, nan_ok=True
    )
    assert {key: resumed[key] for key in numbers} == pytest.approx(
        {key: whole[key] for key in numbers}, rel=1e-4, abs=1e-6
    )


def test_a_carried_cache_gives_other_results_than_one_that_is_reset() -> None:
    fresh, carried = study_of(), study_of(reset="never")
    rows = [quality_row(study, run_study(study, Store(None))) for study in (fresh, carried)]
    assert rows[0]["hit_rate"] < rows[1]["hit_rate"]  # type: ignore[operator]
    assert fresh.loop.resets and carried.carried


def test_free_running_generation_feeds_back_its_own_tokens() -> None:
    study = study_of()
    prompt = study.windows.tokens[0, :6]
    base = plain_continuations(loaded("olmoe").model, prompt[None], 5)[0]
    sequence = np.concatenate([prompt, base])
    assert plain_logits(loaded("olmoe").model, sequence[None])[0, 5:-1].argmax(-1).tolist() == base.tolist()
    tokens, timing = continuation(study.loop, prompt, 5, Variant("policy"))
    assert tokens.shape == (5,) and timing.latency_ns.shape == (5,) and (timing.counts[1:, 10] == 3 * 3).all()
    forced = decode(study.loop, np.concatenate([prompt, tokens]), Variant("policy"))
    assert forced.executed.shape == (11, 3, 3)


def test_the_command_writes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from sim.commands import quality

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOE_SIM_CACHE", str(tmp_path / "cache"))
    save_model(loaded("olmoe").model, tmp_path / "tiny")
    lines = [
        json.dumps({"prompt": chr(97 + i) * 5 + " so,\nnow a=1\nand more", "label": "ab"[i % 2]}) for i in range(6)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    words = ["model=tiny", "prompts=p.jsonl", "windows=3", "tokens=20", "cache.slots_per_layer=4", "policy=cache_prior"]
    tasks = ["cloze.items=2", "cloze.context_tokens=8", "cloze.continuation_tokens=4", "cloze.choices=2"]
    tasks += ["generation.windows=1", "generation.prompt_tokens=6", "generation.new_tokens=4"]
    tasks += ["lines.items=4", "lines.left=4", "lines.prompt_tokens=3", "lines.new_tokens=6"]
    assert quality.main([*words, *tasks]) == 0
    printed = capsys.readouterr().out
    assert "quality MEASURED, times SIMULATED" in printed and "random resident experts" in printed
    (folder,) = (tmp_path / "outputs" / "quality").iterdir()
    row = json.loads((folder / "quality.json").read_text())
    assert row["policy"] == "cache_prior" and row["policy.kl"] > 0
    assert row["lines.items"] == 3 and row["policy.perplexity_ratio.within"] == "undecided"  # three documents
    assert "lines.items=4: the windows hold 3 lines to finish" in printed and "as untouched" in printed
    assert json.loads((folder / "provenance.json").read_text())["label"]["quality"] == "MEASURED"
    assert (folder / "tokens.parquet").is_file()
    assert not list((tmp_path / "cache" / "quality").iterdir())  # nothing is left to resume


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["policy=belady"], "policy belady: Belady sees the future, which a running model does not have"),
        (["policy=importance", "mode=parallel"], "mode=parallel is not exact here: Lookahead of policy importance"),
        (["policy=lru", "cache.scope=global", "mode=parallel"], "cache.scope=global lets layers compete"),
        (["policy=hobbit"], "executes low-precision copies"),
        (["policy=lru", "weights=both"], "weights=both: must be own or inherit"),
        (["policy=lru", "windows=0"], "windows=0: must be at least 1"),
        (["policy=lru", "cloze.items=99"], "cloze.items=99: at most windows=24"),
        (["policy=lru", "generation.prompt_tokens=250"], "together at most tokens=256"),
        (["policy=lru", "model=gpt_oss_20b"], "only states sizes"),
        (["policy=lru", "model=no/such/folder"], "this folder does not exist"),
        (["policy=lru", "cache.fraction=2"], "cache.fraction=2: must be above 0"),
    ],
)
def test_bad_input_is_one_sentence(
    overrides: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from sim.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["quality", *overrides]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list((tmp_path / "outputs" / "quality").glob("*"))
