"""Which policies can run in a closed loop at all, and which in one parallel pass; the rest is refused by name."""

from __future__ import annotations

from policies.base import Part, Policy, Prediction, Prefetch, Substitution
from sim.engine.decision.device import decides
from sim.machine.capacity import CacheConfig
from traces.errors import UserError

ONE_LAYER = frozenset(
    {
        # eviction: private memory by layer, or by layer in effect (counters that only order events of one layer)
        "ActivationPrior", "AgedLfu", "Fifo", "FrozenLayers", "FrozenPopularity", "InCacheVisits", "Lfu", "LfuLifetime",
        "Lru", "Mrs", "ProbabilityVisits", "ScoreWindow",
        # substitution
        "AdaptiveTopK", "BonusAndDrop", "Buddy", "CachePrior", "CumulativeThreshold", "ImportancePlus", "MaxRank",
        "NoSubstitution", "RandomReplacement", "ReplaceAllMissing", "ScoreBand", "Similarity", "Skip",
        # assignment
        "BestSplit", "CheaperSide", "CpuOnly", "GreedyBalance", "LinkOnly", "SimulatedSplit", "TwoPointer",
    }
)  # fmt: skip
"""Rules whose decisions in a layer depend on nothing of other layers. Tests compare each of them with decoding. A rule
of one's own says so by a class attribute ``one_layer = True``."""

REFUSED = {
    "future": "sees the future, which a running model does not have",
    "oracle": "sees the routing of later layers, which a running model does not have",
    "forecast": "reads a trained predictor, which is evaluated over recorded traces only",
    "low_precision": "executes low-precision copies of experts, and the running model has none",
}


def check_closed_loop(policy: Policy) -> None:
    """Raises: UserError naming the rule that a running model cannot serve."""
    for need, rule in policy.needs().items():
        if need in REFUSED:
            raise UserError(f"policy {policy.name}: {rule} {REFUSED[need]}, so it cannot run in a closed loop")


def looks_at_one_layer(part: Part) -> bool:
    """Whether a part's decisions in a layer depend on that layer alone."""
    return type(part).__name__ in ONE_LAYER or bool(getattr(part, "one_layer", False))


def parallel_obstacle(policy: Policy, cache: CacheConfig) -> str | None:
    """Why one parallel pass would not decide as decoding does; None if it would."""
    if cache.scope != "layer":
        return f"cache.scope={cache.scope} lets layers compete for one pool"
    for part, base, decision in (
        (policy.prediction, Prediction, "predict"),
        (policy.prefetch, Prefetch, "choose"),
    ):
        if decides(part, base, decision):
            return f"{type(part).__name__} of policy {policy.name} works across layers, and the clock decides in it"
    for rule in (policy.eviction, policy.substitution, policy.assignment):
        if not looks_at_one_layer(rule):
            return f"{type(rule).__name__} of policy {policy.name} is not known to look at one layer only"
    return None


def check_parallel(policy: Policy, cache: CacheConfig) -> None:
    """Raises: UserError naming what forbids a parallel pass."""
    obstacle = parallel_obstacle(policy, cache)
    if obstacle is not None:
        raise UserError(f"mode=parallel is not exact here: {obstacle}; use mode=decode")


def substitutes(policy: Policy) -> bool:
    """Whether the policy may execute other experts than those routed."""
    return decides(policy.substitution, Substitution, "substitute")
