"""Calibration in situ: constants of the time model from real runs of two settings, mostly hits and mostly misses.

What the clock of the real run books to attention, host, read-back and experts gives a mean for each. The link's rate is
the paced one, or that of the measured copies; what a copy costs beyond it (waking threads, contention) is the latency
with which the engine takes as long for the mostly-misses setting as the real run did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sim.hardware import Hardware
from sim.validation.plan import MOSTLY_HITS, MOSTLY_MISSES, Plan
from sim.validation.raw_runs import RawRun
from sim.validation.simulate import simulate
from traces.errors import UserError

STAGING_SLOTS = 2
ROUNDS = 4
"""Of the search for the latency of a copy."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Seconds of attention, host and read-back per layer, of an expert, of a copy beyond its bytes; the link's rate."""

    attention_s: float
    host_s: float
    readback_s: float
    expert_s: float
    copy_latency_s: float
    link_bytes_per_s: float


def machine(plan: Plan, constants: Constants) -> Hardware:
    """The constants as a hardware file would state them.

    Attention and experts read their weights at one rate; what one of them takes longer than that is its launch or, for
    attention, the host's.
    """
    real, bytes_ = plan.real, plan.real.expert_bytes
    attention_bytes = real.attention_rows * real.hidden_size * real.item_bytes
    per_byte = constants.expert_s / bytes_
    if attention_bytes:
        per_byte = min(per_byte, constants.attention_s / attention_bytes)
    fitted = "FITTED: real runs of two settings on this machine, in situ"
    figures: dict[str, Any] = {
        "gpu_memory_bytes_per_s": 1 / per_byte,
        "launch_s": constants.expert_s - bytes_ * per_byte,
        "readback_s": constants.readback_s,
        "host_s_per_layer": constants.host_s + constants.attention_s - attention_bytes * per_byte,
        "link_latency_s": constants.copy_latency_s,
        "link_bytes_per_s": constants.link_bytes_per_s,
    }
    return Hardware(
        name="in_situ",
        gpu_memory_bytes=1,
        gpu_flops_per_s=1e18,  # decode steps of one token: arithmetic is part of the fitted times
        kernels_per_expert=1,
        staging_slots=STAGING_SLOTS,
        label="FITTED",
        sources=dict.fromkeys(figures, fitted),
        **figures,
    )


def placeholder(plan: Plan) -> Hardware:
    """A machine for real runs, whose times are their own: no rule of the plan decides by it."""
    return machine(plan, Constants(1e-4, 1e-4, 0.0, 1e-4, 0.0, plan.real.link_bytes_per_s or 1e10))


def fit(plan: Plan, hits: Sequence[RawRun], misses: Sequence[RawRun]) -> Constants:
    """The constants from calibrating runs, pooled.

    Raises: UserError where one of the two settings has no run.
    """
    if not hits or not misses:
        raise UserError(f"calibration needs runs of {MOSTLY_HITS} and {MOSTLY_MISSES}")
    layers = len(hits[0].layer_ns)
    both = [*hits, *misses]
    steps = sum(len(run.columns["latency_ns"]) for run in both)

    def per_layer_s(column: str) -> float:
        return sum(int(run.columns[column].sum()) for run in both) / steps / layers / 1e9

    executed = sum(int(run.columns["executed"].sum()) for run in both)
    constants = Constants(
        attention_s=per_layer_s("attention_ns"),
        host_s=per_layer_s("host_ns"),
        readback_s=per_layer_s("sync_ns"),
        expert_s=sum(int(run.columns["expert_ns"].sum()) for run in both) / executed / 1e9,
        copy_latency_s=plan.real.link_latency_s,
        link_bytes_per_s=_link_rate(plan, misses),
    )
    return _with_latency(plan, constants, float(np.mean([run.mean("latency_ns") for run in misses])))


def _link_rate(plan: Plan, misses: Sequence[RawRun]) -> float:
    """The paced rate, else that of the copies as they were measured, latency included."""
    if plan.real.link_bytes_per_s is not None:
        return plan.real.link_bytes_per_s
    copy_ns = sum(run.copy_ns * run.copies for run in misses) / max(1, sum(run.copies for run in misses))
    return plan.real.expert_bytes / (copy_ns / 1e9)


def _with_latency(plan: Plan, constants: Constants, target_ns: float) -> Constants:
    """The latency of a copy with which mostly-misses takes ``target_ns`` per token; never below the link's own."""
    setting, least_s = plan.setting(MOSTLY_MISSES), constants.copy_latency_s
    found = constants
    for _ in range(ROUNDS):
        simulated = simulate(plan, setting, machine(plan, found))
        copies = float(simulated.count("demand_copies").mean())
        if copies == 0:
            return constants
        step_s = (target_ns - float(simulated.latency_ns.mean())) / copies / 1e9
        found = replace(found, copy_latency_s=max(least_s, found.copy_latency_s + step_s))
    return found


def resampled(runs: Sequence[RawRun], rng: np.random.Generator) -> list[RawRun]:
    """Runs drawn again with replacement."""
    return [runs[index] for index in rng.integers(0, len(runs), len(runs)).tolist()]


def repeat_spread(*groups: Sequence[RawRun]) -> float | None:
    """Relative standard deviation of the mean time per token between runs of a setting, pooled; None for one run."""
    squares, freedom = 0.0, 0
    for runs in groups:
        means = np.array([run.mean("latency_ns") for run in runs])
        if len(means) > 1:
            squares += float((((means - means.mean()) / means.mean()) ** 2).sum())
            freedom += len(means) - 1
    return float(np.sqrt(squares / freedom)) if freedom else None
