"""Sentences on what makes a result fragile: too small a capacity, one template for all prompts, repetition loops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from traces.format.mapped import load
from traces.format.trace import DECODE, PREFILL, Trace

LOOPS_BELOW = 0.5
"""Share of distinct runs of four tokens below which an answer counts as a loop."""
SHORT = 32
"""Tokens below which an answer is not judged."""
SHARED_ABOVE = 0.5
"""Share of the shortest prompt that all prompts have in common above which they count as one template."""


def fragile_capacity(metrics: Mapping[str, float | int | str | None]) -> list[str]:
    """Whether decode steps (all steps where there are none) demand more than the cache holds.

    Near that cliff small errors of the model become large ones of the result. Prefill overflows as a rule.
    """
    decodes = metrics.get("decode.demand_to_capacity") is not None
    rate = metrics.get("decode.overflow_rate" if decodes else "overflow_rate")
    if not isinstance(rate, float) or rate <= 0:
        return []
    return [f"fragile: {rate:.1%} of {'decode' if decodes else 'all'} layer steps demand more than the capacity holds"]


def fragile_trace(trace: Trace) -> list[str]:
    """Whether the requests of a trace are too alike to stand for others."""
    found = []
    labels = trace.request_labels
    if labels and trace.num_requests > 1 and len(set(labels)) == 1:
        found.append(f"fragile: all {trace.num_requests} requests are of one kind ({labels[0]})")
    tokens, shortest = shared_prompt(trace)
    if shortest and tokens > SHARED_ABOVE * shortest:
        found.append(f"fragile: all prompts begin with the same {tokens} tokens: one template, which inflates locality")
    looping = looping_requests(trace)
    if looping:
        found.append(f"fragile: {looping} of {trace.num_requests} answers loop, which inflates locality")
    return found


def shared_prompt(trace: Trace) -> tuple[int, int]:
    """(tokens that all recorded prompts begin with, tokens of the shortest); (0, 0) where they are not known."""
    if trace.token_ids is None or trace.num_requests < 2:
        return 0, 0
    prompts = _tokens(trace, PREFILL)
    shortest = min(map(len, prompts))
    alike = np.ones(shortest, bool)
    for prompt in prompts[1:]:
        alike &= prompt[:shortest] == prompts[0][:shortest]
    return int(np.logical_and.accumulate(alike).sum()), shortest


def looping_requests(trace: Trace) -> int:
    """Requests whose answers repeat themselves: by their tokens, else as the trace's source says.

    The source's numbers count from the trace's first request, so `trace` must begin there.
    """
    if trace.token_ids is None:
        said = trace.provenance.get("requests_with_repetition")
        return sum(int(number) < trace.num_requests for number in said) if isinstance(said, list) else 0
    return sum(distinct_share(answer) < LOOPS_BELOW for answer in _tokens(trace, DECODE))


def _tokens(trace: Trace, phase: int) -> list[NDArray[np.int32]]:
    """The token ids of each request in one phase, of a trace that has them."""
    assert trace.token_ids is not None
    ids, offsets = trace.token_ids, trace.request_offsets.tolist()
    return [load(ids[start:stop])[trace.phase[start:stop] == phase] for start, stop in itertools.pairwise(offsets)]


def distinct_share(tokens: NDArray[np.int32], length: int = 4) -> float:
    """Distinct runs of `length` tokens over all such runs; 1 for answers too short to tell (`SHORT`)."""
    if len(tokens) < SHORT:
        return 1.0
    runs = np.lib.stride_tricks.sliding_window_view(tokens, length)
    return len(np.unique(runs, axis=0)) / len(runs)
