"""Traces of the search and how they are split: by request, and by trace.

The search replays ``TRAIN`` alone. Its winners are chosen on ``VALIDATION``: other requests of the same trace, and a
trace that was never searched. The test set, requests and a trace of its own, is read by `held_out` only.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.studies.smoe.replays import borrowed
from sim.__main__ import main as command
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Geometry, ScoreTable, Trace
from traces.importers import load_importer

GROUP = 3
"""Requests of a lockstep batch; blocks of the bootstrap are so many neighbours at either batch size."""
TRAIN, VALIDATION = range(12), range(12, 24)
"""Requests of the embedded trace."""
RECORDED, SEEN = 60, 24
"""Requests that the demo model writes for the test, of which the first ones have the prompts of the embedded trace."""
GPT_REQUESTS, GPT_TOKENS = 18, 128
"""Requests of gpt-oss-20b in validation, and as many in the test; the first tokens of each."""
UNKNOWN = -1e4
"""Logit of an expert that was not recorded: its score is 0."""


@dataclass(frozen=True, slots=True)
class Source:
    """A trace to replay, and whose sizes its experts take at a place that names none of its own."""

    name: str
    trace: Trace
    own_model: str | None = None
    """The sizes it is always replayed with; None: those of the place's set-up."""

    def geometry(self, model: str) -> Geometry:
        return borrowed(self.own_model or model, self.trace)

    def first(self, requests: int) -> Source:
        """The first requests alone."""
        return replace(self, trace=self.trace.select_requests(min(requests, self.trace.num_requests)))


def embedded(requests: range) -> Source:
    """Requests of the embedded trace."""
    trace = read_trace(embedded_trace_path("demo"))
    return Source("demo", trace.select_requests(len(requests), requests.start))


def recorded(folder: Path) -> Source:
    """Requests that the demo model as it is shipped writes to prompts which the embedded trace does not have; its
    weights are not those of the embedded trace.

    Recorded into the folder unless they are there. Raises: UserError where recording fails.
    """
    path = folder / "held_out.safetensors"
    if not path.is_file():
        words = ["record", "model=demo", f"requests={RECORDED}", "sampling.temperature=0.6", "ignore_eos=true"]
        with contextlib.redirect_stdout(io.StringIO()):
            status = command([*words, f"out={path.absolute()}"])
        if status:
            raise UserError("recording the test requests failed: see above")
    trace = read_trace(path)
    known = read_trace(embedded_trace_path("demo"))
    part = trace.select_requests(trace.num_requests - SEEN, SEEN)
    if shared := prompts_of(part) & prompts_of(known):
        raise UserError(f"{path}: {len(shared)} of its prompts are those of the embedded trace")
    return Source("demo, recorded anew", part)


def prompts_of(trace: Trace) -> set[tuple[int, ...]]:
    """The prompts of a trace's requests as tokens."""
    assert trace.token_ids is not None
    starts = zip(trace.request_offsets[:-1].tolist(), trace.prompt_len.tolist(), strict=True)
    return {tuple(trace.token_ids[start : start + count].tolist()) for start, count in starts}


def gpt_oss(folder: Path, test: bool) -> Source:
    """gpt-oss-20b as a router of the three best of the four experts that were recorded with their weights.

    The fourth is the one expert outside the choice whose score is known; all others have score 0. Answers that loop
    are left out. Validation and test take different requests. Raises: UserError where the folder lacks the trace.
    """
    trace = load_importer("gpt_oss").read(folder / "gpt_oss_20b", Namespace())
    looping = set(trace.provenance["requests_with_repetition"])
    sound = [number for number in range(trace.num_requests) if number not in looping]
    chosen = np.random.default_rng(0).permutation(sound)[: 2 * GPT_REQUESTS]
    part = np.sort(chosen[GPT_REQUESTS:] if test else chosen[:GPT_REQUESTS])
    trace = trace.take_requests(part, "search").take_first_tokens(GPT_TOKENS)
    return Source("gpt-oss-20b, 3 of 4", fewer_ranks(trace), "gpt_oss_20b")


def fewer_ranks(trace: Trace) -> Trace:
    """The trace with the last rank as the best expert outside the choice; weights are shares of the others' sum."""
    assert trace.topk_weights is not None
    weights = np.asarray(trace.topk_weights, np.float32)
    logits = np.full((*weights.shape[:2], trace.num_experts), UNKNOWN, np.float32)
    np.put_along_axis(logits, trace.topk_ids.astype(np.int64), np.log(np.maximum(weights, 1e-6)), axis=-1)
    kept = weights[..., :-1]
    return replace(
        trace,
        geometry=replace(trace.geometry, top_k=trace.top_k - 1),
        topk_ids=np.ascontiguousarray(trace.topk_ids[..., :-1]),
        topk_weights=(kept / np.maximum(kept.sum(axis=-1, keepdims=True), 1e-6)).astype(np.float16),
        router_logits=ScoreTable(logits),
        content_hash=f"{trace.content_hash}/3 of 4",
    )


def phone(folder: Path) -> Source:
    """Qwen3-30B-A3B as a phone routed it: weights of the chosen experts only, so for lossless parts without scores.

    Raises: UserError where the folder lacks the trace.
    """
    source = folder / "big_moe_on_edge" / "qwen.route.csv"
    return Source(
        "Qwen3-30B-A3B on a phone",
        load_importer("big_moe_on_edge").read(source, Namespace(model="qwen3_30b_a3b")),
        "qwen3_30b_a3b",
    )
