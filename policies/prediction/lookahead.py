"""The next layer's own gate, applied early."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prediction, Vector, require
from policies.needs import Need
from policies.predictions import copy_lookahead
from policies.state import MAX_LOOKAHEAD, State
from traces.errors import UserError


@dataclass(frozen=True)
class Lookahead(Prediction):
    """Predict layer l + 1 by its gate on the hidden state of layer l, as the trace recorded it.

    ``variant=before``: on the residual before layer l's experts ran, available at layer l's gate. ``after``: on the
    residual after them, available at the end of layer l, when little time is left to fetch. SMoE runs the shared and
    the resident experts first, which lies between the two and depends on residency; replay of a recorded trace cannot
    do that (open loop), so ``before`` stands in for it and is a lower estimate of its accuracy.

    Source: Eliseev and Mazur, section 3.2, https://arxiv.org/abs/2312.17238; SMoE, section on prefetching,
    https://arxiv.org/abs/2508.18983.
    """

    variant: str = "before"
    layers: int = 1
    """How many layers ahead to look: 1 to 3, as far as the trace was recorded."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        if self.variant not in ("before", "after"):
            raise UserError(f"policy.prediction.variant={self.variant}: must be before or after")
        require("policy.prediction.layers", self.layers, 1, MAX_LOOKAHEAD)

    def all_needs(self) -> frozenset[Need]:
        return frozenset({Need(f"lookahead_{self.variant}")})

    def available_at_end(self) -> bool:
        return self.variant == "after"

    def depth(self, num_layers: int) -> int:
        return self.layers

    def predict(self, state: State, memory: Vector) -> None:
        copy_lookahead(state, self.layers)
