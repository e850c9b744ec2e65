"""Small traces made for tests; none of them stands for a real model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from traces.format.trace import DECODE, PREFILL, Geometry, ScoreTable, Trace


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
        exp = np.exp(logits - logits.max(-1, keepdims=True))
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
    prompts: tuple[int, ...] = (4, 3),
    decodes: tuple[int, ...] = (6, 5),
    skew: float = 1.0,
    expert_bytes: int | list[int] = 1000,
) -> Trace:
    """Routing by the top k of random logits with a popularity bias of strength ``skew``, with scores and lookahead."""
    rng = np.random.default_rng(seed)
    tokens = sum(prompts) + sum(decodes)
    bias = rng.normal(size=(1, num_layers, num_experts)) * skew
    logits = (rng.normal(size=(tokens, num_layers, num_experts)) + bias).astype(np.float32)
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    ahead = (logits[:, 1:] + 0.5 * rng.normal(size=logits[:, 1:].shape)).astype(np.float32)
    lengths = [p + d for p, d in zip(prompts, decodes, strict=True)]
    trace = routed(ids, num_experts, list(prompts), lengths, logits, expert_bytes, ahead)
    alike = rng.uniform(-1, 1, (num_layers, num_experts, num_experts))
    alike = (alike + alike.swapaxes(1, 2)) / 2
    alike[:, np.arange(num_experts), np.arange(num_experts)] = 1.0
    return replace(trace, expert_similarity=alike.astype(np.float16))
