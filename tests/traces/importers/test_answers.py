"""Answers of SGLang and vLLM servers: what they say of their shape, prefixes that were not computed, turns."""

import base64
import gzip
import io
import json

import numpy as np
import pytest

from tests.support.importing import imported, refused
from traces.format.trace import DECODE, PREFILL

IDS = np.argsort(np.random.default_rng(0).random((12, 3, 8)), -1)[..., :2].astype(np.int32)
"""A dialogue of 12 tokens: a prompt of 5, two answered, two asked, three answered."""
SHAPE = ("--num-experts", "8", "--top-k", "2")


def packed(ids):
    return base64.b64encode(np.ascontiguousarray(ids, "<i4").tobytes()).decode()


def sglang(ids, prompt, start=None, **more):
    """As /v1/chat/completions of SGLang answers: the last token, which no pass has read, has no row."""
    held = {"routed_experts": packed(ids)} | ({} if start is None else {"routed_experts_start_len": start})
    completion = len(ids) + (start or 0) + 1 - prompt
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [{"index": 0, "text": "...", "sgl_ext": held}], "usage": usage} | more


def write(tmp_path, *answers, name="a.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, answers)))
    return path


def test_base64_is_shaped_by_what_the_answer_counts(tmp_path):
    path = write(tmp_path, sglang(IDS[:6], 5), name="a.json")
    for options in (SHAPE, ("--num-experts", "8", "--num-layers", "3")):
        trace = imported("routed_experts", path, *options)
        np.testing.assert_array_equal(trace.topk_ids, IDS[:6])
        assert trace.phase.tolist() == [PREFILL] * 5 + [DECODE]
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert imported("routed_experts", tmp_path / "b.json.gz", *SHAPE).num_tokens == 6


@pytest.mark.parametrize("kind", ["list", "npy", "native"])
def test_other_forms_of_answers(tmp_path, kind):
    out = io.BytesIO()
    np.save(out, IDS.astype(np.uint8))
    value = {"list": IDS.tolist(), "npy": base64.b64encode(out.getvalue()).decode(), "native": packed(IDS)}[kind]
    answer = {"choices": [{"routed_experts": value}], "usage": {"prompt_tokens": 5, "completion_tokens": 8}}
    if kind == "native":
        answer = {"text": "", "meta_info": {"routed_experts": value, "prompt_tokens": 5, "completion_tokens": 8}}
    trace = imported("routed_experts", write(tmp_path, answer), *SHAPE)
    np.testing.assert_array_equal(trace.topk_ids, IDS)
    assert trace.prompt_len.tolist() == [5]


def cached(ids, count):
    ids = ids.copy()
    ids[:count] = -1
    return ids


@pytest.mark.parametrize(
    "second",
    [
        sglang(IDS[6:], 9, start=6),  # only what is new
        sglang(IDS, 9),  # all of it computed again
        sglang(cached(IDS, 6), 9),  # the prefix as -1
    ],
)
def test_turns_of_a_dialogue_are_one_request_and_not_prefilled_twice(tmp_path, second):
    trace = imported("routed_experts", write(tmp_path, sglang(IDS[:6], 5), second), *SHAPE)
    assert trace.num_requests == 1 and trace.prompt_len.tolist() == [5]
    np.testing.assert_array_equal(trace.topk_ids, IDS)
    assert trace.phase.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1]
    assert trace.positions().tolist() == list(range(12))
    alone = imported("routed_experts", write(tmp_path, sglang(IDS[:6], 5), second), *SHAPE, "--turns", "none")
    assert alone.num_requests == 2


def test_a_start_without_the_turn_before_is_a_cached_prefix(tmp_path):
    trace = imported("routed_experts", write(tmp_path, sglang(IDS[6:], 9, start=6)), *SHAPE)
    assert trace.prompt_len.tolist() == [9] and trace.positions().tolist() == list(range(6, 12))
    assert trace.phase.tolist() == [0, 0, 0, 1, 1, 1]


def test_answers_of_others_are_requests_of_their_own(tmp_path):
    other = IDS[::-1].copy()
    trace = imported("routed_experts", write(tmp_path, sglang(IDS[:6], 5), sglang(other, 5)), *SHAPE)
    assert trace.request_offsets.tolist() == [0, 6, 18]
    choices = sglang(IDS, 5)
    choices["choices"] *= 2
    trace = imported("routed_experts", write(tmp_path, choices), *SHAPE, "--num-layers", "3", "--turns", "none")
    assert trace.num_requests == 2


@pytest.mark.parametrize(
    ("answer", "options", "sentence"),
    [
        ({}, SHAPE, "has no choices[].sgl_ext.routed_experts"),
        ([1], SHAPE, "answer 0 is no answer of a server"),
        (sglang(IDS, 5), ("--num-experts", "8"), "--num-layers and --top-k (one of them is enough)"),
        (sglang(IDS, 5), (*SHAPE, "--num-layers", "5"), "which 5 layers and 2 experts per token do not make for 12"),
        ({"routed_experts": "AAA"}, SHAPE, "routed_experts is no base64"),
        ({"routed_experts": "AAAA"}, SHAPE, "has 3 bytes: must be int32"),
        ({"routed_experts": 3}, SHAPE, "must be base64 or lists, not int"),
        ({"routed_experts": [[[1, 2]], [[1]]]}, SHAPE, "must be whole numbers by token, layer and rank"),
        ({"routed_experts": [[[1, 9]]]}, SHAPE, "holds expert 9 at index [0, 0, 1]: must be from 0 to 7"),
        ({"routed_experts": [[[1, 2]]], "routed_experts_start_len": -1}, SHAPE, "routed_experts_start_len=-1"),
    ],
)
def test_answers_that_cannot_be_read_are_refused(tmp_path, answer, options, sentence):
    refused(sentence, "routed_experts", write(tmp_path, answer), *options)


def test_a_turn_that_does_not_go_on_is_refused_where_all_are_to_be_one(tmp_path):
    path = write(tmp_path, sglang(IDS[:6], 5), sglang(IDS[8:], 9, start=8))
    refused("begins at token 8, and those before end at token 5", "routed_experts", path, *SHAPE, "--turns", "all")
