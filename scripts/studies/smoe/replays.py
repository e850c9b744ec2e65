"""Replays of the SMoE study: the paper's set-ups, its parts, its baselines, and changes with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.assignment.best_split import BestSplit
from policies.assignment.link_only import LinkOnly
from policies.assignment.two_pointer import TwoPointer
from policies.base import Assignment, Policy
from policies.eviction.score_window import ScoreWindow
from policies.needs import Need
from policies.prediction.lookahead import Lookahead
from policies.prefetch.top_score import TopScore
from policies.state import DECODE
from policies.substitution.score_band import ScoreBand
from sim.assembly.build import make_policy
from sim.assembly.catalogue import load_policy, policy_config
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, TraceConfig
from sim.machine.capacity import CacheConfig
from sim.machine.durations import with_cpu_ratio
from sim.machine.geometry import resolve_geometry
from sim.machine.hardware import Hardware, load_hardware
from sim.machine.machine import Machine as SimulatedMachine
from sim.machine.parts import PARTS as TIME_PARTS
from sim.machine.runtime import load_runtime
from sim.metrics.step_table import StepTable
from sim.statistics.bootstrap import estimate
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Geometry, Trace

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setup:
    """One of the paper's machines with its model's sizes, alpha, and capacity as shares of all experts."""

    name: str
    hardware: str
    model: str
    alpha: float
    fraction: float
    """From the code's automatic sizing: COMPUTED from GPU_MEM of its README."""
    older_fraction: float
    """As hard-coded before April 2026. Which of the two the paper's figures used is not stated."""


SETUPS = (
    Setup("S1", "s1_rtx3080ti", "deepseek_moe_16b", 0.35, 0.26, 0.17),
    Setup("S2", "s2_rtx4060ti", "xverse_moe_a4_2b", 0.30, 0.23, 0.17),
    Setup("S3", "s3_a6000", "qwen2_57b_a14b", 0.25, 0.30, 0.26),
)
CHAIN = ("eviction", "router", "prefetch", "cpu")
"""The parts of SMoE in the order in which the paper adds them to LRU offloading."""
IDLE_PREFETCH = "prefetch on an idle link"
"""In the place of `prefetch`: only what fits before the next lookup; not the paper's form."""
BASELINES = ("moe_infinity_code", "hybrimoe_code", "llama_cpp", "deepspeed", "moe_infinity_paper", "hybrimoe_paper")
"""The four systems that the paper compares with, as released; two of them also as their papers describe them."""
PAPER_FORMS = ("importance", "importance_plus", "importance_plus_1")
"""Policies whose alpha is the set-up's; the released code has one alpha for all."""
SIDES: dict[str, Assignment] = {"link only": LinkOnly(), "best split": BestSplit()}
"""The same supply of misses for SMoE and its baselines; 'own' is each system's own."""


RUNTIME = load_runtime("smoe_2026_07")
"""Of every contender: what the rules alone give."""
STATED_HOST_S = RUNTIME.host_s_per_layer + RUNTIME.decision_s_per_layer
THREE_CORES, TWO_CORES, THIRD = 0.73, 1.08, 1 / 3
"""Time of an expert on the CPU in copies of it: SMoE's authors measured 2.41 ms beside a copy of 2.23 ms on two cores
that compute (goingshr/SMoE, branch CPU_V3, docs/stage2_results.json); three, the release's default, by scaling. A third
is what a sentence about the paper's Fig. 22 may mean."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Figures that nobody knows well: host time per layer, and a CPU expert's time in copies of it."""

    host_s: float = STATED_HOST_S
    """All that the host spends in a layer beside launches: what the runtime states as host and as decision."""
    cpu_ratio: float = THREE_CORES
    figures: tuple[tuple[str, float | bool], ...] = ()
    """Others of the hardware or runtime, by name."""

    def apply(self, hardware: str, geometry: Geometry) -> SimulatedMachine:
        """That hardware with these figures under SMoE's runtime."""
        machine = SimulatedMachine(_hardware(hardware), RUNTIME).with_figures(dict(self.figures))
        machine = with_cpu_ratio(machine, (geometry.expert_bytes or (1,))[0], self.cpu_ratio)
        return machine.with_figures({"host_s_per_layer": self.host_s, "decision_s_per_layer": 0.0})


NOMINAL = Machine()
HOSTS_S, CPU_RATIOS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3), (THIRD, THREE_CORES, TWO_CORES)
MACHINES = tuple(Machine(host_s, ratio) for host_s in HOSTS_S for ratio in CPU_RATIOS)


def smoe(parts: Sequence[str], alpha: float, side: Assignment | None = None) -> Policy:
    """LRU offloading with some of SMoE's parts; ``side`` replaces the paper's supply of misses."""
    policy = replace(load_policy("lru"), name="+".join(["lru", *parts]))
    if "eviction" in parts:
        policy = replace(policy, eviction=ScoreWindow())
    if "router" in parts:
        policy = replace(policy, substitution=ScoreBand(alpha=alpha))
    if "prefetch" in parts or IDLE_PREFETCH in parts:
        prefetch = TopScore(alpha=alpha, link_idle=IDLE_PREFETCH in parts)
        policy = replace(policy, prediction=Lookahead(), prefetch=prefetch)
    return replace(policy, assignment=side or (TwoPointer() if "cpu" in parts else LinkOnly()))


@dataclass(frozen=True, slots=True)
class Contender:
    """What is compared: SMoE's ``parts`` on LRU, or a ``system`` by name, with its 'own' or a common supply."""

    parts: tuple[str, ...] = ()
    system: str | None = None
    side: str = "own"

    @property
    def label(self) -> str:
        words = self.system or "+".join(["lru", *self.parts])
        return words if self.side == "own" else f"{words}, {self.side}"

    def policy(self, alpha: float) -> Policy:
        """Its rules with the set-up's alpha."""
        return _policy(self, alpha)


@cache
def _hardware(name: str) -> Hardware:
    return load_hardware(name)


@cache
def _policy(contender: Contender, alpha: float) -> Policy:
    side = SIDES.get(contender.side)
    if contender.system is None:
        return smoe(contender.parts, alpha, side)
    config = policy_config(contender.system)
    if contender.system in PAPER_FORMS:
        config.alpha = alpha
    policy = make_policy(config)
    return policy if side is None else replace(policy, assignment=side)


@dataclass(frozen=True, slots=True)
class Sums:
    """Decode steps of one replay, added up by block (a request, or a lockstep batch), each [blocks]."""

    time_ns: Vector
    """Latency of every step times its tokens; prompts of other requests in the batch are no part of it."""
    tokens: Vector
    resident: Vector
    executed: Vector
    parts_ns: dict[str, Vector] = field(default_factory=dict)
    lost_gate_mass: float = 0.0

    def share(self, *parts: str) -> float:
        """Share of the time that is booked to some parts."""
        return float(sum(self.parts_ns[part].sum() for part in parts) / self.time_ns.sum())


DRAWS = 2000
MEASURES = {"TPOT": ("time_ns", "tokens"), "cache ratio": ("resident", "executed")}


def value(sums: Sums, measure: str) -> float:
    """The measure over all blocks."""
    above, below = (getattr(sums, name) for name in MEASURES[measure])
    return float(above.sum() / below.sum())


def change(pairs: Sequence[tuple[Sums, Sums]], measure: str) -> float:
    """Mean over set-ups of new / old - 1."""
    return float(np.mean([value(new, measure) / value(old, measure) for old, new in pairs]) - 1.0)


def change_interval(pairs: Sequence[tuple[Sums, Sums]], measure: str) -> tuple[float, float]:
    """95 % interval of ``change`` over blocks; the same draws for everything with as many blocks."""
    above, below = MEASURES[measure]
    sides = [side for pair in pairs for side in pair]
    columns = [getattr(side, name) for side in sides for name in (above, below)]  # old and new of every set-up

    def mean_change(sums: NDArray[Any]) -> NDArray[Any]:
        ratios = sums[..., 0::2] / sums[..., 1::2]
        return np.asarray(np.mean(ratios[..., 1::2] / ratios[..., 0::2], axis=-1) - 1.0)

    return estimate(np.stack(columns, axis=1), mean_change, DRAWS).interval


@dataclass
class Bench:
    """Replays contenders on the requests of a trace and remembers the results."""

    trace: Trace
    others: Trace
    """Requests to learn from; they are never replayed."""
    known: dict[tuple[str, Contender, int, Machine, bool], Sums] = field(default_factory=dict)
    replays: int = 0

    def run(
        self, setup: Setup, contender: Contender, batch: int = 1, machine: Machine = NOMINAL, older: bool = False
    ) -> Sums:
        """Decode sums of one replay."""
        policy = contender.policy(setup.alpha)
        if Need.CPU not in policy.needs():
            machine = replace(machine, cpu_ratio=NOMINAL.cpu_ratio)
        key = (setup.name, contender, batch, machine, older)
        if key not in self.known:
            self.known[key] = self._replay(setup, contender, policy, batch, machine, older)
            self.replays += 1
        return self.known[key]

    def pairs(
        self, old: Contender, new: Contender, batch: int, machine: Machine = NOMINAL, older: bool = False
    ) -> list[tuple[Sums, Sums]]:
        """Both contenders in every set-up."""
        return [
            (self.run(setup, old, batch, machine, older), self.run(setup, new, batch, machine, older))
            for setup in SETUPS
        ]

    def _replay(
        self, setup: Setup, contender: Contender, policy: Policy, batch: int, machine: Machine, older: bool
    ) -> Sums:
        cache = CacheConfig(fraction=setup.older_fraction if older else setup.fraction)  # the same bytes for all
        run = RunConfig(batch_size=batch, engine="compiled")
        geometry = borrowed(setup.model, self.trace)
        device = DeviceSetup(policy, machine.apply(setup.hardware, geometry), cache, run)
        return decode_sums(StepTable(assemble(self.trace, device, geometry, others=self.others)).run())


def split(path: Path | None, requests: int | None, least: int) -> tuple[Trace, Trace]:
    """(requests to replay, the last quarter to learn from). Raises: UserError for fewer than ``least`` requests."""
    trace = read_trace(path or embedded_trace_path("demo"), check_rows=path is not None)
    held = -(-trace.num_requests // 4)
    left = trace.num_requests - held
    count = left if requests is None else requests
    if not least <= count <= left:
        raise UserError(f"--requests={count}: must be between {least} and {left}, {held} are held out to learn from")
    return trace.select_requests(count), trace.select_requests(held, left)


def borrowed(model: str, trace: Trace) -> Geometry:
    """Sizes of a model under the layers and experts of the trace: ESTIMATED."""
    return resolve_geometry(trace, TraceConfig(embedded="demo", geometry=model), {"name": "auto"})[0]


def decode_sums(table: StepTable) -> Sums:
    """Add up the decode steps of a finished replay by lockstep batch."""
    columns = table.columns()
    decode = columns["phase"] == DECODE
    groups, tokens = columns["group"][decode], columns["num_tokens"][decode]

    def by_block(name: str, times: NDArray[np.int64] | int = 1) -> Vector:
        return np.bincount(groups, weights=(columns[name][decode] * times).astype(np.float64)).astype(np.float64)

    lost = table.metrics()["decode.lost_gate_mass"]
    return Sums(
        by_block("latency_ns", tokens),
        by_block("num_tokens"),
        by_block("resident_executed"),
        by_block("executed"),
        {part: by_block(f"{part}_ns", tokens) for part in TIME_PARTS},
        float(lost or 0.0),
    )
