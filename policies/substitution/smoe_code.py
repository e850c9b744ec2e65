"""Low-score missing experts replaced as SMoE's released code does it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Substitution, Vector, require
from policies.jitable import jitable
from policies.needs import Need
from policies.state import State
from policies.substitutes import left_alone, mark_available, mark_routed
from traces.score_bands import next_score_beside

Places = NDArray[np.int32]


LINEAR_PROBES, PERTURB_SHIFT, SMALLEST_TABLE, NOBODY = 9, 5, 8, -1
"""Constants of CPython's sets (Objects/setobject.c)."""


@jitable
def list_band(scores: NDArray[np.float32], low: float, high: float, band: Places) -> int:
    """Write the experts with ``low`` < score < ``high`` to ``band``, highest score first -> their number."""
    count = 0
    for expert in range(scores.shape[0]):
        if low < scores[expert] < high:
            place = count
            while place > 0 and scores[band[place - 1]] < scores[expert]:
                band[place] = band[place - 1]
                place -= 1
            band[place] = expert
            count += 1
    return count


@jitable
def insert(table: Places, mask: int, number: int) -> None:
    """Put a number that is not there into a table of mask + 1 places, where CPython would."""
    place, perturb = number & mask, number
    while True:
        probes = LINEAR_PROBES if place + LINEAR_PROBES <= mask else 0
        for i in range(place, place + probes + 1):
            if table[i] == NOBODY:
                table[i] = number
                return
        perturb >>= PERTURB_SHIFT
        place = (place * 5 + 1 + perturb) & mask


@jitable
def set_order(numbers: Places, count: int, table: Places) -> None:
    """Bring ``count`` different numbers into the order in which CPython yields a set to which they were added in turn.

    ``table`` is scratch of at least 8 * count + 8 places.
    """
    mask = SMALLEST_TABLE - 1
    table[: mask + 1] = NOBODY
    for added in range(count):
        insert(table, mask, numbers[added])
        fill = added + 1
        if fill * 5 >= mask * 3:
            held = table[: mask + 1].copy()
            while mask + 1 <= fill * 4:
                mask = 2 * mask + 1
            table[: mask + 1] = NOBODY
            for number in held:
                if number != NOBODY:
                    insert(table, mask, number)
    place = 0
    for i in range(mask + 1):
        if table[i] != NOBODY:
            numbers[place] = table[i]
            place += 1


@dataclass(frozen=True)
class SmoeCode(Substitution):
    """Replace a missing low-score expert by the first available expert strictly inside the band below S_{k+1}.

    With S = S_{k+1}: low-score active experts are those with s < (1 + alpha) * S; substitutes those with
    (1 - alpha) * S < s < S that are resident or top-score for any token. Both edges are strict, so the (k+1)-th expert
    itself never substitutes. Low-score slots are served from high score to low. The code takes the first candidate that
    a Python set yields, to which the band was added from high score to low: in CPython that order depends on the ids
    alone (``set_order``; by id modulo 8 for up to four candidates, mostly rising). It never substitutes in prefill.
    ``alpha``: 0.25 in every released configuration. The paper's rule is ``score_band``.
    Badly: the substitute's score plays no part in the choice, so the best of the band is often passed over.

    Source: goingshr/SMoE, utils/expertcache.py, ``cache_router`` and ``replaceset_between_tokens``,
    https://github.com/goingshr/SMoE.
    """

    alpha: float = 0.25

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.alpha", self.alpha, 0.0, 1.0)

    def band(self) -> float:
        return self.alpha

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, False):
            return
        available = np.zeros(state.num_experts, np.bool_)
        used = np.zeros(state.num_experts, np.bool_)
        band, table = np.zeros(state.num_experts, np.int32), np.zeros(8 * state.num_experts + 8, np.int32)
        mark_available(state, self.alpha, available, used)
        for token in range(state.num_tokens):
            mark_routed(state, token, used)
            edge = next_score_beside(state.scores[token, : state.num_experts], used)
            count = -1
            for rank in range(state.token_ranks[token]):
                if available[state.ids[token, rank]]:
                    continue
                if count < 0:  # most tokens need no candidates
                    count = list_band(state.scores[token, : state.num_experts], (1.0 - self.alpha) * edge, edge, band)
                    set_order(band, count, table)
                for i in range(count):
                    if available[band[i]] and not used[band[i]]:
                        used[band[i]] = True
                        state.executed_ids[token, rank] = band[i]
                        break
