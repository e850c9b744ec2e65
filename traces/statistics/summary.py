"""All statistics of a trace as one dictionary of plain numbers, for `info` and for reports."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from traces.format.tensors import trace_tensors
from traces.format.trace import DECODE, Trace
from traces.statistics.routing import experts_per_token, label_counts, next_token_reuse, popularity

CAPACITY_FRACTIONS = (0.125, 0.25, 0.5, 0.75)
"""Of the experts of a layer, rounded down to at least one slot: cold start, cache carried over requests."""
# Above this low-score share nearly every active expert may be replaced: the bands no longer tell experts apart.
MOST_LOW_SHARE = 0.8


def summarize(trace: Trace) -> dict[str, Any]:
    """Contents and statistics of a trace, JSON-able; NaN becomes None, absent scores leave their section None."""
    decode = int((trace.phase == DECODE).sum())
    summary: dict[str, Any] = _plain(
        {
            "geometry": asdict(trace.geometry),
            "content_hash": trace.content_hash,
            "provenance": trace.provenance,
            "ranked": trace.ranked,
            "score_function": trace.score_function,
            "requests": trace.num_requests,
            "prefill_rows": trace.num_tokens - decode,
            "decode_rows": decode,
            "labels": {
                label: {"requests": requests, "rows": rows} for label, (requests, rows) in label_counts(trace).items()
            },
            "tensors": {
                name: {"dtype": array.dtype.name, "shape": list(array.shape), "bytes": array.nbytes}
                for name, array in trace_tensors(trace).items()
            },
            "statistics_over": "decode rows" if decode else "prefill rows",
            "locality": _locality(trace),
            "gate": _gate(trace),
            "lookahead": _lookahead(trace),
            "similarity": _similarity(trace),
        }
    )
    return summary


def warnings(summary: dict[str, Any]) -> list[str]:
    """Sentences about numbers that mislead if read without care."""
    sentences = []
    gate = summary["gate"]
    if gate and max(share or 0 for share in gate["low_share"]) > MOST_LOW_SHARE:
        sentences.append(
            f"More than {MOST_LOW_SHARE:.0%} of active experts are low-score, as with sigmoid-like gates: the bands, "
            "defined on softmax(router_logits), hardly tell experts apart here."
        )
    if gate and max(gate["below_floor"]) > 0.01:
        sentences.append(
            f"In up to {max(gate['below_floor']):.1%} of cases the candidate band reaches below the floor of the "
            "truncated scores, so candidates are counted too low."
        )
    if not summary["decode_rows"]:
        sentences.append(
            "There are no decode rows: statistics are over prefill rows, and each prompt is one step of the LRU cache."
        )
    top_k = summary["geometry"]["top_k"]
    if small := [slots for slots in summary["locality"]["lru_slots"] if slots < top_k]:
        sentences.append(
            f"At {small[-1]} slots a token's {top_k} experts do not fit; a step keeps its most recent ones."
        )
    return sentences


def _locality(trace: Trace) -> dict[str, Any]:
    from traces.statistics.miss_curve import lru_miss_curve

    use, curve = popularity(trace), lru_miss_curve(trace)
    slots = [max(1, int(trace.num_experts * fraction)) for fraction in CAPACITY_FRACTIONS]
    return {
        "top_quarter_share": float(use.top_quarter_share.mean()),
        "entropy": float(use.entropy.mean()),
        "top_quarter_share_per_layer": use.top_quarter_share.tolist(),
        "entropy_per_layer": use.entropy.tolist(),
        "experts_per_token": experts_per_token(trace),
        "next_token_reuse": next_token_reuse(trace),
        "lru_capacity": list(CAPACITY_FRACTIONS),
        "lru_slots": slots,
        "lru_hit_rate_decode": [curve.hit_rate(count, DECODE) for count in slots],
        "lru_hit_rate": [curve.hit_rate(count) for count in slots],
    }


def _gate(trace: Trace) -> dict[str, Any] | None:
    if trace.router_logits is None or trace.num_experts <= trace.top_k:
        return None
    from traces.statistics.gate import gate_statistics

    return asdict(gate_statistics(trace))


def _lookahead(trace: Trace) -> dict[str, Any] | None:
    from traces.statistics.lookahead import lookahead_statistics

    tables = {"before": trace.lookahead_before, "after": trace.lookahead_after}
    if trace.num_experts <= trace.top_k or trace.num_layers < 2:
        return None
    recall = {name: asdict(lookahead_statistics(trace, table)) for name, table in tables.items() if table is not None}
    return recall or None


def _similarity(trace: Trace) -> dict[str, float] | None:
    """Means over layers and experts: of the similarity to the other experts, and to the most similar one."""
    if trace.expert_similarity is None:
        return None
    others = trace.expert_similarity[:, ~np.eye(trace.num_experts, dtype=bool)].astype(np.float64)
    others = others.reshape(trace.num_layers, trace.num_experts, trace.num_experts - 1)
    return {"mean": float(others.mean()), "best_partner": float(others.max(axis=-1).mean())}


def _plain(value: Any) -> Any:
    """The value with tuples as lists and NaN as None, as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
