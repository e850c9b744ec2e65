"""Each way a trace can be wrong has its own sentence."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import recorded_trace, truncated
from traces.errors import UserError
from traces.format.trace import ROW_ARRAYS, Geometry, ScoreTable
from traces.format.validation import validate


def changed(name, where, value, width=None, **geometry):
    """A good trace with one entry of one tensor changed."""
    trace = recorded_trace(width=width)
    if "." in name or name in ("router_logits", "lookahead_before"):
        table, _, part = name.partition(".")
        old = getattr(trace, table)
        array = getattr(old, part or "values").copy()
        array[where] = value
        return replace(trace, **{table: replace(old, **{part or "values": array})})
    array = getattr(trace, name).copy()
    array[where] = value
    return replace(trace, **{name: array})


def sized(**sizes):
    return replace(recorded_trace(), geometry=replace(recorded_trace().geometry, **sizes))


def drafted(row, drafts, accepted):
    """A good trace, of which one row counts drafts."""
    counts = np.array([[255, 0]] * 15, np.uint8)
    counts[row] = drafts, accepted
    return replace(recorded_trace(), draft_counts=counts)


FAULTS = {
    "drafts": (drafted(3, 1, 2), "draft_counts of row 3 are 1 drafts and 2 accepted"),
    "drafts of no step": (drafted(3, 255, 1), "0 where 255 stands for no step"),
    "drafts beyond": (drafted(4, 3, 3), "draft_counts of row 4 have 3 accepted: must be at most 2, the rows that"),
    "drafts into decode": (drafted(13, 1, 1), "draft_counts of row 13 have 1 accepted: must be at most 0"),
    "drafts shape": (
        replace(recorded_trace(), draft_counts=np.zeros((15, 1), np.uint8)),
        "'draft_counts' has shape (15, 1): must be (15, 2)",
    ),
    "drafts dtype": (
        replace(recorded_trace(), draft_counts=np.zeros((15, 2), np.int32)),
        "'draft_counts' has dtype int32: must be uint8",
    ),
    "id": (changed("topk_ids", (4, 1, 1), 8), "'topk_ids' at row 4, layer 1, column 1: expert 8 is out of range"),
    "duplicate": (
        changed("topk_ids", (4, 1), 3),
        "'topk_ids' at row 4, layer 1, column 1: expert 3 is listed twice",
    ),
    "nan": (changed("topk_weights", (2, 0, 1), np.nan), "'topk_weights' at row 2, layer 0, column 1: the value is NaN"),
    "inf": (changed("topk_weights", (2, 0, 0), np.inf), "the value is inf: must be finite"),
    "negative": (changed("topk_weights", (2, 0, 1), -0.25), "the value -0.25 is negative"),
    "rising": (changed("topk_weights", (2, 0, 1), 2.0), "the value 2.0 is above the one before it"),
    "logit nan": (changed("router_logits", (1, 2, 3), np.nan), "'router_logits' at row 1, layer 2, column 3"),
    "logit inf": (changed("router_logits", (1, 2, 3), -np.inf), "the value is -inf"),
    "list rising": (
        changed("router_logits.values", (1, 2, 3), 99, width=5),
        "'router_logits.values' at row 1, layer 2, column 3: the value 99.0 is above",
    ),
    "list id": (changed("lookahead_before.ids", (1, 0, 3), 99, width=5), "'lookahead_before.ids' at row 1"),
    "normalizer": (
        changed("router_logits.log_normalizer", (1, 2), -50, width=5),
        "'router_logits.log_normalizer' is -50.0 at row 1, layer 2",
    ),
    "normalizer nan": (
        changed("router_logits.log_normalizer", (1, 2), np.nan, width=5),
        "'router_logits.log_normalizer' is nan",
    ),
    "offset start": (changed("request_offsets", 0, 1), "request_offsets run from 1 to 15: must be from 0 to 15"),
    "offset end": (changed("request_offsets", 3, 14), "request_offsets run from 0 to 14: must be from 0 to 15"),
    "offsets fall": (
        changed("request_offsets", 1, 13),
        "request_offsets do not rise at request 1: 13 is followed by 12",
    ),
    "offset count": (
        replace(recorded_trace(), request_offsets=np.array([0, 15])),
        "request_offsets (2,) and prompt_len (3,) do not go together",
    ),
    "prompt": (changed("prompt_len", 0, 2), "Request 0 begins with 3 prefill rows but prompt_len=2"),
    "prompt negative": (changed("prompt_len", 1, -1), "prompt_len of request 1 is -1"),
    "phase": (changed("phase", 5, 2), "phase of row 5 is 2"),
    "labels": (replace(recorded_trace(), request_labels=("a",)), "request_labels has 1 entries for 3 requests"),
    "dtype": (
        replace(recorded_trace(), topk_ids=recorded_trace().topk_ids.astype(np.int64)),
        "'topk_ids' has dtype int64: must be uint8 or uint16",
    ),
    "dtype weights": (
        replace(recorded_trace(), topk_weights=recorded_trace().topk_weights.astype(np.float64)),
        "'topk_weights' has dtype float64: must be float16 or float32",
    ),
    "shape": (sized(top_k=3), "'topk_ids' has shape (15, 3, 2): must be (tokens, 3, 3)"),
    "shape weights": (
        replace(recorded_trace(), topk_weights=recorded_trace().topk_weights[:-1]),
        "'topk_weights' has shape (14, 3, 2): must be (15, 3, 2)",
    ),
    "shape logits": (
        replace(recorded_trace(), router_logits=ScoreTable(np.zeros((15, 3, 7), np.float32))),
        "'router_logits' has shape (15, 3, 7): must be (15, 3, 8)",
    ),
    "shape lookahead": (
        replace(recorded_trace(), lookahead_after=recorded_trace().router_logits),
        "'lookahead_after' has shape (15, 3, 8): must be (15, 2, 8)",
    ),
    "width": (
        replace(recorded_trace(), router_logits=truncated(recorded_trace().router_logits, 2)),
        "'router_logits.values' has shape (15, 3, 2): must be (15, 3, W) with 2 < W <= 8",
    ),
    "empty": (
        replace(
            recorded_trace(scores=False),
            **{name: array[:0] for name in ROW_ARRAYS if (array := getattr(recorded_trace(), name)) is not None},
        ),
        "has no rows",
    ),
    "model": (sized(model=""), "geometry.model=''"),
    "layers": (sized(num_layers=0), "geometry.num_layers=0: must be an integer from 1"),
    "experts": (sized(num_experts=70000), "geometry.num_experts=70000"),
    "top k": (sized(top_k=9), "geometry.top_k=9: must be an integer from 1 to 8"),
    "bytes count": (
        sized(expert_bytes=(1, 2)),
        "geometry.expert_bytes must list one size for each of the 3 MoE layers",
    ),
    "bytes zero": (sized(expert_bytes=(1, 0, 1)), "geometry.expert_bytes holds 0: must be integers of at least 1"),
    "bytes text": (sized(attention_bytes=(1, "2", 1)), "geometry.attention_bytes holds '2'"),
    "bits": (sized(weight_bits=float("nan")), "geometry.weight_bits=nan"),
    "hidden": (sized(hidden_size=-1), "geometry.hidden_size=-1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(fault):
    trace, sentence = FAULTS[fault]
    with pytest.raises(UserError) as caught:
        validate(trace)
    assert sentence in str(caught.value)
    assert not str(caught.value).endswith(".")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("width", [None, 5])
def test_good_traces_pass(half, width):
    validate(recorded_trace(half=half, width=width))


def test_unranked_weights_need_not_fall():
    trace = recorded_trace()
    validate(replace(trace, topk_weights=trace.topk_weights[..., ::-1].copy(), ranked=False))


def test_equal_weights_and_negative_zero_pass():
    trace = recorded_trace()
    validate(replace(trace, topk_weights=np.full_like(trace.topk_weights, 0.5)))
    validate(replace(trace, topk_weights=np.full_like(trace.topk_weights, -0.0)))


def test_masked_groups_may_be_minus_infinity_in_selection_scores_only():
    scores = recorded_trace().router_logits.values.copy()
    scores[:, :, 4] = -np.inf
    validate(replace(recorded_trace(), selection_scores=ScoreTable(scores)))
    with pytest.raises(UserError, match="'router_logits'"):
        validate(replace(recorded_trace(), router_logits=ScoreTable(scores)))


def test_a_fault_far_into_a_long_trace_is_found_at_its_row():
    rows = np.tile(np.array([[[0, 1]]], np.uint8), (10_000, 1, 1))
    rows[9_000, 0] = 1
    trace = replace(
        recorded_trace(prompts=(0,), decodes=(10_000,), scores=False, num_layers=1),
        geometry=Geometry("long", 1, 8, 2),
        topk_ids=rows,
    )
    with pytest.raises(UserError, match="row 9000, layer 0, column 1"):
        validate(trace)
    validate(drafted(4, 3, 2))
