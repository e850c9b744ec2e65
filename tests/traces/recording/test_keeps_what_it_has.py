"""An optional table never costs the ids, and a recording that fails late keeps what it has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scripts.studies.families.tiny import save_tiny, tiny_model
from tests.support.tiny_models import build, byte_tokenizer
from traces.errors import UserError
from traces.format.files import read_trace, write_trace
from traces.format.ranks import signed_ids
from traces.recording.choices import best_first, stacked_choices
from traces.recording.loading import LoadedModel, load_model
from traces.recording.prompts import Prompt
from traces.recording.recorder import RecordOptions, record

PROMPTS = (Prompt("first one", "a"), Prompt("the second", "b"), Prompt("third", "c"))
OPTIONS = RecordOptions(max_new_tokens=4, half_precision=False, lookahead_extra=None, ignore_eos=True)


def mixtral() -> LoadedModel:
    return LoadedModel(build("mixtral"), byte_tokenizer(), "mixtral")


def written(trace: Any, folder: Path) -> Any:
    write_trace(folder / "t.safetensors", trace)
    return read_trace(folder / "t.safetensors")


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_late_failure_costs_the_prompts_from_there_on(tmp_path: Path, error: BaseException) -> None:
    loaded, whole = mixtral(), record(mixtral(), PROMPTS[:2], OPTIONS, progress=False)
    passes: list[int] = []

    def fail(_module: Any, _args: Any, kwargs: Any) -> None:
        passes.append(kwargs["input_ids"].shape[1])
        if len(passes) == 12:  # the second step of the third prompt, after two short passes and two prompts
            raise error

    loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    trace = written(record(loaded, PROMPTS, OPTIONS, progress=False), tmp_path)
    assert passes[10:12] == [5, 1] and trace.request_labels == ("a", "b")
    for name in ("topk_ids", "topk_weights", "request_offsets", "token_ids", "phase"):
        assert np.array_equal(getattr(trace, name), getattr(whole, name))
    for name in ("router_logits", "lookahead_before", "lookahead_after"):
        assert np.array_equal(getattr(trace, name).values, getattr(whole, name).values)
    assert "in prompt 2 of 3" in trace.provenance["stopped"] and trace.provenance["notes"][-1:] == [
        trace.provenance["stopped"]
    ]


def test_a_failure_in_the_first_prompt_is_one_sentence() -> None:
    loaded, passes = mixtral(), []

    def fail(_module: Any, _args: Any, kwargs: Any) -> None:
        passes.append(1)
        if len(passes) == 3:
            raise RuntimeError("out of memory\nlong story")

    loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(UserError, match=r"^mixtral: recording stopped in prompt 0 of 3: RuntimeError: out of memory$"):
        record(loaded, PROMPTS, OPTIONS, progress=False)


@pytest.mark.parametrize("late", [False, True])
def test_a_lookahead_that_fails_is_left_out_with_its_reason(tmp_path: Path, late: bool) -> None:
    loaded = mixtral()
    gate = loaded.model.model.layers[1].mlp.gate
    plain, calls = gate.forward, []

    def own(states: torch.Tensor) -> Any:
        calls.append(states)
        if len(calls) > (12 if late else 1) and states.data_ptr() != gate.entered:
            raise RuntimeError("only for its own layer")
        return plain(states)

    gate.entered = 0
    gate.register_forward_pre_hook(lambda _m, args: setattr(gate, "entered", args[0].data_ptr()))
    gate.forward = own
    trace = written(record(loaded, PROMPTS, OPTIONS, progress=False), tmp_path)
    assert trace.num_requests == 3 and trace.router_logits is not None and trace.lookahead_before is None
    assert trace.provenance["lookahead_before"] == "absent: RuntimeError: only for its own layer"


@pytest.mark.parametrize("late", [False, True])
def test_scores_that_are_no_numbers_are_left_out(tmp_path: Path, late: bool) -> None:
    loaded = mixtral()
    for layer in loaded.model.model.layers:
        gate = layer.mlp.gate

        def spoilt(states: torch.Tensor, plain: Any = gate.forward) -> Any:
            logits, weights, ids = plain(states)
            return (logits * float("nan") if not late or states.shape[0] == 1 else logits), weights, ids

        gate.forward = spoilt
    trace = written(record(loaded, PROMPTS, OPTIONS, progress=False), tmp_path)
    assert trace.router_logits is None and trace.lookahead_after is None and trace.topk_weights is not None
    assert trace.provenance["router_logits"].startswith("absent: ")


def test_weights_below_zero_are_left_out_and_ids_kept(tmp_path: Path) -> None:
    loaded = mixtral()
    for layer in loaded.model.model.layers:
        gate = layer.mlp.gate
        gate.forward = lambda states, plain=gate.forward: tuple(
            x * s for x, s in zip(plain(states), (1, -1, 1), strict=True)
        )
    trace = written(record(loaded, PROMPTS, OPTIONS, progress=False), tmp_path)
    assert trace.topk_weights is None and not trace.ranked and trace.num_requests == 3
    assert "negative" in trace.provenance["topk_weights"]


def test_choices_by_hand() -> None:
    ids = [np.array([[2, 9, 2], [0, 0, 1]]), np.array([[5], [1]])]
    weights = [np.array([[0.25, 0.5, 0.125], [0.0, 0.5, 0.25]], np.float32), np.array([[1.0], [0.0]], np.float32)]
    chosen, factors = stacked_choices(ids, weights, num_experts=8)
    # 9 is no expert of 8; 2 twice counts once with both factors; a factor of 0 is no use; layer 1 has one rank.
    assert chosen.tolist() == [[[2, -1, -1], [5, -1, -1]], [[-1, 0, 1], [-1, -1, -1]]]
    assert factors.tolist() == [[[0.375, 0, 0], [1, 0, 0]], [[0, 0.5, 0.25], [0, 0, 0]]]
    chosen, factors = best_first(chosen, factors)
    assert chosen.tolist() == [[[2, -1, -1], [5, -1, -1]], [[0, 1, -1], [-1, -1, -1]]]


def test_layers_of_different_top_k_have_fewer_experts(tmp_path: Path) -> None:
    loaded = mixtral()
    loaded.model.model.layers[1].mlp.gate.top_k = 2
    trace = written(record(loaded, PROMPTS, OPTIONS, progress=False), tmp_path)
    assert trace.fewer and trace.top_k == 3 and trace.score_function == "softmax_topk"
    ids = signed_ids(trace.topk_ids, trace.fewer)
    assert (ids[:, 1, 2] == -1).all() and (ids[:, [0, 2]] >= 0).all() and (ids[:, 1, :2] >= 0).all()


def loaded_tiny(model_type: str, folder: Path) -> LoadedModel:
    return load_model(str(save_tiny(tiny_model(model_type), folder / model_type)), "float32")


def test_zero_compute_experts_are_no_experts(tmp_path: Path) -> None:
    loaded = loaded_tiny("longcat_flash", tmp_path)
    routed: list[torch.Tensor] = []
    for layer in loaded.model.model.layers:
        layer.mlp.experts.register_forward_pre_hook(lambda _m, args: routed.append(args[1]))
    trace = written(
        record(loaded, PROMPTS[:1], RecordOptions(max_new_tokens=1, half_precision=False), progress=False), tmp_path
    )
    given = torch.stack(
        [ids for ids in routed if len(ids) == len("first one")], dim=1
    ).numpy()  # ids 8 and 9 are identities
    assert trace.fewer and trace.num_experts == 8 and (given >= 8).any()
    recorded = signed_ids(trace.topk_ids, trace.fewer)
    assert np.array_equal(np.sort(np.where(given < 8, given, -1)), np.sort(recorded))


def test_hashed_layers_are_known_ahead(tmp_path: Path) -> None:
    loaded = loaded_tiny("deepseek_v4", tmp_path)
    trace = written(record(loaded, PROMPTS, OPTIONS, progress=False), tmp_path)
    known = trace.provenance["known_ahead_layers"]
    assert known == [0, 1, 2] and trace.score_function == "sqrtsoftplus_topk"
    for layer in known:
        table = loaded.model.model.layers[layer].mlp.gate.tid2eid.numpy()[trace.token_ids]
        assert np.array_equal(np.sort(table), np.sort(trace.topk_ids[:, layer].astype(int)))
        if layer:
            ahead = np.argsort(-trace.lookahead_before.values[:, layer - 1])[:, : trace.top_k]
            assert np.array_equal(np.sort(ahead), np.sort(table))
    states = "16 states leave a layer for 8 tokens"  # of two residual streams
    assert trace.lookahead_after is None and states in trace.provenance["lookahead_after"]
