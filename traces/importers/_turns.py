"""Several turns of one dialogue as one context: what a later turn holds of earlier ones is not prefilled twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError

SAME_SHARE = 0.5
"""Rows of a later turn are those of earlier ones again where at least so many of their cells hold the same experts;
recomputed routing differs in a few, that of other tokens in nearly all."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Rows of one turn: `position` [n] in the context as the source numbers them, rising; `ids` [n, L, K], -1: none."""

    position: NDArray[np.int64]
    ids: NDArray[np.int32]


def merge(turns: Sequence[Turn], name: str) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.int64]], int]:
    """Which rows of each turn are new, their positions in the one context, and how many rows were dropped.

    A turn goes on where the last one ended, or begins with all of it once more (its rows, or -1 for a cached prefix),
    or numbers its own tokens from 0. Raises: UserError for one that does none of it.
    """
    size = sum(len(turn.position) for turn in turns)
    known = Turn(np.empty(size, np.int64), np.empty((size, *turns[0].ids.shape[1:]), np.int32))
    kept: list[NDArray[np.bool_]] = []
    positions: list[NDArray[np.int64]] = []
    filled = context = 0
    for number, turn in enumerate(turns):
        position = turn.position
        old = position < context
        if number and position[0] > context:
            raise UserError(
                f"turn {number} of {name} begins at token {position[0]}, and those before end at token {context - 1}"
            )
        if old.any() and not _repeats(known, filled, turn, old):
            if position[0] != 0:
                raise UserError(
                    f"turn {number} of {name} begins at token {position[0]}, before the {context} tokens of earlier "
                    "turns end, and its experts there are others"
                )
            position, old = position + context, np.zeros(len(position), bool)
        if old.all():
            raise UserError(f"turn {number} of {name} holds no token that earlier turns do not have")
        kept.append(~old)
        positions.append(position)
        new = slice(filled, filled + int((~old).sum()))
        known.position[new], known.ids[new] = position[~old], turn.ids[~old]
        filled, context = new.stop, int(position[-1]) + 1
    return kept, positions, size - filled


def _repeats(known: Turn, filled: int, turn: Turn, old: NDArray[np.bool_]) -> bool:
    """Whether the rows `old` of a turn hold the experts that are known of those tokens; rows of -1 tell nothing."""
    at = np.minimum(np.searchsorted(known.position[:filled], turn.position[old]), filled - 1)
    told = (turn.ids[old] >= 0).any(axis=(1, 2)) & (known.position[at] == turn.position[old])
    if not told.any():
        return True
    before, again = np.sort(known.ids[at[told]], -1), np.sort(turn.ids[old][told], -1)
    return bool((before == again).all(-1).mean() >= SAME_SHARE)
