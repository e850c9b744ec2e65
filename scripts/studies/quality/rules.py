"""The substitution rules of the studies with their knobs, on LRU offloading over the link alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

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


@dataclass(frozen=True)
class Rule:
    """A substitution rule with the values that the studies give its knob, and other knobs that they set."""

    cls: type[Substitution]
    knob: str
    values: tuple[float, ...]
    others: dict[str, Any] = field(default_factory=dict)

    def of(self, value: float) -> Substitution:
        """The rule at one value of its knob."""
        return self.cls(**self.others, **({self.knob: value} if self.knob else {}))


RULES = {
    "score_band": Rule(ScoreBand, "alpha", (0.1, 0.2, 0.35, 0.5, 0.65)),
    "smoe_code": Rule(SmoeCode, "alpha", (0.25, 0.5)),
    "skip": Rule(Skip, "alpha", (0.1, 0.2, 0.35, 0.5)),
    "similarity": Rule(Similarity, "alpha", (0.1, 0.2, 0.35)),
    "random_replacement": Rule(RandomReplacement, "alpha", (0.1, 0.2, 0.35)),
    "buddy": Rule(Buddy, "max_per_token", (1, 2)),
    "cache_prior": Rule(CachePrior, "bonus", (0.03, 0.06, 0.1, 0.15, 0.2), {"keep": 1}),
    "max_rank": Rule(MaxRank, "max_rank", (7, 8, 10, 12), {"keep": 2}),
    "cumulative_threshold": Rule(CumulativeThreshold, "mass", (0.3, 0.4, 0.5), {"keep": 2}),
    "adaptive_top_k": Rule(AdaptiveTopK, "tolerance", (0.005, 0.01)),
    "bonus_and_drop": Rule(BonusAndDrop, "keep", (4, 5)),
    "replace_all_missing": Rule(ReplaceAllMissing, "", (0.0,)),
    "importance_plus": Rule(ImportancePlus, "loss", (0.02, 0.035, 0.05, 0.08, 0.1)),
}


def lru_with(substitution: Substitution | None = None) -> Policy:
    """LRU, misses over the link, nothing fetched early: one part differs between all rules."""
    base = load_policy("lru")
    return base if substitution is None else replace(base, substitution=substitution)
