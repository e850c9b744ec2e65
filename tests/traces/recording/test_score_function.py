"""Recorded scores are proved: a named function of them gives the weights, whatever form the router returned them in."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_models import build
from traces.format.score_function import are_best, forms_of, name_score_function, to_logits
from traces.recording.loading import LoadedModel
from traces.recording.prompts import Prompt
from traces.recording.recorder import RecordOptions, record

RNG = np.random.default_rng(2)
LOGITS = RNG.standard_normal((40, 2, 8)).astype(np.float32)
IDS = np.argsort(-LOGITS, axis=-1)[..., :3]
CHOSEN = np.take_along_axis(LOGITS, IDS, -1).astype(np.float64)
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
SIGMOID = 1 / (1 + np.exp(-CHOSEN))
EXPERT = np.array([[0.5, 1, 2, 3, 1, 1, 0.2, 1], [1, 2, 1, 1, 0.7, 1, 3, 1]], np.float32)  # [L, E]
FACTORS = np.take_along_axis(np.broadcast_to(EXPERT, LOGITS.shape), IDS, -1)


def normalised(scores: Any) -> Any:
    return scores / scores.sum(-1, keepdims=True)


CASES = {
    "softmax": (np.take_along_axis(SOFTMAX, IDS, -1), None),
    "softmax_topk": (normalised(np.exp(CHOSEN)), None),
    "sigmoid": (2.5 * SIGMOID, 2.5),
    "sigmoid_topk": (normalised(SIGMOID), None),
    "sqrtsoftplus": (np.sqrt(np.log1p(np.exp(CHOSEN))), None),
    "sqrtsoftplus_topk": (1.5 * normalised(np.sqrt(np.log1p(np.exp(CHOSEN)))), 1.5),
    "softmax_topk_scaled": (normalised(np.exp(CHOSEN)) * FACTORS, None),
    "sigmoid_scaled": (SIGMOID * FACTORS, None),
    "sigmoid_shared": (SIGMOID / (SIGMOID.sum(-1, keepdims=True) + RNG.random((40, 2, 1))), None),
}


@pytest.mark.parametrize("name", CASES)
def test_each_function_is_told_from_the_others(name: str) -> None:
    weights, scale = CASES[name]
    found = name_score_function(IDS, weights.astype(np.float32), LOGITS, expert_scale=EXPERT)
    assert found is not None and (found.function, found.scale) == (name, scale)
    assert found.residual < 1e-5 and found.shows


def test_the_sparse_mixer_by_hand() -> None:
    logits = np.array([[[4.0, 3.95, 1.0, -2.0]]], np.float32)
    # Within 2 % of 4: experts 0 and 1. With 0 gone, only 1 is left within 2 % of 3.95.
    first = np.exp(4) / (np.exp(4) + np.exp(3.95))
    weights = np.array([[[1.0, first]]], np.float32)
    found = name_score_function(np.array([[[1, 0]]]), weights, logits, jitter=0.01)
    assert found is not None and found.function == "sparsemixer"


def test_weights_that_nothing_explains_have_no_score_function() -> None:
    weights = RNG.random((40, 2, 3)).astype(np.float32)
    assert name_score_function(IDS, weights, LOGITS, expert_scale=EXPERT, jitter=0.01) is None
    assert name_score_function(IDS, weights, None) is None
    assert name_score_function(IDS, CASES["softmax"][0].astype(np.float32), np.full_like(LOGITS, np.nan)) is None


def test_one_renormalised_expert_says_nothing_of_its_logits() -> None:
    found = name_score_function(IDS[..., :1], np.ones((40, 2, 1), np.float32), LOGITS)
    assert found is not None and found.function == "softmax_topk" and not found.shows


def test_places_without_an_expert_count_for_nothing() -> None:
    weights = CASES["softmax"][0].astype(np.float32).copy()
    ids = IDS.copy()
    ids[:, :, 2], weights[:, :, 2] = -1, 0
    found = name_score_function(ids, weights, LOGITS)
    assert found is not None and found.function == "softmax"
    assert not are_best(ids[..., [1, 2]], LOGITS) and are_best(ids, LOGITS)


def test_forms_by_their_values() -> None:
    assert forms_of(LOGITS) == ("logits",)
    assert forms_of(SOFTMAX) == ("probabilities",)
    assert forms_of(1 / (1 + np.exp(-LOGITS))) == ("logits", "sigmoid probabilities")
    assert forms_of(np.log(SOFTMAX)) == ("logits",)  # log-probabilities are logits
    np.testing.assert_allclose(np.diff(to_logits(SOFTMAX, "probabilities")), np.diff(LOGITS), atol=1e-4)
    np.testing.assert_allclose(to_logits(1 / (1 + np.exp(-LOGITS)), "sigmoid probabilities"), LOGITS, atol=1e-4)


def returning(model: Any, change: Any) -> LoadedModel:
    """A Mixtral whose routers return other scores beside the same ids and weights."""
    from tests.support.tiny_models import byte_tokenizer

    for layer in model.model.layers:
        gate = layer.mlp.gate
        plain = gate.forward
        gate.forward = lambda *args, plain=plain: change(*plain(*args))
    return LoadedModel(model, byte_tokenizer(), "changed")


OPTIONS = RecordOptions(max_new_tokens=3, half_precision=False, lookahead_extra=None)
RETURNED = {
    "probabilities": lambda logits, weights, ids: (logits.softmax(-1), weights, ids),
    "log-probabilities": lambda logits, weights, ids: (logits.log_softmax(-1), weights, ids),
}


@pytest.mark.parametrize("form", RETURNED)
def test_scores_in_other_forms_are_recorded_as_logits(form: str) -> None:
    model = build("mixtral")
    plain = record(returning(model, lambda *output: output), (Prompt("abc"),), OPTIONS, progress=False)
    changed = record(returning(build("mixtral"), RETURNED[form]), (Prompt("abc"),), OPTIONS, progress=False)
    assert np.array_equal(plain.topk_ids, changed.topk_ids) and changed.score_function == "softmax_topk"
    np.testing.assert_allclose(changed.gate_scores(0, 5), plain.gate_scores(0, 5), atol=1e-5)
    for name in ("lookahead_before", "lookahead_after"):
        one, other = (getattr(trace, name).probabilities(0, 5, 8) for trace in (plain, changed))
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_scores_that_give_no_weights_are_left_out_and_said() -> None:
    loaded = returning(build("mixtral"), lambda logits, weights, ids: (logits.sin(), weights, ids))
    trace = record(loaded, (Prompt("abc"),), OPTIONS, progress=False)
    assert trace.router_logits is None and trace.selection_scores is None and trace.score_function is None
    assert trace.lookahead_before is None and trace.lookahead_after is None
    assert trace.topk_weights is not None
    assert "gives the weights" in trace.provenance["router_logits"]


def test_scores_that_fit_the_probe_only_are_left_out_and_said() -> None:
    def from_now_on(logits: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> Any:
        late = logits.shape[0] == 1  # decode steps only
        return logits + 3 * torch.arange(8) if late else logits, weights, ids

    trace = record(returning(build("mixtral"), from_now_on), (Prompt("abc"),), OPTIONS, progress=False)
    assert trace.router_logits is None and trace.score_function is None
    assert "though one did in the probe pass" in trace.provenance["router_logits"]
