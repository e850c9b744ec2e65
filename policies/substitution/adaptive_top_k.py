"""Drop experts whose weight is too small for the layer's sensitivity: AdapMoE's adaptive gating."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.scores import share_of_weight
from policies.state import DECODE, DROPPED, RESIDENT, State


@dataclass(frozen=True)
class AdaptiveTopK(Substitution):
    """Drop every expert but the best whose share of the token's weight is below sqrt(tolerance / sensitivity).

    The paper has a sensitivity for each layer of Mixtral (32 of them, 46.7 to 0.02) and two experts per token, of which
    the second is dropped. Here one sensitivity, chosen here, stands for all layers, because those of other models are
    not known, and every rank but the first is judged by itself. Resident experts are dropped too, as in the paper,
    unless ``only_missing``.
    Badly: as one threshold for layers of very different sensitivity.

    Source: AdapMoE, https://arxiv.org/abs/2408.10284; tolerance 0.005 as in its released code.
    """

    tolerance: float = 0.005
    sensitivity: float = 1.0
    only_missing: bool = False
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMPORTANCE})

    def __post_init__(self) -> None:
        require("policy.substitution.tolerance", self.tolerance, 0.0, 1e6)
        require("policy.substitution.sensitivity", self.sensitivity, 1e-9, 1e9)

    def substitute(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        threshold = np.sqrt(self.tolerance / self.sensitivity)
        for token in range(state.num_tokens):
            for rank in range(1, state.num_ranks):
                held = state.status[state.layer, state.ids[token, rank]] == RESIDENT
                if not (held and self.only_missing) and share_of_weight(state, token, rank) < threshold:
                    state.executed_ids[token, rank] = DROPPED
