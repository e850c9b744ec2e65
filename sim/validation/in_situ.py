"""Calibration in situ: constants of the time model from real runs of two settings, mostly hits and mostly misses.

What the clock of the mostly-hits runs books to attention, read-back and experts gives a mean for each. The link's rate
is the paced one, or that of the measured copies. Three costs of the runtime are left, and three measured times fix them
by way of the engine: bookkeeping per layer (mostly-hits, whole), what a demand copy costs the computation beside it by
issue and contention (mostly-misses, without waiting for the link), and what a copy takes longer than its bytes by
waking threads (mostly-misses, whole).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.parts import PARTS
from sim.machine.runtime import Runtime
from sim.validation.plan import MOSTLY_HITS, MOSTLY_MISSES, Plan
from sim.validation.raw_runs import RawRun
from sim.validation.simulate import simulate
from traces.errors import UserError

STAGING_SLOTS = 2
ROUNDS = 6
"""Of the search for the three costs of the runtime."""
STEP_S = 2e-6
"""By which the costs are varied."""
RIDGE = 1e-3
"""Weight of the ridge penalty on the costs."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Seconds of attention, read-back and host per layer, of an expert, of a demand copy's issue, of a copy's wake-up
    beyond its bytes; the link's rate."""

    attention_s: float
    readback_s: float
    expert_s: float
    link_bytes_per_s: float
    host_s: float = 0.0
    call_s: float = 0.0
    wake_s: float = 0.0


def machine(plan: Plan, constants: Constants) -> Machine:
    """The constants as files of hardware and runtime would state them.

    Attention and experts read their weights at one rate; what one of them takes longer than that is its launch or, for
    attention, the host's.
    """
    real, bytes_ = plan.real, plan.real.expert_bytes
    attention_bytes = real.attention_rows * real.hidden_size * real.item_bytes
    per_byte = constants.expert_s / bytes_
    if attention_bytes:
        per_byte = min(per_byte, constants.attention_s / attention_bytes)
    fitted = "FITTED: real runs of two settings on this machine, in situ"
    rates: dict[str, Any] = {
        "gpu_memory_bytes_per_s": 1 / per_byte,
        "link_latency_s": real.link_latency_s + constants.wake_s,
        "link_bytes_per_s": constants.link_bytes_per_s,
    }
    costs: dict[str, Any] = {
        "launch_s": max(0.0, constants.expert_s - bytes_ * per_byte),
        "readback_s": constants.readback_s,
        "host_s_per_layer": constants.host_s + max(0.0, constants.attention_s - attention_bytes * per_byte),
        "link_call_s": constants.call_s,
    }
    hardware = Hardware(
        name="in_situ",
        gpu_memory_bytes=1,
        gpu_flops_per_s=1e18,  # decode steps of one token: arithmetic is part of the fitted times
        label="FITTED",
        sources=dict.fromkeys(rates, fitted),
        **rates,
    )
    runtime = Runtime(
        name="in_situ",
        kernels_per_expert=1,
        staging_slots=STAGING_SLOTS,
        label="FITTED",
        sources=dict.fromkeys(costs, fitted),
        **costs,
    )
    return Machine(hardware, runtime)


def placeholder(plan: Plan) -> Machine:
    """A machine for real runs, whose times are their own: no rule of the plan decides by it."""
    return machine(plan, Constants(1e-4, 0.0, 1e-4, plan.real.link_bytes_per_s or 1e10))


def fit(
    plan: Plan, hits: Sequence[RawRun], misses: Sequence[RawRun], start: Constants | None = None, rounds: int = ROUNDS
) -> Constants:
    """The constants from calibrating runs, pooled; the search for the two costs of the runtime begins at ``start``.

    Raises: UserError where one of the two settings has no run.
    """
    if not hits or not misses:
        raise UserError(f"calibration needs runs of {MOSTLY_HITS} and {MOSTLY_MISSES}")
    layers = len(hits[0].layer_ns)
    steps = sum(len(run.columns["latency_ns"]) for run in hits)
    executed = sum(int(run.columns["executed"].sum()) for run in hits)

    def total_s(column: str) -> float:
        return sum(int(run.columns[column].sum()) for run in hits) / 1e9

    constants = Constants(
        attention_s=total_s("attention_ns") / steps / layers,
        readback_s=total_s("sync_ns") / steps / layers,
        expert_s=total_s("expert_ns") / executed,
        link_bytes_per_s=_link_rate(plan, misses),
    )
    target = np.array([_mean_ns(hits), _mean_ns(misses) - _mean_ns(misses, "link_ns"), _mean_ns(misses)])
    begin = np.zeros(3) if start is None else np.array([start.host_s, start.call_s, start.wake_s])
    return _with_costs(plan, constants, target, begin, rounds)


def _mean_ns(runs: Sequence[RawRun], column: str = "latency_ns") -> float:
    return float(np.mean([run.mean(column) for run in runs]))


def _link_rate(plan: Plan, misses: Sequence[RawRun]) -> float:
    """The paced rate: a copy that ends late does not delay the next. Else that of the copies as they were measured."""
    if plan.real.link_bytes_per_s is not None:
        return plan.real.link_bytes_per_s
    copy_ns = sum(run.copy_ns * run.copies for run in misses) / max(1, sum(run.copies for run in misses))
    return plan.real.expert_bytes / max(copy_ns / 1e9, 1e-9)


def _with_costs(
    plan: Plan, constants: Constants, target: NDArray[np.float64], costs: NDArray[np.float64], rounds: int
) -> Constants:
    """Costs per layer, per demand copy and per copy with which the engine takes as long as measured; none negative.

    ``target`` [3]: ns of mostly-hits, of mostly-misses without waiting for the link, and of mostly-misses. Gauss-Newton
    with finite differences: waiting hides costs, so times are not linear in them.
    """
    settings = [plan.setting(MOSTLY_HITS), plan.setting(MOSTLY_MISSES)]

    def times(trial: NDArray[np.float64]) -> NDArray[np.float64]:
        host_s, call_s, wake_s = trial.tolist()
        trial_machine = machine(plan, replace(constants, host_s=host_s, call_s=call_s, wake_s=wake_s))
        hits, misses = (simulate(plan, setting, trial_machine) for setting in settings)
        waited_ns = float(misses.part_ns("link").mean())
        misses_ns = float(misses.latency_ns.mean())
        return np.array([float(hits.latency_ns.mean()), misses_ns - waited_ns, misses_ns])

    scale = target[2] / 1e9
    hold = RIDGE * np.eye(3) / scale
    for _ in range(rounds):
        base = times(costs)
        slopes = [(times(costs + STEP_S * unit) - base) / STEP_S for unit in np.eye(3)]
        design = np.vstack([np.stack(slopes, axis=1) / target[:, None], hold])
        lacking = np.concatenate([(target - base) / target, -hold @ costs])
        costs = np.maximum(0.0, costs + np.linalg.lstsq(design, lacking, rcond=None)[0])
    host_s, call_s, wake_s = costs.tolist()
    return replace(constants, host_s=host_s, call_s=call_s, wake_s=wake_s)


TIMES = ("latency_ns", *(f"{part}_ns" for part in PARTS))


def slower(runs: Sequence[RawRun], factor: float) -> list[RawRun]:
    """Runs that take ``factor`` times as long in every part."""
    return [replace(run, columns=run.columns | {name: run.columns[name] * factor for name in TIMES}) for run in runs]


@dataclass(frozen=True, slots=True)
class Spread:
    """Relative standard deviation of the mean time per token between runs of a setting, and its degrees of freedom."""

    relative: float
    freedom: int

    def of_mean(self, count: int, rng: np.random.Generator) -> float:
        """A factor by which the mean of so many runs may be off, drawn from Student's distribution."""
        return max(0.2, 1.0 + float(self.relative / np.sqrt(count) * rng.standard_t(self.freedom)))


def repeat_spread(*groups: Sequence[RawRun]) -> Spread | None:
    """The spread between runs of a setting, pooled over settings; None where each has one run."""
    squares, freedom = 0.0, 0
    for runs in groups:
        means = np.array([run.mean("latency_ns") for run in runs])
        if len(means) > 1:
            squares += float((((means - means.mean()) / means.mean()) ** 2).sum())
            freedom += len(means) - 1
    return Spread(float(np.sqrt(squares / freedom)), freedom) if freedom else None
