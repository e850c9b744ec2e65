"""Passes that run side by side give what each gives alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.prediction.lookahead import Lookahead
from sim.quality import evaluate
from sim.quality.cloze import cloze_item, log_likelihoods
from sim.quality.decode import decode
from sim.quality.drive import DROP, RANDOM
from sim.quality.evaluate import run_study
from sim.quality.generation import continuation, plain_continuations
from sim.quality.loop import Variant
from sim.quality.measures import per_token
from sim.quality.metrics import quality_row
from sim.quality.parallel import plain_logits
from sim.quality.report import token_table
from sim.quality.settings import ClozeConfig, GenerationConfig
from sim.quality.store import Store
from sim.quality.study import POLICY
from tests.sim.quality.small import BAND, study_of
from tests.sim.quality.test_equal_decisions import POLICIES

TASKS = {
    "cloze": ClozeConfig(items=3, choices=3, context_tokens=8, continuation_tokens=4),
    "generation": GenerationConfig(windows=3, prompt_tokens=6, new_tokens=5),
}
PREFETCHES = {
    "before": replace(BAND, prediction=Lookahead(), prefetch=POLICIES["prefetch"].prefetch),
    "after": replace(POLICIES["prefetch_end"], substitution=BAND.substitution),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", PREFETCHES)
def test_windows_and_variants_side_by_side_are_those_alone(name):
    study = study_of(policy=PREFETCHES[name], mode="decode", **TASKS)
    assert {variant.name for variant in study.variants} == {"policy", "inherit_weights", "drop", "random"}
    results = run_study(study, Store(None))
    base = plain_logits(study.loop.model, study.windows.tokens)
    replaced = 0.0
    for number, window in enumerate(study.windows.tokens):
        for variant in study.variants:
            alone, found = decode(study.loop, window, variant, number), results.windows[number]
            np.testing.assert_allclose(
                found[variant.name], per_token(base[number], alone.logits, window), rtol=1e-3, atol=2e-4
            )
            changed = float((alone.executed != alone.arrays.ids).mean())
            assert found[f"{variant.name}.changed"].sum() == pytest.approx(changed)
            replaced += changed
            if variant.name == POLICY:
                assert found["latency_ns"].tolist() == alone.timing.latency_ns.tolist()
                assert found["counts"].tolist() == alone.timing.counts.tolist()
    assert replaced > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PREFETCHES)
def test_choices_that_share_their_context_are_those_decoded_whole(name):
    study = study_of(policy=PREFETCHES[name], mode="decode", **TASKS)
    found = run_study(study, Store(None)).cloze
    for item in range(3):
        tokens = cloze_item(study.windows, item, study.config.cloze, study.config.quality.text_seed)
        for variant in study.variants:
            logits = [decode(study.loop, choice, variant).logits for choice in tokens]
            np.testing.assert_allclose(found[item][variant.name], log_likelihoods(logits, tokens, 8), rtol=1e-4)


def test_continuations_side_by_side_are_those_alone():
    study = study_of(policy=PREFETCHES["before"], mode="decode", **TASKS)
    found = run_study(study, Store(None)).generation
    for number in range(3):
        prompt = study.windows.tokens[number, :6]
        assert found[number]["base"].tolist() == plain_continuations(study.loop.model, prompt[None], 5)[0].tolist()
        for variant in study.variants:
            tokens, timing = continuation(study.loop, prompt, 5, variant, number)
            assert found[number][variant.name].tolist() == tokens.tolist()
            if variant.name == POLICY:
                assert found[number]["latency_ns"].tolist() == timing.latency_ns.tolist()


def test_variants_side_by_side_each_have_their_own_weights_and_layer():
    study = study_of(policy=PREFETCHES["before"], mode="decode")
    window = study.windows.tokens[0]
    variants = [
        Variant("a"),
        Variant("b", scheme="inherit"),
        Variant("c", DROP),
        Variant("d", RANDOM),
        Variant("e", layer=1),
    ]
    logits = []
    evaluate.decode_rows(study.loop, np.stack([window] * 5), variants, [0] * 5, lambda _, each: logits.append(each))
    together = torch.stack(logits, dim=1)
    for row, variant in enumerate(variants):
        torch.testing.assert_close(together[row], decode(study.loop, window, variant).logits, atol=2e-4, rtol=1e-3)
    for row, logits_of in enumerate(together):
        assert all(float((logits_of - other).abs().max()) > 5e-4 for other in together[:row])


def test_a_carried_cache_is_carried_by_each_variant():
    study = study_of(policy=PREFETCHES["before"], mode="decode", reset="never")
    results = run_study(study, Store(None))
    study.loop.resets = False
    study.loop.live.reset()
    for number, window in enumerate(study.windows.tokens):
        alone = decode(study.loop, window, Variant(POLICY, scheme="own"), number)
        assert results.windows[number]["latency_ns"].tolist() == alone.timing.latency_ns.tolist()


def test_cloze_items_of_several_positions_a_step_are_scored_alike_in_both_ways():
    """Context of 8 and continuation of 4 by steps of 3: no step goes across where the continuations begin."""
    tasks = {"cloze": TASKS["cloze"]}
    found = [run_study(study_of(mode=mode, step_tokens=3, **tasks), Store(None)) for mode in ("parallel", "decode")]
    for parallel, decoded in zip(found[0].cloze, found[1].cloze, strict=True):
        assert parallel.keys() == decoded.keys()
        for name, values in parallel.items():
            np.testing.assert_allclose(values, decoded[name], rtol=1e-4)
    for parallel, decoded in zip(found[0].windows, found[1].windows, strict=True):
        np.testing.assert_allclose(parallel["policy"], decoded["policy"], rtol=1e-3, atol=2e-4)
        assert parallel["latency_ns"].tolist() == decoded["latency_ns"].tolist()


def test_times_and_bytes_count_per_token_however_many_a_step_decodes():
    study = study_of(step_tokens=5)
    results = run_study(study, Store(None))
    row = quality_row(study, results)
    latency = sum(window["latency_ns"].sum() for window in results.windows)
    assert row["tpot_s"] == pytest.approx(latency / 1e9 / (4 * 24)) and row["step_tokens"] == 5
    parts = sum(value for name, value in row.items() if name.startswith("time_s_per_token."))
    assert parts == pytest.approx(row["tpot_s"])
    table = token_table(study, results)
    own = table["latency_ns"][table["latency_ns"] >= 0]
    assert len(own) == 4 * 23 and latency - own.sum() == sum(w["latency_ns"][-1] // 4 for w in results.windows)
