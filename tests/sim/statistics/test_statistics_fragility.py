"""What is called fragile, and what is not."""

from dataclasses import replace

import numpy as np
import pytest

from sim.assembly.fragility import distinct_share, fragile_capacity, fragile_trace, shared_prompt
from tests.support.random_traces import random_trace
from traces.format.trace import PREFILL


def trace_with(prompts, answers, **changed):
    """Three prompts of 8 tokens, answers of 40."""
    trace = random_trace(0, prompts=(8, 8, 8), decodes=(40, 40, 40), num_layers=1)
    tokens = np.empty(trace.num_tokens, np.int32)
    tokens[trace.phase == PREFILL], tokens[trace.phase != PREFILL] = np.concatenate(prompts), np.concatenate(answers)
    return replace(trace, token_ids=tokens, request_labels=("a", "b", "a"), **changed)


FRESH = [np.arange(i * 40, i * 40 + 40) for i in range(3)]
DIFFERENT = [np.arange(i * 8, i * 8 + 8) for i in range(3)]


def test_different_requests_are_not_fragile():
    assert fragile_trace(trace_with(DIFFERENT, FRESH)) == []


def test_a_template_is_named_with_its_length():
    prompts = [np.array([9, 9, 9, 9, 9, i, 1, 2]) for i in range(3)]
    trace = trace_with(prompts, FRESH)
    assert shared_prompt(trace) == (5, 8)
    assert fragile_trace(trace) == [
        "fragile: all prompts begin with the same 5 tokens: one template, which inflates locality"
    ]
    assert fragile_trace(trace_with([prompt[[0, 5, 6, 7, 1, 2, 3, 4]] for prompt in prompts], FRESH)) == []


def test_one_label_is_named():
    trace = replace(trace_with(DIFFERENT, FRESH), request_labels=("code",) * 3)
    assert fragile_trace(trace) == ["fragile: all 3 requests are of one kind (code)"]


def test_loops_by_hand():
    # A loop of 3 tokens: 37 runs of four, 3 of them distinct.
    assert distinct_share(np.tile([1, 2, 3], 14)[:40]) == pytest.approx(3 / 37)
    assert distinct_share(np.arange(40)) == 1.0
    assert distinct_share(np.zeros(31, np.int32)) == 1.0  # too short to tell
    loops = [np.zeros(40), FRESH[1], np.tile([1, 2], 20)]
    assert fragile_trace(trace_with(DIFFERENT, loops)) == ["fragile: 2 of 3 answers loop, which inflates locality"]


def test_without_tokens_the_source_is_believed():
    trace = replace(trace_with(DIFFERENT, FRESH), token_ids=None, provenance={"requests_with_repetition": [1, 7]})
    assert fragile_trace(trace) == ["fragile: 1 of 3 answers loop, which inflates locality"]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"decode.demand_to_capacity": 0.5, "decode.overflow_rate": 0.0, "overflow_rate": 0.5}, []),
        ({"decode.demand_to_capacity": 1.5, "decode.overflow_rate": 0.25}, ["25.0% of decode layer steps"]),
        ({"decode.demand_to_capacity": None, "overflow_rate": 0.125}, ["12.5% of all layer steps"]),
        ({}, []),
    ],
)
def test_capacity_below_one_step_s_demand(metrics, words):
    found = fragile_capacity(metrics)
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))
