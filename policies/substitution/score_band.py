"""Replace low-score missing experts by resident ones of nearly the same score: SMoE's expert-cache router."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.state import State
from policies.substitutes import all_resident, left_alone, substitute_in_band


@dataclass(frozen=True)
class ScoreBand(Substitution):
    """Replace a missing active expert whose score is close to S_{k+1} by the best available expert just below.

    With S = S_{k+1}, the highest score outside the token's top k:
      low-score active:  s < (1 + alpha) * S    (the others are top-score and always kept)
      substitute:        (1 - alpha) * S <= s <= S, and resident or a top-score expert of any token in the batch
    The batch's top-score set is complete before any token is served. Missing low-score experts, highest score first,
    each take the highest-scoring substitute left; what finds none is supplied as usual. ``include_next=false``
    excludes the (k+1)-th expert itself (s < S), as the paper's Algorithm 1 writes it; its text includes it. An expert
    still on the link counts as missing.
    Badly: with sigmoid-like or very flat gates nearly every expert falls in the band and the claim "near-equivalent"
    no longer follows from the scores.

    Memory is scratch: two flags per expert.

    Source: SMoE, section 3 and Algorithm 1, https://arxiv.org/abs/2508.18983.
    """

    alpha: float = 0.35
    include_next: bool = True
    during_prefill: bool = False
    """Whether prefill steps substitute too (the released code does not; the paper credits pipelining for TTFT)."""

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.alpha", self.alpha, 0.0, 1.0)

    def band(self) -> float:
        return self.alpha

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 2 * num_experts

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill) or all_resident(state):
            return
        available, free = memory[: state.num_experts], memory[state.num_experts :]
        substitute_in_band(state, self.alpha, self.include_next, available, free)
