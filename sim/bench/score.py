"""The score: which share of the gap between keeping nothing and keeping everything a policy closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.bench.suite import BATCHES, CELLS, ENDS, Played
from sim.statistics.bootstrap import Estimate, estimate

CLASSES = (("lossless", 0.0), ("within 10 % of gate mass", 0.10), ("within 20 % of gate mass", 0.20))
"""A policy is ranked in the first class whose bound the gate mass that it loses in its worst cell does not exceed."""
DECIMALS = 4
"""Of a score that are printed and ranked by."""
REST, BOUNDS, SCALE = "more than 20 % of gate mass lost", "sees the future", "ends of the scale"


@dataclass(frozen=True, slots=True)
class Score:
    """Of one policy: mean over all cells of (T_on_demand - T) / (T_on_demand - T_all_resident), T the decode time."""

    policy: str
    kind: str
    value: float
    low: float
    high: float
    by_batch: tuple[float, ...]
    worst_cell: float
    lost: float | None
    """Gate mass lost in the worst cell; None where the trace does not tell."""
    draws: NDArray[np.float64]


def score(played: Played, none: Played, everything: Played) -> Score:
    """The score with its 95 % interval over requests.

    Blocks of a batch size are drawn together in all its cells, and for policy and ends alike (paired). Batch sizes see
    the same requests, so their half widths are averaged as if they erred together, which is the most.
    """
    found: list[Estimate] = []
    by_cell = []
    for batch in BATCHES:
        places = [place for place, cell in enumerate(CELLS) if cell.batch == batch]
        columns = [one.cells[place].times for place in places for one in (none, played, everything)]
        found.append(estimate(np.concatenate(columns, axis=1), _mean_share))
        by_cell += [float(_mean_share(np.concatenate(columns[i : i + 3], axis=1).sum(axis=0)[None])[0])
                    for i in range(0, len(columns), 3)]  # fmt: skip
    value = float(np.mean([one.value for one in found]))
    half = float(np.mean([one.high - one.value for one in found]))
    lost = [cell.lost_gate_mass for cell in played.cells]
    most = None if any(one is None for one in lost) else max(float(one) for one in lost if one is not None)
    return Score(
        played.name,
        _kind(played, most),
        value,
        value - half,
        value + half,
        tuple(one.value for one in found),
        min(by_cell),
        most,
        np.mean([one.draws for one in found], axis=0),
    )


def _mean_share(sums: NDArray[Any]) -> NDArray[Any]:
    """[..., cells * 3 * 2] -> mean over cells of the share of the gap that is closed."""
    none, mine, all_of_it = (sums[..., i::6] / sums[..., i + 1 :: 6] for i in (0, 2, 4))
    return np.asarray(np.mean((none - mine) / (none - all_of_it), axis=-1))


def _kind(played: Played, lost: float | None) -> str:
    if played.name in ENDS:
        return SCALE
    if played.sees_future:
        return BOUNDS
    if lost is None:
        return REST
    return next((name for name, most in CLASSES if lost <= most), REST)


def ranked(scores: Sequence[Score]) -> list[tuple[Score, int, tuple[int, int]]]:
    """(score, rank within its class, its least and greatest rank in 95 % of the draws), best first, class by class.

    Scores that are equal as they are printed, to four decimals, share the best of their ranks, in every draw too.
    """
    order = [*(name for name, _ in CLASSES), REST, BOUNDS, SCALE]
    rows = []
    for kind in order:
        of_kind = sorted((one for one in scores if one.kind == kind), key=lambda one: (-_shown(one.value), one.policy))
        if not of_kind:
            continue
        values = [_shown(one.value) for one in of_kind]
        drawn = np.round(np.stack([one.draws for one in of_kind]), DECIMALS)  # [policies, draws]
        ranks = 1 + (drawn[None] > drawn[:, None]).sum(axis=1)
        for place, one in enumerate(of_kind):
            low, high = np.quantile(ranks[place], (0.025, 0.975), method="inverted_cdf")
            rows.append((one, 1 + values.index(values[place]), (int(low), int(high))))
    return rows


def _shown(value: float) -> float:
    return round(value, DECIMALS)
