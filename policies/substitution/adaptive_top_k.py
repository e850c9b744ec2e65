"""Drop experts whose weight is too small for the layer's sensitivity: AdapMoE's adaptive gating."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Substitution, Vector, require
from policies.memory import given
from policies.needs import Need
from policies.scores import share_of_weight
from policies.state import DECODE, DROPPED, RESIDENT, State
from traces.format.trace import Geometry, Trace

PUBLISHED = (
    46.69189453125, 17.303466796875, 13.0157470703125, 7.640838623046875, 4.169464111328125, 2.2296905517578125,
    1.2559890747070312, 0.8444786071777344, 0.6837844848632812, 0.5602836608886719, 0.5125999450683594,
    0.4780292510986328, 0.44536590576171875, 0.4355907440185547, 0.38361549377441406, 0.30994415283203125,
    0.23305416107177734, 0.1760721206665039, 0.13840198516845703, 0.1137852668762207, 0.10472536087036133,
    0.09542703628540039, 0.08624792098999023, 0.07712841033935547, 0.06937980651855469, 0.06109476089477539,
    0.0502467155456543, 0.042557716369628906, 0.03349781036376953, 0.025272369384765625, 0.020682811737060547,
    0.02294778823852539,
)  # fmt: skip
"""Sensitivity of each of Mixtral-8x7B's 32 layers, as run.py of the released code has them."""


@dataclass(frozen=True)
class AdaptiveTopK(Substitution):
    """Drop the last experts of a token while their shares of its weight together stay below sqrt(tolerance /
    sensitivity of the layer).

    AdapMoE has two experts per token, of which the second is dropped; the first always stays. Its sensitivities are
    those of Mixtral's 32 layers (``PUBLISHED``, 46.7 to 0.02): by its own figures a quarter of the tokens, so 12.4 %
    of the ranks, lose their second expert there. Those of other models are not known: a model of another depth takes
    the number at the same relative depth (chosen here), or give one ``sensitivity`` for all layers. Where more than two
    experts are routed their shares add up, lowest rank first (chosen here). Resident experts are dropped too, as in the
    paper, unless ``only_missing``, which passes over them. The released code drops at batch 1 only.
    Badly: borrowed sensitivities drop up to half of a token's weight in late layers.

    Memory: the published sensitivity of each layer [L].

    Source: AdapMoE, https://arxiv.org/abs/2408.10284; tolerance and sensitivities from run.py of its released code,
    https://github.com/PKU-SEC-Lab/AdapMoE.
    """

    tolerance: float = 0.005
    sensitivity: float | None = None
    only_missing: bool = False
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMPORTANCE})

    def __post_init__(self) -> None:
        require("policy.substitution.tolerance", self.tolerance, 0.0, 1e6)
        if self.sensitivity is not None:
            require("policy.substitution.sensitivity", self.sensitivity, 1e-9, 1e9)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers

    def initial_memory(self, geometry: Geometry, similarity: NDArray[Any] | None, others: Trace | None) -> Vector:
        depth = (np.arange(geometry.num_layers) * len(PUBLISHED)) // geometry.num_layers
        return np.array(PUBLISHED)[depth]

    def substitute(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        sensitivity = self.sensitivity if given(self.sensitivity) else memory[state.layer]
        threshold = np.sqrt(self.tolerance / sensitivity)
        for token in range(state.num_tokens):
            dropped = 0.0
            for rank in range(state.token_ranks[token] - 1, 0, -1):
                if self.only_missing and state.status[state.layer, state.ids[token, rank]] == RESIDENT:
                    continue
                dropped += share_of_weight(state, token, rank)
                if dropped >= threshold:
                    break
                state.executed_ids[token, rank] = DROPPED
