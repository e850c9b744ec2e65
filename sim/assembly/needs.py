"""Whether a trace and a machine give a policy what its rules need."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.base import Part, Policy, Substitution
from sim.engine.decision.device import decides
from sim.machine.hardware import Hardware
from traces.errors import UserError
from traces.format.mapped import load
from traces.format.trace import Trace

RECORD_AGAIN = "record the trace with this tool, or switch that part off"


def check_needs(policy: Policy, trace: Trace, hardware: Hardware) -> None:
    """Raises UserError naming the rule, what it needs and what lacks it."""
    available = {
        "gate_scores": trace.router_logits is not None,
        "importance": trace.router_logits is not None or trace.topk_weights is not None,
        "lookahead_before": trace.lookahead_before is not None,
        "lookahead_after": trace.lookahead_after is not None,
        "future": True,
        "oracle": True,
        "fit": True,
        "forecast": True,
        "low_precision": True,
        "expert_similarity": trace.expert_similarity is not None,
        "cpu": hardware.has_cpu,
    }
    words = {
        "gate_scores": f"full gate scores, and the trace carries no router logits: {RECORD_AGAIN}",
        "importance": f"gate scores or weights, and the trace carries neither: {RECORD_AGAIN}",
        "lookahead_before": f"recorded lookahead logits (variant before), and the trace has none: {RECORD_AGAIN}",
        "lookahead_after": f"recorded lookahead logits (variant after), and the trace has none: {RECORD_AGAIN}",
        "expert_similarity": f"measured similarities of expert outputs, and the trace has none: {RECORD_AGAIN}",
        "cpu": f"the time of an expert on the CPU, and hardware {hardware.name} states none: give "
        "cpu_expert_bytes_per_s or cpu_load_ratio, or use policy/assignment=link_only",
    }
    for need, rule in policy.needs().items():
        if not available[need]:
            raise UserError(f"policy {policy.name}: {rule} needs {words[need]}")
    for part in policy.parts():
        _check_floor(policy.name, part, trace)


def wants_scores(policy: Policy, trace: Trace) -> bool:
    """Whether the engine has to read gate scores: a rule needs them, or importance where the trace has no weights."""
    needs = policy.needs()
    wanted = "gate_scores" in needs or ("importance" in needs and trace.topk_weights is None)
    return wanted and trace.router_logits is not None


def wants_weights(policy: Policy) -> bool:
    """Whether the engine has to read router weights: for importance, and for what substitution loses."""
    return decides(policy.substitution, Substitution, "substitute") or "importance" in policy.needs()


def _check_floor(policy: str, part: Part, trace: Trace) -> None:
    """A score band must lie above the floor of a truncated score table in every row."""
    table, alpha = trace.router_logits, getattr(part, "alpha", None)
    if "gate_scores" not in part.all_needs() or alpha is None or table is None or not table.truncated:
        return
    for start in range(0, trace.num_tokens, 4096):
        stop = min(start + 4096, trace.num_tokens)
        logits = load(table.values[start:stop]).astype(np.float32)
        band = np.log(max(1.0 - float(alpha), 1e-30)) + logits[:, :, trace.top_k]
        below: Any = logits[:, :, -1] > band
        if table.values.shape[2] < trace.num_experts and below.any():
            row, layer = (int(i[0]) for i in np.nonzero(below))
            raise UserError(
                f"policy {policy}: {type(part).__name__} with alpha={alpha:g} needs scores down to "
                f"(1 - alpha) * S_k+1; the trace lists only {table.values.shape[2]} of {trace.num_experts} experts: in "
                f"row {start + row}, layer {layer} the band reaches below the floor of the stored scores"
            )
