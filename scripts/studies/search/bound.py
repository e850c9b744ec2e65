"""Prints how much any rule could gain on short windows, by integer programmes: python -m scripts.studies.search.bound

A window is the first tokens of a request as decode steps, one MoE layer of the embedded trace, an empty cache of a
quarter of the experts, on set-up S1 without host time. Of each rule: its time, what it loses, and the least time of ANY
rule that loses no more and knows the whole window beforehand: who copies what, what the CPU computes, what is replaced,
what stays. Twice: where copies are made on demand, and where they may also be made while the link stands idle, for
whatever comes later. `importance_plus` has the lowest price on a grid at which it loses no more than `importance`.
Lower bounds: the GPU's time for experts that miss and the CPU's transfers are left out, a replaced expert always finds
a stand-in, and where the solver stops early its proven bound counts. Written to docs/results/search_bound.csv. A few
minutes. SIMULATED, sizes ESTIMATED.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.substitution.critical_path import CriticalPath
from scripts.command_line import parser_of, run
from scripts.studies.search.data import embedded
from scripts.studies.search.places import Place
from scripts.studies.search.replays import shipped
from scripts.studies.smoe.replays import CPU_RATIOS
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import StepTable
from sim.paths import ROOT
from traces.errors import UserError
from traces.format.trace import DECODE, Geometry, Trace

BUDGETED = "importance_plus"
RULES = ("hybrimoe_true_costs", "importance", BUDGETED)
PRICES = tuple(2.0 ** (step / 4) for step in range(-8, 60))
TOKENS, LAYER, FRACTION, SECONDS = 12, 2, 0.25, 20.0
OUT = ROOT / "docs" / "results" / "search_bound.csv"


@dataclass(frozen=True, slots=True)
class Window:
    """T tokens of one layer: experts [T, K], their shares of weight [T, K]; what moves cost, in ns."""

    ids: NDArray[np.int64]
    shares: NDArray[np.float64]
    slots: int
    copy_ns: float
    cpu_ns: float
    fixed_ns: float
    """Of a step beside what it waits for experts."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The least time of a window: proven lower bound, and the best that was found (inf: nothing)."""

    bound_ns: float
    found_ns: float


class Programme:
    """Rows and columns of an integer programme, by name."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.high: list[float] = []
        self.whole: list[int] = []
        self.entries: list[tuple[int, int, float]] = []
        self.limits: list[float] = []

    def column(self, cost: float = 0.0, whole: bool = True) -> int:
        """A new unknown: 0 or 1, or any number from 0 up."""
        self.cost.append(cost)
        self.high.append(1.0 if whole else np.inf)
        self.whole.append(int(whole))
        return len(self.cost) - 1

    def at_most(self, limit: float, *terms: tuple[int, float]) -> None:
        """Sum of coefficient * unknown <= limit."""
        self.entries += [(len(self.limits), column, value) for column, value in terms]
        self.limits.append(limit)

    def solve(self, seconds: float) -> Any:
        rows, columns, values = zip(*self.entries, strict=True)
        matrix = coo_array((values, (rows, columns)), shape=(len(self.limits), len(self.cost)))
        return milp(
            np.array(self.cost), integrality=np.array(self.whole), bounds=Bounds(0.0, np.array(self.high)),
            constraints=LinearConstraint(matrix.tocsr(), -np.inf, np.array(self.limits)),
            options={"time_limit": seconds},
        )  # fmt: skip


def optimum(window: Window, loss: float, early: bool, seconds: float = SECONDS) -> Optimum:
    """The least sum over steps of fixed + max(copies on the link, experts on the CPU) that loses ``loss`` per token.

    Every routed expert is resident, copied, computed on the CPU or replaced. An expert is resident in a step if it was
    in the one before, or was copied then; at most ``slots`` are. ``early``: the link may also copy for later steps,
    while a step is fixed or waits for something else. Times are in copies inside, for the solver's sake.
    """
    programme, cpu, fixed = Programme(), window.cpu_ns / window.copy_ns, window.fixed_ns / window.copy_ns
    steps, experts = len(window.ids), np.unique(window.ids).tolist()
    resident: dict[int, int] = {}
    arrived: dict[int, int] = {}
    replaced: list[tuple[int, float]] = []
    for step in range(steps):
        held = {expert: programme.column() for expert in experts}
        for expert in experts:
            before = [(source[expert], -1.0) for source in (resident, arrived) if expert in source]
            programme.at_most(0.0, (held[expert], 1.0), *before)
        programme.at_most(float(window.slots), *((column, 1.0) for column in held.values()))
        waited = programme.column(1.0, whole=False)
        copied = {int(expert): programme.column() for expert in window.ids[step]}
        on_cpu = {expert: programme.column() for expert in copied}
        for expert, share in zip(copied, window.shares[step].tolist(), strict=True):
            given_up = programme.column()
            ways = (held[expert], copied[expert], on_cpu[expert], given_up)
            programme.at_most(-1.0, *((way, -1.0) for way in ways))
            replaced.append((given_up, share))
        programme.at_most(0.0, (waited, -1.0), *((column, 1.0) for column in copied.values()))
        programme.at_most(0.0, (waited, -1.0), *((column, cpu) for column in on_cpu.values()))
        brought = {expert: programme.column() for expert in experts} if early and step + 1 < steps else {}
        if brought:
            link = (*copied.values(), *brought.values())
            programme.at_most(fixed, (waited, -1.0), *((column, 1.0) for column in link))
        resident, arrived = held, dict(copied)
        for expert, column in brought.items():  # copied for this step or for a later one
            either = programme.column()
            both = [(copied[expert], -1.0)] if expert in copied else []
            programme.at_most(0.0, (either, 1.0), (column, -1.0), *both)
            arrived[expert] = either
    programme.at_most(loss * steps + 1e-9, *replaced)
    answer = programme.solve(seconds)
    found = np.inf if answer.x is None else float(answer.fun)
    bound = float(answer.mip_dual_bound) if answer.mip_dual_bound is not None else 0.0
    return Optimum((bound + steps * fixed) * window.copy_ns, (found + steps * fixed) * window.copy_ns)


def of_one_layer(geometry: Geometry, layer: int) -> Geometry:
    """The sizes of one layer alone."""

    def one(sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if sizes is None else (sizes[layer],)

    return replace(
        geometry, num_layers=1, expert_bytes=one(geometry.expert_bytes), shared_bytes=one(geometry.shared_bytes),
        attention_bytes=one(geometry.attention_bytes),
    )  # fmt: skip


def one_layer(trace: Trace, request: int, tokens: int, layer: int) -> Trace:
    """The first decode tokens of a request in one layer."""
    part = trace.select_requests(1, request)
    first = int(np.flatnonzero(part.phase == DECODE)[0])
    rows = slice(first, first + tokens)
    assert part.topk_weights is not None and part.router_logits is not None
    layers = slice(layer, layer + 1)
    return replace(
        part,
        geometry=of_one_layer(part.geometry, layer),
        topk_ids=np.ascontiguousarray(part.topk_ids[rows, layers]),
        topk_weights=np.ascontiguousarray(part.topk_weights[rows, layers]),
        router_logits=part.router_logits.take(lambda array: np.ascontiguousarray(array[rows, layers])),
        selection_scores=None, lookahead_before=None, lookahead_after=None, expert_similarity=None, token_ids=None,
        request_offsets=np.array([0, tokens]), phase=part.phase[rows],
        content_hash=f"{part.content_hash}/{layer}/{tokens}",
    )  # fmt: skip


def replayed(policy: Policy, trace: Trace, place: Place) -> tuple[float, float, Replay]:
    """(time of all steps in ns, share of gate mass lost, the replay)."""
    geometry = of_one_layer(embedded(range(1)).geometry(place.model), 0)
    run = RunConfig(engine="compiled")
    setup = DeviceSetup(policy, place.machine(geometry), CacheConfig(fraction=place.fraction), run)
    replay = assemble(trace, setup, geometry)
    table = StepTable(replay).run()
    return float(table.columns()["latency_ns"].sum()), float(table.metrics()["decode.lost_gate_mass"] or 0.0), replay


def window_of(trace: Trace, place: Place) -> Window:
    """The window as the programme takes it; costs are those of the replays."""
    total_ns, _, replay = replayed(load_policy("all_resident"), trace, place)
    durations, ids = replay.durations, trace.topk_ids[:, 0].astype(np.int64)
    assert durations.cpu_expert_ns is not None and trace.topk_weights is not None
    gpu_ns = float(durations.expert_ns[0, 1] + durations.expert_launch_ns)
    weights = np.asarray(trace.topk_weights[:, 0], np.float64)
    return Window(
        ids, weights / weights.sum(axis=1, keepdims=True), int(place.fraction * trace.num_experts),
        float(durations.copy_ns[0]), float(durations.cpu_expert_ns[0, 1]), total_ns / len(ids) - ids.shape[1] * gpu_ns,
    )  # fmt: skip


def main(argv: list[str]) -> None:
    """Solve the windows, print and write the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--windows", type=int, default=3, help="requests whose first tokens are taken (default: 3)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of a window (default: {TOKENS})")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"of the solver per programme (default: {SECONDS:g})"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="table (default: docs/results/search_bound.csv)")
    options = parser.parse_args(argv)
    if options.windows < 1 or not 2 <= options.tokens <= 64 or options.seconds <= 0:
        raise UserError("--windows must be at least 1, --tokens from 2 to 64, --seconds above 0")
    trace = embedded(range(options.windows)).trace
    rows = []
    for request in range(options.windows):
        part = one_layer(trace, request, options.tokens, LAYER)
        for ratio in CPU_RATIOS:
            place = Place("s1_rtx3080ti", "deepseek_moe_16b", 0.35, FRACTION, 0.0, ratio, 1)
            window, allowed = window_of(part, place), 0.0
            for rule in RULES:
                policy = replace(shipped(rule)(place), prediction=NoPrediction(), prefetch=NoPrefetch())
                if rule == BUDGETED:
                    policy = priced(policy, part, place, allowed)
                rows.append(row_of(rule, policy, request, part, place, window, options.seconds))
                allowed = float(rows[-1]["lost"])
                print(f"request {request}, CPU {ratio:.2f}, {rule}: {rows[-1]['over_on_demand']:.3f}", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out, index=False, float_format="%.4f")
    print(table.groupby(["cpu_ratio", "rule"])[["lost", "over_on_demand", "over_early"]].mean().round(3).to_string())


def priced(policy: Policy, trace: Trace, place: Place, allowed: float) -> Policy:
    """The policy with the lowest constant price at which it loses no more than is allowed in the window."""
    assert isinstance(policy.substitution, CriticalPath)
    for price in PRICES:
        found = replace(policy, substitution=replace(policy.substitution, price=price, rate=0.0))
        if replayed(found, trace, place)[1] <= allowed:
            return found
    return replace(policy, substitution=replace(policy.substitution, loss=0.0))


def row_of(
    rule: str, policy: Policy, request: int, trace: Trace, place: Place, window: Window, seconds: float
) -> dict[str, Any]:
    """A rule in a window beside the optima of rules that lose no more."""
    time_ns, lost, _ = replayed(policy, trace, place)
    demand, early = (optimum(window, lost, with_early, seconds) for with_early in (False, True))
    return {
        "request": request, "cpu_ratio": place.cpu_ratio, "rule": rule, "lost": lost, "ms": time_ns / 1e6,
        "bound_on_demand_ms": demand.bound_ns / 1e6, "bound_early_ms": early.bound_ns / 1e6,
        "proven": bool(np.isclose(demand.bound_ns, demand.found_ns, rtol=1e-3)),
        "over_on_demand": time_ns / demand.bound_ns, "over_early": time_ns / early.bound_ns,
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
