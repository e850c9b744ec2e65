"""One device: residency, queues and rules behind the push interface that every driver uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.base import Assignment, Eviction, Part, Policy, Prediction, Prefetch, Substitution
from policies.needs import Need
from policies.state import DECODE, NEVER, RESIDENT, array_fields
from sim.engine.decision import calls_by_address as calls
from sim.engine.decision.cache import allocate
from sim.engine.decision.layout import CACHE, DECISIONS, STATE
from sim.engine.decision.rule_compilation import compile_rules
from sim.engine.decision.struct_views import Struct
from sim.machine.capacity import Pools
from sim.machine.host_store import HostStore
from sim.machine.storage import Reading

BASES: dict[str, type[Part]] = {
    "eviction": Eviction,
    "prediction": Prediction,
    "prefetch": Prefetch,
    "substitution": Substitution,
    "assignment": Assignment,
}
Table = NDArray[np.int64]
RESET_ARRAYS = ("used", "held", "member_count", "queued", "prefetched", "prefetched_count", "transient", "staged")
"""What of the cache is cleared where another lockstep batch begins with an empty one."""


def decides(part: object, base: type, decision: str) -> bool:
    """Whether a part has a decision of its own in place of the base class's nothing."""
    return getattr(type(part), decision) is not getattr(base, decision)


def counted_from(now: int, next_use: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times of the next use counted from ``now`` on; NEVER stays."""
    return np.where(next_use == NEVER, NEVER, next_use - now)


@dataclass(frozen=True, slots=True)
class Costs:
    """What decisions may know of the hardware, in ns."""

    load_ns: Table
    """[L] one copy of an expert."""
    low_load_ns: Table
    """[L] one copy of an expert in low precision."""
    expert_ns: Table
    """[L, B+1] one expert on the GPU by tokens, launches included."""
    cpu_ns: Table
    """[L, B+1] one expert on the CPU by tokens; 0 rows if the hardware has none."""
    layer_ns: Table
    """[L] a decode layer without routed experts; empty in a replay without a clock."""
    gap_ns: Table
    """[L] from the end of a decode layer to the next lookup; empty in a replay without a clock."""
    write_back_ns: Table
    """[2L] writing back one victim, then one in low precision; empty: victims are not written back."""
    dequantise_ns: Table
    """[L] added to an expert that is executed in low precision."""
    read_ns: Table
    """[L] reading an expert from storage; empty where none is read."""
    through_ns: Table
    """[L] ... and bringing it to the GPU."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What a device is built from."""

    policy: Policy
    pools: Pools
    num_layers: int
    num_experts: int
    top_k: int
    max_tokens: int
    costs: Costs
    low_size: Table
    """[L] bytes of an expert in low precision."""
    memories: dict[str, NDArray[np.float64]]
    """What each part knows at the start."""
    launch_ns: int = 0
    """Launches of one expert, contained in ``costs.expert_ns``."""
    has_scores: bool = False
    fewer: bool = False
    """Whether a token may use fewer than K experts of a layer."""
    staging_slots: int = 1
    hold: bool = False
    warm: bool = False
    profile: NDArray[np.float64] | None = None
    """[L, E] worth of each expert at a warm start, instead of what the eviction rule says."""
    seed: int = 0
    goes_past: int = 0
    """Which prompts go past the cache, see ``core.NEVER``."""
    streams: bool = False
    """Those that do are streamed layer by layer."""
    least_pool_bytes: int | None = None
    """What every pool shrinks to at most, where its bytes change from step to step."""
    late_copy_to_cpu: bool = False
    cancel_late_copy: bool = False
    forgets: bool = False
    """Another lockstep batch finds everything as at the start, what rules have learned and drawn too."""
    host: HostStore | None = None
    """The store in host memory; None: it holds every expert."""
    first_use: Table | None = None
    """[L, E] first demand of every expert, for rules that see the future."""
    first_use_of: Callable[[int], Table] | None = None
    """The same in a lockstep batch that finds the cache reset."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy decided for one layer step."""

    ready: int
    """How many of the GPU's queue are there already."""
    gpu_queue: list[int]
    """Experts in the order in which the GPU runs them: ready ones, then in order of arrival."""
    run_ns: list[int]
    """What each of them takes on the GPU, without launches."""
    cpu_queue: list[int]
    demand_copies: int
    may_release: bool
    """Whether an expert may hold a slot that it releases once executed: see ``Device.releases``."""
    stops_copy: bool
    """Whether the copy on the link stops now."""
    reads: list[int]
    """Experts that storage reads now, in this order."""


class Copy(NamedTuple):
    """The copy that ``Device.next_copy`` started."""

    layer: int
    expert: int
    kind: int
    """FULL, CHUNK or LOW_COPY of ``counters``."""
    staged: int
    """1: it goes to a staging slot."""
    back_ns: int
    """What writing its victims back takes."""


@dataclass
class Device:
    """Push interface of one device: ``load`` a step; per layer ``begin`` -> Plan, ``next_copy``, ``finish_copy``,
    ``finish_expert``, ``end``.

    A trace, a live forward pass and a real runtime can all drive it; it holds no clock. Results accumulate in
    ``counts`` (see ``sim.engine.decision.counters.COUNTERS``) and ``lost``.
    """

    spec: DeviceSpec
    arrays: dict[str, NDArray[Any]] = field(init=False)
    cache_arrays: dict[str, NDArray[Any]] = field(init=False)
    memories: dict[str, NDArray[np.float64]] = field(init=False)
    state: Struct = field(init=False)
    cache: Struct = field(init=False)
    rules: Struct = field(init=False)
    structs: tuple[int, int, int] = field(init=False)
    """Addresses of state, cache and rules, as compiled code takes them."""
    group: int = -1
    step: tuple[NDArray[Any], ...] = ()

    def __post_init__(self) -> None:
        spec = self.spec
        layers, experts = spec.num_layers, spec.num_experts
        depth = max(1, spec.policy.prediction.depth(layers))
        self.arrays = array_fields(layers, experts, spec.top_k, spec.max_tokens, depth)
        self.arrays |= {"gpu_ns": spec.costs.expert_ns, "cpu_ns": spec.costs.cpu_ns}
        self.memories = {name: memory.copy() for name, memory in spec.memories.items()}
        self.cache_arrays = allocate(layers, experts, spec.pools.capacity.size) | {
            "pool_of": spec.pools.pool_of,
            "capacity": spec.pools.capacity.copy(),
            "used": np.zeros_like(spec.pools.capacity),
            "size": spec.pools.size,
            "low_size": spec.low_size,
            "low_load_ns": spec.costs.low_load_ns,
            "write_back_ns": spec.costs.write_back_ns,
            "expert_ns": spec.costs.expert_ns,
            "cpu_ns": spec.costs.cpu_ns,
            "layer_ns": spec.costs.layer_ns,
            "gap_ns": spec.costs.gap_ns,
            "dequantise_ns": spec.costs.dequantise_ns,
            "read_ns": spec.costs.read_ns,
            "through_ns": spec.costs.through_ns,
        }
        for name in ("status", "shield", "priority"):
            self.cache_arrays[name] = self.arrays[name].reshape(-1)
        sizes = {"num_layers": layers, "num_experts": experts, "num_ranks": spec.top_k}
        begin = {"seed": spec.seed, "has_scores": int(spec.has_scores), "step": -1}
        self.state = Struct(STATE, **sizes, **begin, **self.arrays)
        self.cache = Struct(CACHE, **self._flags(), **self.cache_arrays)
        self.rules = compile_rules(spec.policy, self.memories)
        self.plan = self.cache.integers("num_ready", "stops_copy")
        self.copy_fields = self.cache.integers("copy_layer", "back_ns")
        self.run_ns, self.gpu_queue = self.cache_arrays["run_ns"], self.cache_arrays["gpu_queue"]
        self.cpu_queue = self.cache_arrays["cpu_queue"]
        self.structs = (self.state.address, self.cache.address, self.rules.address)
        self._fill_state()

    def _flags(self) -> dict[str, int]:
        policy = self.spec.policy
        parts = dict(zip(BASES, policy.parts(), strict=True))
        decisions = {
            f"has_{name}": int(decides(parts[part], BASES[part], name)) for name, (part, _) in DECISIONS.items()
        }
        takes_late = self.spec.late_copy_to_cpu or policy.assignment.takes_late
        host = self.spec.host or HostStore(0, False, False, False, Reading(None, 1, False))
        promotes = policy.prefetch.promotes and bool(decisions["has_choose"])
        return decisions | {
            "has_choose": int(decisions["has_choose"] and not promotes),
            "promotes": int(promotes),
            "admits": int(policy.prefetch.admits and bool(decisions["has_choose"])),
            "fetches_early": decisions["has_choose"],
            "needs_importance": int(Need.IMPORTANCE in policy.assignment.all_needs()),
            "holds_overflow": int(self.spec.hold),
            "is_static": int(policy.eviction.static),
            "rule_is_static": int(policy.eviction.static),
            "goes_past": self.spec.goes_past,
            "streams": int(self.spec.streams),
            "after_step": int(policy.eviction.after_step),
            "predicts_at_end": int(policy.prediction.available_at_end()),
            "foresees": int(
                decisions["has_predict"] and policy.prediction.foresees() and policy.prefetch.chooses_ahead
            ),
            "launch_ns": self.spec.launch_ns,
            "offers_late": int(takes_late and decides(policy.assignment, Assignment, "assign")),
            "cancels_late": int(self.spec.cancel_late_copy),
            "link_idle": int(policy.prefetch.only_on_idle_link()),
            "has_low": int(Need.LOW_PRECISION in policy.substitution.all_needs()),
            "num_chunks": policy.prefetch.chunks(),
            "has_host": int(self.spec.host is not None),
            "cpu_reads": int(host.reading.peer is None),
            "host_is_lru": int(host.lru),
            "host_exclusive": int(host.exclusive),
            "host_capacity": host.capacity,
            "staging_free": self.spec.staging_slots,
        }

    def _fill_state(self) -> None:
        """Contents at the start."""
        spec = self.spec
        self.arrays["weights"][:] = np.nan
        self.arrays["load_ns"][:] = spec.costs.load_ns
        if spec.first_use is not None:
            self.arrays["next_use"][:] = spec.first_use
        self._warm_up()
        self.earlier = 0
        """Layer steps before the last restart: ``now`` counts from there."""
        self.begun = [array.copy() for array in self._everything()] if spec.forgets else []

    def _warm_up(self) -> None:
        spec = self.spec
        if spec.host is not None:
            calls.open_host(*self.structs, spec.host.warm)
        if spec.warm or spec.policy.residency == "all":
            calls.fill(*self.structs, self._filling_order())

    def _filling_order(self) -> NDArray[np.int32]:
        """Keys of all experts, highest initial priority first, ties in order of layer and expert."""
        rule = self.spec.policy.eviction
        priority = self.spec.profile
        if priority is None or rule.static:
            priority = rule.initial(self.spec.num_layers, self.spec.num_experts, self.memories["eviction"])
        size = self.spec.num_layers * self.spec.num_experts
        if priority is None:
            return np.arange(size, dtype=np.int32)
        return np.argsort(-priority.reshape(-1), kind="stable").astype(np.int32)

    def _everything(self) -> list[NDArray[Any]]:
        """All that a replay changes, but for what it counts."""
        own = {*allocate(self.spec.num_layers, self.spec.num_experts, self.spec.pools.capacity.size), "used"}
        arrays = [self.cache_arrays[name] for name in sorted(own - {"counts", "lost"})]
        return [*arrays, *self.arrays.values(), *self.memories.values(), self.state.memory, self.cache.memory]

    def _restart(self) -> None:
        """Everything as at the start, ``now`` too."""
        now = self.state.get("now")
        for array, begun in zip(self._everything(), self.begun, strict=True):
            array[...] = begun
        self.cache_arrays["capacity"][:] = self.spec.pools.capacity
        self.earlier += now

    def enter_group(self, group: int, pool_bytes: int = -1) -> bool:
        """Empty the cache, as at the start, if ``group`` is another lockstep batch -> whether it is.

        ``pool_bytes``: of every pool in the first step of the batch; -1: as they are.

        What is on the link is void then. What predictions and substitutions have learned stays, unless the
        specification says that rules forget.
        """
        if group == self.group:
            return False
        if self.group >= 0 and self.spec.forgets:
            self._restart()
        elif self.group >= 0:
            for name in ("status", "shield", "priority"):
                self.arrays[name][:] = 0
            for name in RESET_ARRAYS:
                self.cache_arrays[name][:] = 0
            self.memories["eviction"][:] = self.spec.memories["eviction"]
            calls.void_copies(*self.structs, self.spec.staging_slots)
            if pool_bytes >= 0:
                self.cache_arrays["capacity"][:] = pool_bytes
            self._warm_up()
        if self.group >= 0 and self.spec.first_use_of is not None:
            self.arrays["next_use"][...] = counted_from(self.earlier, self.spec.first_use_of(group))
        self.group = group
        return True

    def load(
        self,
        step: tuple[NDArray[Any], ...],
        phase: int,
        group: int,
        requests: int | None = None,
        pool_bytes: int = -1,
    ) -> None:
        """Begin a forward pass with the router output of its tokens (``sim.workload.rows.BlockData.rows``).

        ``requests``: how many the tokens are of; None: one each where they decode, one of all in a prefill.
        ``pool_bytes``: of every pool from now on; -1: as they are.
        """
        self.step = step = self._from_restart(step)  # compiled code only borrows them
        if requests is None:
            requests = len(step[0]) if phase == DECODE else 1
        calls.load(*self.structs, phase, group, requests, pool_bytes, *step)

    def _from_restart(self, step: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        """The router output with the times of the future counted as ``now`` is."""
        return (*step[:-1], counted_from(self.earlier, step[-1])) if self.earlier and step[-1].size else step

    def begin(self, layer: int, link_left_ns: int = 0, link_copy_ns: int = 0) -> Plan:
        """Decide one layer step. ``link_left_ns`` of ``link_copy_ns`` are left of the copy on the link; 0: no copy."""
        calls.begin(*self.structs, layer, link_left_ns, link_copy_ns)
        ready, gpu, cpu, copies, may_release, stops = self.plan.tolist()
        run_ns = self.run_ns[:gpu].tolist()
        cpu_queue = self.cpu_queue[:cpu].tolist() if cpu else []
        reads = self.cache_arrays["read_queue"][: self.cache.get("num_reads")].tolist() if self.spec.host else []
        queue = self.gpu_queue[:gpu].tolist()
        return Plan(ready, queue, run_ns, cpu_queue, copies, bool(may_release), bool(stops), reads)

    @property
    def streamed(self) -> bool:
        """Whether the step is a prompt that is streamed past the cache: ``stream_layer`` takes the place of the calls
        of its layers."""
        return bool(self.cache.get("streamed"))

    def stream_layer(self, layer: int) -> tuple[list[int], list[int]]:
        """Count a layer of a streamed prompt -> (its experts in the order in which they run, what each takes)."""
        calls.stream_layer(*self.structs, layer)
        count = self.cache.get("num_gpu")
        return self.gpu_queue[:count].tolist(), self.run_ns[:count].tolist()

    @property
    def foresees(self) -> bool:
        """Whether the policy decides at the begin of a step that verifies drafts, too: ``foresee``."""
        return bool(self.cache.get("foresees"))

    def foresee(self) -> None:
        """Let the policy predict and choose at the begin of a step that verifies drafts."""
        calls.foresee(*self.structs)

    def next_copy(self) -> int:
        """Start the next copy -> core.IDLE, core.WAIT, or core.DEMAND_COPY or core.PREFETCH_COPY: see ``copy``."""
        return int(calls.next_copy(*self.structs))

    def copy(self) -> Copy:
        """The copy on the link."""
        return Copy._make(self.copy_fields.tolist())

    def releases(self, expert: int) -> bool:
        """Whether an expert of the current layer holds a slot that it releases once executed."""
        arrays = self.cache_arrays
        return bool(arrays["staged"][expert] or arrays["transient"][expert])

    def finish_copy(self) -> bool:
        """What was on the link has arrived: True if its expert is whole now, False if chunks are left."""
        return bool(calls.finish_copy(*self.structs))

    def finish_expert(self, expert: int) -> None:
        """The GPU has executed an expert of the current layer."""
        calls.finish_expert(*self.structs, expert)

    def end(self) -> None:
        """Close the layer step."""
        calls.end(*self.structs)

    @property
    def counts(self) -> NDArray[np.int64]:
        array: NDArray[np.int64] = self.cache_arrays["counts"]
        return array

    @property
    def lost(self) -> NDArray[np.float64]:
        array: NDArray[np.float64] = self.cache_arrays["lost"]
        return array

    def totals(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """``counts`` and ``lost`` as they are now, for ``totals_since``."""
        return self.counts.copy(), self.lost.copy()

    def totals_since(
        self, before: tuple[NDArray[np.int64], NDArray[np.float64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What ``counts`` and ``lost`` have grown by since."""
        return self.counts - before[0], self.lost - before[1]

    @property
    def tokens_of(self) -> NDArray[np.int32]:
        """[E] tokens served by each executed expert in the current layer step."""
        array: NDArray[np.int32] = self.cache_arrays["tokens_of"]
        return array

    def residents(self) -> NDArray[Any]:
        """[L, E] bool: resident now."""
        resident: NDArray[Any] = self.arrays["status"] == RESIDENT
        return resident
