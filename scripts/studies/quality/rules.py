"""The substitution rules of the studies with their knobs, on LRU offloading over the link alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from policies.base import Policy, Substitution
from policies.substitution.adaptive_top_k import AdaptiveTopK
from policies.substitution.bonus_and_drop import BonusAndDrop
from policies.substitution.buddy import Buddy
from policies.substitution.cache_prior import CachePrior
from policies.substitution.cumulative_threshold import CumulativeThreshold
from policies.substitution.importance_plus import ImportancePlus
from policies.substitution.max_rank import MaxRank
from policies.substitution.random_replacement import RandomReplacement
from policies.substitution.replace_all_missing import ReplaceAllMissing
from policies.substitution.score_band import ScoreBand
from policies.substitution.similarity import Similarity
from policies.substitution.skip import Skip
from policies.substitution.smoe_code import SmoeCode
from sim.assembly.catalogue import load_policy

RULES: dict[str, tuple[str, Callable[[float], Substitution], tuple[float, ...]]] = {
    "score_band": ("alpha", lambda x: ScoreBand(alpha=x), (0.1, 0.2, 0.35, 0.5, 0.65)),
    "smoe_code": ("alpha", lambda x: SmoeCode(alpha=x), (0.25, 0.5)),
    "skip": ("alpha", lambda x: Skip(alpha=x), (0.1, 0.2, 0.35, 0.5)),
    "similarity": ("alpha", lambda x: Similarity(alpha=x), (0.1, 0.2, 0.35)),
    "random_replacement": ("alpha", lambda x: RandomReplacement(alpha=x), (0.1, 0.2, 0.35)),
    "buddy": ("max_per_token", lambda x: Buddy(max_per_token=int(x)), (1, 2)),
    "cache_prior": ("bonus", lambda x: CachePrior(bonus=x, keep=1), (0.03, 0.06, 0.1, 0.15, 0.2)),
    "max_rank": ("max_rank", lambda x: MaxRank(max_rank=int(x), keep=2), (7, 8, 10, 12)),
    "cumulative_threshold": ("mass", lambda x: CumulativeThreshold(mass=x, keep=2), (0.3, 0.4, 0.5)),
    "adaptive_top_k": ("tolerance", lambda x: AdaptiveTopK(tolerance=x), (0.005, 0.01)),
    "bonus_and_drop": ("keep", lambda x: BonusAndDrop(keep=int(x)), (4, 5)),
    "replace_all_missing": ("-", lambda x: ReplaceAllMissing(), (0.0,)),
    "importance_plus": ("loss", lambda x: ImportancePlus(loss=x), (0.02, 0.035, 0.05, 0.08, 0.1)),
}
"""Rule -> (name of its knob, rule of a value, values)."""


def lru_with(substitution: Substitution | None = None) -> Policy:
    """LRU, misses over the link, nothing fetched early: one part differs between all rules."""
    base = load_policy("lru")
    return base if substitution is None else replace(base, substitution=substitution)
