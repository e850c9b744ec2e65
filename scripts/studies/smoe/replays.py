"""Replays of the SMoE study: the paper's set-ups, its parts, its baselines, and changes with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.assignment.best_split import BestSplit
from policies.assignment.link_only import LinkOnly
from policies.assignment.two_pointer import TwoPointer
from policies.base import Assignment, Policy
from policies.eviction.score_window import ScoreWindow
from policies.prediction.lookahead import Lookahead
from policies.prefetch.top_score import TopScore
from policies.state import DECODE
from policies.substitution.score_band import ScoreBand
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, TraceConfig
from sim.machine.capacity import CacheConfig
from sim.machine.geometry import resolve_geometry
from sim.machine.hardware import Hardware, load_hardware
from sim.machine.parts import PARTS as TIME_PARTS
from sim.metrics.step_table import StepTable
from sim.statistics.bootstrap import multinomial_counts, percentile_interval
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
CODE_BASELINES = ("moe_infinity_code", "hybrimoe_code", "llama_cpp", "deepspeed")
BASELINES = (*CODE_BASELINES, "moe_infinity_paper", "hybrimoe_paper")
SIDES: dict[str, Assignment] = {"link only": LinkOnly(), "best split": BestSplit()}
"""The same supply of misses for SMoE and its baselines; 'own' is each system's own."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Figures that nobody knows well: host time per layer, and a CPU expert's time in copies of it."""

    host_s: float = 3e-3
    cpu_ratio: float = 1 / 3

    def apply(self, hardware: Hardware) -> Hardware:
        return replace(hardware, host_s_per_layer=self.host_s, cpu_load_ratio=self.cpu_ratio)


NOMINAL = Machine()
HOSTS_S, CPU_RATIOS = (0.0, 1e-3, 3e-3), (1 / 3, 1.0, 1.2)
MACHINES = tuple(Machine(host_s, ratio) for host_s in HOSTS_S for ratio in CPU_RATIOS)


def smoe(parts: Sequence[str], alpha: float, side: Assignment | None = None) -> Policy:
    """LRU offloading with some of SMoE's parts; ``side`` replaces the paper's supply of misses."""
    policy = replace(load_policy("lru"), name="+".join(["lru", *parts]))
    if "eviction" in parts:
        policy = replace(policy, eviction=ScoreWindow())
    if "router" in parts:
        policy = replace(policy, substitution=ScoreBand(alpha=alpha))
    if "prefetch" in parts:
        policy = replace(policy, prediction=Lookahead(), prefetch=TopScore(alpha=alpha))
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
        side = SIDES.get(self.side)
        if self.system is None:
            return smoe(self.parts, alpha, side)
        policy = load_policy(self.system)
        return policy if side is None else replace(policy, assignment=side)

    def cache(self, fraction: float) -> CacheConfig:
        """The same bytes for all; one pool for the systems that have one, filled where nothing else fills it."""
        one_pool = self.system is not None and self.system.startswith(("moe_infinity", "llama_cpp"))
        warm = self.system == "llama_cpp"
        return CacheConfig(fraction=fraction, scope="global" if one_pool else "layer", start="warm" if warm else "cold")


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


def value(sums: Sums, measure: str, weights: NDArray[Any] | None = None) -> Vector:
    """The measure with blocks counted ``weights`` times, [draws, blocks] -> [draws]; all once -> one value."""
    above, below = (getattr(sums, name) for name in MEASURES[measure])
    counts = np.ones((1, above.size)) if weights is None else weights
    return np.asarray((counts @ above) / (counts @ below))


def change(pairs: Sequence[tuple[Sums, Sums]], measure: str, weights: NDArray[Any] | None = None) -> Vector:
    """Mean over set-ups of new / old - 1, where the same blocks are drawn for all of them, [draws]."""
    ratios = [value(new, measure, weights) / value(old, measure, weights) for old, new in pairs]
    return np.asarray(np.mean(ratios, axis=0) - 1.0)


def change_interval(pairs: Sequence[tuple[Sums, Sums]], measure: str) -> tuple[float, float]:
    """95 % interval of ``change`` over blocks; the same draws for everything with as many blocks."""
    return percentile_interval(change(pairs, measure, multinomial_counts(pairs[0][0].tokens.size, DRAWS)))


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
        if "cpu" not in policy.needs():
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
        hardware = machine.apply(load_hardware(setup.hardware))
        cache = contender.cache(setup.older_fraction if older else setup.fraction)
        run = RunConfig(batch_size=batch, engine="compiled")
        device, geometry = DeviceSetup(policy, hardware, cache, run), borrowed(setup.model, self.trace)
        return decode_sums(StepTable(assemble(self.trace, device, geometry, others=self.others)).run())


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
