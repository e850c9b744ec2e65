"""Checks that a policy can run in a closed loop, and that it can run in one parallel pass."""

from __future__ import annotations

from policies.base import Policy, Prediction, Prefetch
from policies.needs import Need
from sim.engine.decision.device import decides
from sim.machine.capacity import CacheConfig
from traces.errors import UserError


def check_closed_loop(policy: Policy, step_tokens: int = 1) -> None:
    """Raises: UserError naming the rule that a running model cannot serve.

    ``step_tokens``: positions that a step decodes.
    """
    for need, rule in policy.needs().items():
        if need == Need.DRAFTS:
            if step_tokens == 1:
                raise UserError(
                    f"policy {policy.name}: {rule} {need.unless_running}; give step_tokens=1+N, positions that a step "
                    "with N drafts decodes"
                )
        elif need.unless_running is not None and need != Need.EXPERT_SIMILARITY:  # which is measured before the loop
            raise UserError(f"policy {policy.name}: {rule} {need.unless_running}, so it cannot run in a closed loop")


def parallel_obstacle(policy: Policy, cache: CacheConfig) -> str | None:
    """Why one parallel pass would not decide as decoding does; None if it would."""
    scope = cache.scope or policy.scope
    if scope != "layer":
        return f"cache.scope={scope} lets layers compete for one pool"
    for part, base, decision in (
        (policy.prediction, Prediction, "predict"),
        (policy.prefetch, Prefetch, "choose"),
    ):
        if decides(part, base, decision):
            return f"{type(part).__name__} of policy {policy.name} works across layers, and the clock decides in it"
    for rule in (policy.eviction, policy.substitution, policy.assignment):
        if not rule.one_layer:
            return f"{type(rule).__name__} of policy {policy.name} is not known to look at one layer only"
    return None


def check_parallel(policy: Policy, cache: CacheConfig) -> None:
    """Raises: UserError naming what forbids a parallel pass."""
    obstacle = parallel_obstacle(policy, cache)
    if obstacle is not None:
        raise UserError(f"mode=parallel is not exact here: {obstacle}; use mode=decode")
