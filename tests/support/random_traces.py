"""Small traces made for tests; none of them stands for a real model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.format.ranks import stored_ids
from traces.format.trace import DECODE, PREFILL, Geometry, ScoreTable, Trace, id_dtype


def routed(
    ids: NDArray[np.int64],
    num_experts: int,
    prompt_rows: list[int],
    lengths: list[int],
    logits: NDArray[np.float32] | None = None,
    expert_bytes: int | list[int] = 1000,
    lookahead: NDArray[np.float32] | None = None,
) -> Trace:
    """A trace of the given ids [T, L, K]; request r has lengths[r] rows, the first prompt_rows[r] of them prefill."""
    _, layers, ranks = ids.shape
    sizes = tuple(expert_bytes) if isinstance(expert_bytes, list) else (expert_bytes,) * layers
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    phase = np.concatenate([[PREFILL] * p + [DECODE] * (n - p) for p, n in zip(prompt_rows, lengths, strict=True)])
    weights = None
    if logits is not None:
        exp = np.exp(logits.astype(np.float32) - logits.max(-1, keepdims=True).astype(np.float32))
        chosen = np.take_along_axis(exp, ids, -1)
        weights = (chosen / chosen.sum(-1, keepdims=True)).astype(np.float32)
    return Trace(
        geometry=Geometry(
            model="test", num_layers=layers, num_experts=num_experts, top_k=ranks, expert_bytes=sizes,
            attention_bytes=(0,) * layers, shared_bytes=(0,) * layers, other_bytes=0, kv_bytes_per_token=0,
            hidden_size=1, weight_bits=16.0,
        ),
        topk_ids=ids.astype(np.uint16),
        topk_weights=weights,
        router_logits=None if logits is None else ScoreTable(logits),
        lookahead_before=None if lookahead is None else ScoreTable(lookahead),
        lookahead_after=None if lookahead is None else ScoreTable(lookahead),
        score_function="softmax" if logits is not None else None,
        request_offsets=offsets,
        prompt_len=np.array(prompt_rows, dtype=np.int32),
        phase=phase.astype(np.uint8),
        ranked=True,
        provenance={"made_for": "tests"},
        content_hash="test",
    )  # fmt: skip


def random_trace(
    seed: int,
    num_layers: int = 3,
    num_experts: int = 8,
    top_k: int = 2,
    prompts: Sequence[int] = (4, 3),
    decodes: Sequence[int] = (6, 5),
    skew: float = 1.0,
    expert_bytes: int | list[int] = 1000,
    half: bool = False,
) -> Trace:
    """Routing by the top k of random logits with a popularity bias of strength ``skew``, with scores and lookahead."""
    rng = np.random.default_rng(seed)
    tokens = sum(prompts) + sum(decodes)
    bias = rng.normal(size=(1, num_layers, num_experts)) * skew
    logits = (rng.normal(size=(tokens, num_layers, num_experts)) + bias).astype(np.float16 if half else np.float32)
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    ahead = (logits[:, 1:] + 0.5 * rng.normal(size=logits[:, 1:].shape)).astype(logits.dtype)
    lengths = [p + d for p, d in zip(prompts, decodes, strict=True)]
    trace = routed(ids, num_experts, list(prompts), lengths, logits, expert_bytes, ahead)
    alike = rng.uniform(-1, 1, (num_layers, num_experts, num_experts))
    alike = (alike + alike.swapaxes(1, 2)) / 2
    alike[:, np.arange(num_experts), np.arange(num_experts)] = 1.0
    return replace(trace, expert_similarity=alike.astype(np.float16))


def with_fewer(trace: Trace, share: float, seed: int = 0) -> Trace:
    """The trace with tokens that use fewer experts: by ``share`` a (token, layer) loses its last ranks, maybe all."""
    used = np.random.default_rng(seed).uniform(size=(*trace.topk_ids.shape[:2], 1)) >= share
    kept = np.random.default_rng(seed + 1).integers(0, trace.top_k, used.shape)
    absent = ~used & (np.arange(trace.top_k) >= kept)
    weights = trace.topk_weights
    return replace(
        trace,
        fewer=True,
        topk_ids=stored_ids(np.where(absent, -1, trace.topk_ids.astype(np.int64)), trace.num_experts),
        topk_weights=None if weights is None else np.where(absent, 0, weights).astype(weights.dtype),
    )


def recorded_trace(
    seed: int = 0,
    prompts: Sequence[int] = (3, 0, 2),
    decodes: Sequence[int] = (4, 5, 1),
    scores: bool = True,
    width: int | None = None,
    half: bool = False,
    **sizes: int,
) -> Trace:
    """A random trace as a recorder writes it: token ids, labels a and b in turn, score tables cut to ``width``.

    A prompt of 0 rows was not recorded and has 7 tokens. ``sizes``: num_layers, num_experts, top_k.
    """
    trace = random_trace(seed, prompts=prompts, decodes=decodes, skew=0.0, half=half, **sizes)
    assert trace.topk_weights is not None
    tables = {name: getattr(trace, name) for name in ("router_logits", "lookahead_before", "lookahead_after")}
    if width is not None:
        tables = {name: truncated(table, width) for name, table in tables.items()}
    layers, experts = trace.num_layers, trace.num_experts
    return replace(
        trace,
        **(tables if scores else dict.fromkeys(tables)),
        geometry=Geometry("random", layers, experts, trace.top_k, expert_bytes=(1000,) * layers, weight_bits=4.5),
        topk_ids=trace.topk_ids.astype(id_dtype(experts)),
        topk_weights=trace.topk_weights.astype(np.float16 if half else np.float32),
        token_ids=np.random.default_rng(seed).integers(0, 1000, trace.num_tokens).astype(np.int32),
        expert_similarity=None,
        prompt_len=np.array([prompt or 7 for prompt in prompts], np.int32),
        score_function="softmax_topk",
        request_labels=tuple("ab"[i % 2] for i in range(len(prompts))),
        provenance={"seed": seed},
        content_hash="",
    )


def truncated(table: ScoreTable, width: int) -> ScoreTable:
    """The `width` best of a dense table."""
    ids = np.argsort(-table.values, axis=-1, kind="stable")[..., :width]
    log_normalizer = np.log(np.exp(table.values.astype(np.float64)).sum(-1)).astype(np.float32)
    return ScoreTable(np.take_along_axis(table.values, ids, -1), ids.astype(np.uint8), log_normalizer)


def ids_trace(
    rows: Any, experts: int, phase: Any = None, prompt_len: Any = (0,), offsets: Any = None, **changes: Any
) -> Trace:
    """A trace of nothing but ids, rows [T, L, K] as nested lists."""
    ids = np.array(rows, np.uint8)
    if ids.ndim == 2:
        ids = ids[:, None, :]
    trace = Trace(
        geometry=Geometry("ids", ids.shape[1], experts, ids.shape[2]),
        topk_ids=ids,
        request_offsets=np.array([0, len(ids)] if offsets is None else offsets, np.int64),
        prompt_len=np.array(prompt_len, np.int32),
        phase=np.array([DECODE] * len(ids) if phase is None else phase, np.uint8),
    )
    return replace(trace, **changes)
