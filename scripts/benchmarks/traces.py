"""The traces that the benchmark replays: a recorded one with scores drawn to fit, or one drawn whole."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.format.trace import DECODE, Geometry, ScoreTable, Trace
from traces.importers import gpt_oss

TOKENS = 28_000
LAYERS, EXPERTS, TOP_K = 24, 32, 4
REQUEST_TOKENS = 280
EXPERT_BYTES = 10_000_000
"""Of no consequence for speed; the durations only have to differ from each other."""


def data_option(parser: argparse.ArgumentParser) -> None:
    """The option that `benchmark_trace` reads."""
    parser.add_argument("--data", type=Path, help="folder of the gpt-oss-20b recording; without it a trace is drawn")


def benchmark_trace(data: Path | None, scores: bool = True) -> Trace:
    """The recorded trace, or one that is drawn."""
    return recorded_trace(data, TOKENS) if data else drawn_trace(TOKENS, scores=scores)


def drawn_trace(tokens: int, seed: int = 0, scores: bool = True) -> Trace:
    """A trace of the shape of gpt-oss-20b, decode only, in requests of 280 tokens.

    Logits are the sum a + b + c of independent standard normal numbers: a is drawn once per (layer, expert), b follows
    a first-order autoregression of coefficient 0.9 from token to token, c is drawn afresh; the best 4 of 32 are routed.
    LRU then hits .44, .68, .88, .97 at 4, 8, 16, 24 slots, on the first 28,000 recorded tokens .45, .67, .90, .98.
    """
    rng = np.random.default_rng(seed)
    popularity = rng.standard_normal((LAYERS, EXPERTS), np.float32)
    memory = rng.standard_normal((LAYERS, EXPERTS), np.float32)
    logits = np.empty((tokens, LAYERS, EXPERTS), np.float16)
    fresh_share = np.float32(np.sqrt(1 - 0.9**2))
    for token in range(tokens):
        memory *= 0.9
        memory += fresh_share * rng.standard_normal((LAYERS, EXPERTS), np.float32)
        logits[token] = popularity + memory + rng.standard_normal((LAYERS, EXPERTS), np.float32)
    ids = best(logits)
    offsets = np.unique([*range(0, tokens, REQUEST_TOKENS), tokens])
    return Trace(
        geometry=sized(Geometry("drawn", LAYERS, EXPERTS, TOP_K)),
        topk_ids=ids.astype(np.uint8),
        topk_weights=softmax(np.take_along_axis(logits, ids, -1)).astype(np.float16),
        router_logits=ScoreTable(logits) if scores else None,
        lookahead_before=ScoreTable(early(logits, rng)) if scores else None,
        request_offsets=offsets.astype(np.int64),
        prompt_len=np.full(len(offsets) - 1, 100, np.int32),
        phase=np.full(tokens, DECODE, np.uint8),
        score_function="softmax_topk",
        provenance={"drawn_with_seed": seed},
    )


def recorded_trace(folder: Path, tokens: int) -> Trace:
    """The first tokens of gpt-oss-20b, without scores."""
    whole = gpt_oss.read(folder, argparse.Namespace())
    count = int(np.searchsorted(whole.request_offsets, tokens))
    assert whole.topk_weights is not None
    return replace(
        whole,
        geometry=sized(whole.geometry),
        topk_ids=whole.topk_ids[:tokens],
        topk_weights=whole.topk_weights[:tokens],
        phase=whole.phase[:tokens],
        request_offsets=np.append(whole.request_offsets[:count], min(tokens, whole.num_tokens)),
        prompt_len=whole.prompt_len[:count],
        request_labels=None,
        provenance={},
    )


def with_scores(trace: Trace, seed: int = 0) -> Trace:
    """The trace with logits that fit its ids and weights.

    A routed expert's logit is the logarithm of its weight; the others follow the last routed one at exponentially
    distributed gaps of mean 0.25, in an order drawn at random.
    """
    if trace.router_logits is not None:
        return trace
    assert trace.topk_weights is not None
    rng = np.random.default_rng(seed)
    shape = (trace.num_tokens, trace.num_layers, trace.num_experts)
    order = rng.random(shape, np.float32)
    np.put_along_axis(order, trace.topk_ids.astype(np.int64), -1.0, axis=-1)
    unrouted = np.argsort(order, axis=-1)[..., trace.top_k :]
    chosen = np.log(np.maximum(trace.topk_weights.astype(np.float32), 1e-4))
    gaps = rng.exponential(0.25, unrouted.shape).astype(np.float32).cumsum(axis=-1)
    logits = np.empty(shape, np.float32)
    np.put_along_axis(logits, trace.topk_ids.astype(np.int64), chosen, axis=-1)
    np.put_along_axis(logits, unrouted, chosen.min(axis=-1, keepdims=True) - 0.01 - gaps, axis=-1)
    return replace(trace, router_logits=ScoreTable(logits), lookahead_before=ScoreTable(early(logits, rng)))


def early(logits: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """What a gate applied one layer early might say, [T, L-1, E]: the logits with normal noise of deviation 0.3."""
    later = logits[:, 1:]
    return (later + 0.3 * rng.standard_normal(later.shape, np.float32)).astype(logits.dtype)


def best(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """The top-k experts, best first, [T, L, K]."""
    part = np.argpartition(-logits, TOP_K, axis=-1)[..., :TOP_K]
    order = np.argsort(-np.take_along_axis(logits, part, -1), axis=-1, kind="stable")
    return np.take_along_axis(part, order, -1)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Over the last axis."""
    shares = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True), np.float32)


def sized(geometry: Geometry) -> Geometry:
    """With equal experts, and without anything else that would take time."""
    nothing = (0,) * geometry.num_layers
    return replace(
        geometry,
        expert_bytes=(EXPERT_BYTES,) * geometry.num_layers,
        attention_bytes=nothing,
        shared_bytes=nothing,
        other_bytes=0,
        kv_bytes_per_token=0,
        hidden_size=1,
        weight_bits=16.0,
    )
