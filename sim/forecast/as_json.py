"""The answer as plain values; rates in tokens per second, sizes in bytes."""

from __future__ import annotations

from typing import Any

from sim.forecast.answer import Answer, Change, Rated
from sim.forecast.nearest import Nearest


def as_json(found: Answer) -> dict[str, Any]:
    """Everything that the screen says."""
    first, looser = found.first_token, found.looser
    return {
        "label": "SIMULATED terms, FITTED shares",
        "model": {
            "name": found.model.dimensions.name,
            "quantisation": found.model.quantisation,
            "family": found.model.family,
            "bytes": found.model.bytes,
        },
        "hardware": {
            "name": found.machine.name,
            "known": list(found.machine.known),
            "not_read": list(found.machine.not_read),
        },
        "context": found.context,
        "kv_bytes": found.ask.kv_bytes,
        "rows_of_this_machine": found.own_rows,
        "first_token": first
        and {"prompt": first.prompt, "seconds": first.seconds, "low": first.low, "high": first.high},
        "routing": found.routing and found.routing.said(),
        "plans": [_plan(one) for one in found.rated],
        "looser": looser and {"flag": looser.flag, "tokens_per_s": looser.tokens_per_s},
        "refused": [{"runtime": one.runtime, "why": one.why} for one in found.refusals],
        "changes": [_change(one) for one in found.changes],
        "nearest_published_rows": [_row(one) for one in found.nearest],
    }


def _plan(one: Rated) -> dict[str, Any]:
    return {
        "runtime": one.plan.runtime,
        "what": one.plan.what,
        "flags": one.plan.flags,
        "tokens_per_s": one.forecast.tokens_per_s,
        "low": one.forecast.low,
        "high": one.forecast.high,
        "waits_for": one.forecast.shares,
        "close_behind": one.forecast.close,
        "rows_before": one.forecast.rows_before,
        "other_rows": one.forecast.other_rows,
        "rows": list(one.forecast.rows),
        "tokens_per_s_without_rows": one.forecast.plain,
        "gpu_bytes": one.plan.gpu_bytes,
        "host_bytes": one.plan.host_bytes,
        "hit_rate": one.plan.hit_rate,
        "published_rows_of_its_kind": one.checked,
    }


def _change(one: Change) -> dict[str, Any]:
    return {
        "what": one.what,
        "tokens_per_s": one.tokens_per_s,
        "ratio": one.ratio,
        "plan": one.plan,
        "why_not": one.why_not,
    }


def _row(one: Nearest) -> dict[str, Any]:
    return {
        "row": one.row,
        "what": one.what,
        "measured": one.measured,
        "predicted_without_it": one.predicted,
        "source": one.source,
        "same_gpu": one.same_gpu,
        "same_model": one.same_model,
    }
