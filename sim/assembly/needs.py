"""Whether a trace and a machine give a policy what its rules need, and what each part knows at the start."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Part, Policy, Substitution, Vector
from policies.needs import Need, lacking
from sim.assembly.rule_class import place_of
from sim.engine.decision.device import BASES, decides
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import use_counts
from traces.format.trace import Geometry, Trace

OFF = {
    Need.LOOKAHEAD_BEFORE: "policy/prediction=none policy/prefetch=none",
    Need.LOOKAHEAD_AFTER: "policy/prediction=none policy/prefetch=none",
    Need.EXPERT_SIMILARITY: "policy/substitution=none",
}
"""What a policy does without where a trace lacks it, as overrides."""


def check_needs(policy: Policy, trace: Trace, hardware: Hardware) -> None:
    """Raises UserError naming the rule, what it needs and what lacks it."""
    check_routing(policy, trace)
    for need, rule in policy.needs().items():
        lacks = lacking(need, trace)
        if lacks is not None:
            raise UserError(
                f"policy {policy.name}: {rule} needs {lacks}: record the trace with this tool, or switch that part off"
                f"{' by ' + OFF[need] if need in OFF else ''}"
            )
    check_cpu(policy, hardware)
    _check_floor(policy, trace)


def check_routing(policy: Policy, trace: Trace) -> None:
    """Raises UserError where a rule learns which experts go together or follow, and the routing was made up."""
    for part in (policy.prediction, policy.substitution):
        if trace.synthetic and {Need.FIT, Need.FORECAST} & {*part.all_needs()}:
            raise UserError(
                f"policy {policy.name}: {type(part).__name__} learns which experts go together in a model, and the "
                "routing is SYNTHETIC, so nothing it finds there is true of the model: replay a recorded trace, or "
                "switch that part off"
            )


def check_cpu(policy: Policy, hardware: Hardware) -> None:
    """Raises UserError where a rule needs the CPU's time and the hardware states none."""
    rule = policy.needs().get(Need.CPU)
    if rule is not None and not hardware.has_cpu:
        raise UserError(
            f"policy {policy.name}: {rule} needs the time of an expert on the CPU, and hardware {hardware.name} states "
            "none: give hardware.cpu_memory_bytes_per_s or cpu_core_bytes_per_s, or use policy/assignment=link_only"
        )


def wants_scores(policy: Policy, trace: Trace) -> bool:
    """Whether the engine has to read gate scores: a rule needs them, or importance where the trace has no weights."""
    needs = policy.needs()
    wanted = Need.GATE_SCORES in needs or (Need.IMPORTANCE in needs and trace.topk_weights is None)
    return wanted and trace.router_logits is not None


def wants_weights(policy: Policy) -> bool:
    """Whether the engine has to read router weights: for importance, and for what substitution loses."""
    return decides(policy.substitution, Substitution, "substitute") or Need.IMPORTANCE in policy.needs()


def initial_memories(
    policy: Policy,
    geometry: Geometry,
    similarity: NDArray[Any] | None,
    others: Trace | None,
    replayed: Trace | None = None,
) -> dict[str, Vector]:
    """What each part knows at the start.

    ``similarity``: of the experts' outputs, [L, E, E]; ``others``: requests to learn from; ``replayed``: what bounds
    know in hindsight.

    Raises: UserError where a part learns from other requests and there are none.
    """
    memories = {}
    for name, part in zip(BASES, policy.parts(), strict=True):
        if Need.FIT in part.all_needs() and others is None:
            raise UserError(f"policy {policy.name}: {type(part).__name__} learns from other requests; none given")
        learns_from = replayed if Need.HINDSIGHT in part.all_needs() else others
        size = _cells(part, geometry)
        memories[name] = _as_cells(part, part.initial_memory(geometry, similarity, learns_from), size)
    return memories


def profile_of(cache: CacheConfig, others: Trace | None) -> NDArray[np.float64] | None:
    """How often other requests used each expert, [L, E], where ``cache.start=profile`` fills the cache by it.

    Raises: UserError where there are no other requests.
    """
    if not cache.profiled:
        return None
    if others is None:
        raise UserError(
            "cache.start=profile holds what other requests used most, and there are none: give trace.fit_requests=N or "
            "trace.fit_on, or use cache.start=warm"
        )
    return use_counts(load(others.topk_ids), others.fewer, others.num_experts).astype(np.float64)


MOST_CELLS = 2**27
"""Of a rule's memory: a gigabyte."""


def _cells(part: Part, geometry: Geometry) -> int:
    """How many cells a part's memory has. Raises: UserError where ``memory_size`` is no such number."""
    size: object = part.memory_size(geometry.num_layers, geometry.num_experts, geometry.top_k)
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or not 0 <= size <= MOST_CELLS:
        where = f"{place_of(type(part).memory_size)}: {type(part).__name__}.memory_size"
        raise UserError(
            f"{where}={size!r}: must be a whole number of cells from 0 to {MOST_CELLS}, as num_layers * num_experts"
        )
    return int(size)


def _as_cells(part: Part, given: object, size: int) -> Vector:
    """What a part knows at the start, [size]. Raises: UserError where ``initial_memory`` gives other than that."""
    where = f"{place_of(type(part).initial_memory)}: {type(part).__name__}.initial_memory"
    try:
        memory = np.ascontiguousarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} gives {type(given).__name__}: must be {size} numbers (memory_size)") from error
    if given is None or memory.shape != (size,):
        shape = "nothing" if given is None else f"an array of shape {list(memory.shape)}"
        raise UserError(f"{where} gives {shape}: must be {size} numbers, as many as memory_size says")
    return memory


def _check_floor(policy: Policy, trace: Trace) -> None:
    """A score band must lie above the floor of a truncated score table in every row."""
    table, alpha = trace.router_logits, policy.substitution.band()
    if alpha is None or table is None or not table.truncated:
        return
    rule = type(policy.substitution).__name__
    for start in range(0, trace.num_tokens, 4096):
        stop = min(start + 4096, trace.num_tokens)
        logits = load(table.values[start:stop]).astype(np.float32)
        band = np.log(max(1.0 - alpha, 1e-30)) + logits[:, :, trace.top_k]
        below: Any = logits[:, :, -1] > band
        if table.values.shape[2] < trace.num_experts and below.any():
            row, layer = (int(i[0]) for i in np.nonzero(below))
            raise UserError(
                f"policy {policy.name}: {rule} with alpha={alpha:g} needs scores down to "
                f"(1 - alpha) * S_k+1; the trace lists only {table.values.shape[2]} of {trace.num_experts} experts: in "
                f"row {start + row}, layer {layer} the band reaches below the floor of the stored scores"
            )
