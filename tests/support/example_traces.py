"""Small random traces for tests, with every optional part at will."""

from dataclasses import replace

import numpy as np

from traces.format.trace import DECODE, PREFILL, Geometry, ScoreTable, Trace


def dense(rng, rows, layers, experts, dtype=np.float32):
    return ScoreTable(rng.normal(size=(rows, layers, experts)).astype(dtype))


def truncated(table: ScoreTable, width: int, id_dtype=np.uint8) -> ScoreTable:
    """The `width` best of a dense table."""
    ids = np.argsort(-table.values, axis=-1, kind="stable")[..., :width]
    log_normalizer = np.log(np.exp(table.values.astype(np.float64)).sum(-1)).astype(np.float32)
    return ScoreTable(np.take_along_axis(table.values, ids, -1), ids.astype(id_dtype), log_normalizer)


def random_trace(
    seed=0, prompts=(3, 0, 2), decodes=(4, 5, 1), layers=3, experts=8, top_k=2, scores=True, width=None, half=False
):
    """A ranked trace whose ids are the top-k of its router_logits; a prompt of 0 rows is one that was not recorded."""
    rng = np.random.default_rng(seed)
    lengths = np.add(prompts, decodes)
    rows = int(lengths.sum())
    dtype = np.float16 if half else np.float32
    logits = dense(rng, rows, layers, experts, dtype)
    ids = np.argsort(-logits.values, axis=-1, kind="stable")[..., :top_k]
    chosen = np.exp(np.take_along_axis(logits.values, ids, -1).astype(np.float32))
    phase = np.concatenate([np.repeat([PREFILL, DECODE], pair) for pair in zip(prompts, decodes, strict=True)])
    tables = [logits, *(dense(rng, rows, layers - 1, experts, dtype) for _ in range(2))]
    if width is not None:
        tables = [truncated(table, width) for table in tables]
    return Trace(
        geometry=Geometry("random", layers, experts, top_k, expert_bytes=(1000,) * layers, weight_bits=4.5),
        topk_ids=ids.astype(np.uint8 if experts <= 256 else np.uint16),
        topk_weights=(chosen / chosen.sum(-1, keepdims=True)).astype(dtype),
        router_logits=tables[0] if scores else None,
        lookahead_before=tables[1] if scores else None,
        lookahead_after=tables[2] if scores else None,
        token_ids=rng.integers(0, 1000, rows).astype(np.int32),
        request_offsets=np.cumsum([0, *lengths]).astype(np.int64),
        prompt_len=np.array([prompt or 7 for prompt in prompts], np.int32),
        phase=phase.astype(np.uint8),
        score_function="softmax_topk",
        request_labels=tuple("ab"[i % 2] for i in range(len(prompts))),
        provenance={"seed": seed},
    )


def ids_trace(rows, experts, phase=None, prompt_len=(0,), offsets=None, **changes):
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
