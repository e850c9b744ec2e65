"""Requests served by the cluster of OD-MoE one after the other: when their tokens come, and what it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.systems.od_moe.config import OdMoe
from sim.systems.od_moe.decode import Decode
from sim.systems.od_moe.prefill import Prefill, even_demand, routed_demand, serial_ns
from sim.systems.od_moe.recall import recall_by_step, wrong_loads
from sim.systems.od_moe.times import Times
from sim.systems.timeline import Span
from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import refuse_fewer
from traces.format.trace import DECODE, PREFILL, Trace

PUBLISHED_SETTINGS = ((16, 64), (16, 256), (128, 64), (128, 256))
"""(tokens of the prompt, tokens of the answer) of Table 2 of OD-MoE."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt's length, its decode steps, and its routing [n, L, K] where it was recorded."""

    prompt_tokens: int
    decode_steps: int
    prompt_ids: NDArray[np.integer] | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What one request took: until its first token, each decode step ([T]), and sums over the decode steps.

    `right`: experts that the prediction named rightly, whenever it did; None where nothing is predicted.
    """

    request: Request
    ttft_ns: int
    step_ns: NDArray[np.int64]
    stall_ns: int
    outcomes: dict[str, int]
    right: int | None
    loads: int
    loaded_bytes: float
    prefill_loads: int
    link_busy_ns: int
    sent_ns: int


def requests(system: OdMoe, times: Times, trace: Trace | None) -> list[Request]:
    """The requests to serve.

    Raises: UserError when a trace is wanted and there is none, or its routing is not that of the model.
    """
    if system.prompt_tokens is not None and system.new_tokens is not None:
        return [Request(system.prompt_tokens, system.new_tokens - 1)]
    if system.workload == "published":
        return [Request(prompt, answer - 1) for prompt, answer in PUBLISHED_SETTINGS]
    if trace is None:
        raise UserError("system.workload=trace: no trace was given")
    found = (trace.num_layers, trace.num_experts, trace.top_k)
    if found != (times.num_layers, times.num_experts, times.top_k):
        raise UserError(
            f"system.model={system.model}: the trace of {trace.geometry.model} has layers, experts, top_k {found}; "
            "take system.model=trace, or a trace of this model"
        )
    return list(_recorded(trace))


def _recorded(trace: Trace) -> Iterator[Request]:
    refuse_fewer(trace.fewer, "system=od_moe")
    for number in range(trace.num_requests):
        rows = slice(int(trace.request_offsets[number]), int(trace.request_offsets[number + 1]))
        ids, phase = load(trace.topk_ids[rows]), trace.phase[rows]
        prompt = ids[phase == PREFILL]
        if (np.diff(phase.astype(np.int8)) < 0).any():
            raise UserError(f"system=od_moe serves one prompt per request, and request {number} has several turns")
        yield Request(int(trace.prompt_len[number]), int((phase == DECODE).sum()), prompt if len(prompt) else None)


def serve(system: OdMoe, times: Times, request: Request, number: int, timeline: list[Span] | None = None) -> Served:
    """One request on an idle cluster; `number` tells the draws of requests apart."""
    ttft_ns, prefill_loads = _prefill(system, times, request, timeline)
    recall = recall_by_step(system, request.decode_steps, times.top_k, times.num_experts)
    wrong = wrong_loads(system, recall, times.num_layers, times.top_k, times.num_experts, number)
    shadow = system.prediction == "shadow"
    decode = Decode(
        times,
        wrong,
        request.prompt_tokens,
        predicts=system.prediction != "none",
        shadow_ns=times.shadow_ns if shadow else 0,
        token_period=system.token_period if shadow else 0,
        kv_period=system.kv_period if shadow else 0,
        abort=system.abort_wrong_load,
        timeline=timeline,
        start_ns=ttft_ns,
    )
    step_ns = decode.run()
    return Served(
        request,
        ttft_ns,
        step_ns,
        int(decode.stall_ns.sum()),
        decode.outcomes,
        None if system.prediction == "none" else int((~wrong).sum()),
        decode.loads,
        decode.loaded_ns / times.load_ns * times.expert_bytes,
        prefill_loads,
        decode.loaded_ns,
        decode.sent_ns,
    )


def _prefill(system: OdMoe, times: Times, request: Request, timeline: list[Span] | None) -> tuple[int, int]:
    """(time until the first token, experts loaded)"""
    if request.prompt_ids is None:
        tokens, demand = even_demand(request.prompt_tokens, system.mini_batches, times)
    else:
        tokens, demand = routed_demand(request.prompt_ids, system.mini_batches, times.num_experts)
    if not system.overlap_prefill:
        return serial_ns(times, system.workers, tokens, demand), int(np.count_nonzero(demand.any(axis=0)))
    prefill = Prefill(times, system.workers, tokens, demand, timeline)
    return prefill.run(), prefill.loads
