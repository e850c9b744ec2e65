"""The score: which share of the gap between keeping nothing and keeping everything a policy closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.bench.quality import Quality
from sim.bench.suite import BATCHES, CELLS, Played
from sim.statistics.bootstrap import Estimate, estimate

MARGINS = (0.0108, 0.0313)
"""Most KL divergence, nats per token, of the classes of policies that replace experts: what the weights of Llama-3-8B
lose at Q5_K_M and at Q4_K_M (PUBLISHED; mean KLD .010762 and .031273 on WikiText-2, https://github.com/ggml-org/
llama.cpp/blob/master/tools/perplexity/README.md, read in December 2026). A yardstick: another model on another text."""
LOSSLESS, REST = "lossless", f"KL above {MARGINS[-1]}"
UNMEASURED, BOUNDS, SCALE = "replaces experts, quality not measured", "sees the future", "ends of the scale"
CLASSES = (LOSSLESS, *(f"KL at most {most}" for most in MARGINS), REST)
"""Of which each ranks its policies. A policy is in the first whose margin the upper end of its KL divergence's interval
does not exceed, in its worst cell; lossless ones execute every expert as it was routed, so nothing is measured."""
DECIMALS = 4
"""Of a score that are printed and ranked by."""


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
    lost: float
    """Gate mass lost in decode steps of the worst cell."""
    draws: NDArray[np.float64]
    quality: Quality | None = None
    """None where nothing is replaced."""


def score(played: Played, none: Played, everything: Played, quality: Quality | None = None) -> Score:
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
    ends = played is none or played is everything
    return Score(
        played.name,
        SCALE if ends else _kind(played, quality),
        value,
        value - half,
        value + half,
        tuple(one.value for one in found),
        min(by_cell),
        max(cell.lost_gate_mass for cell in played.cells),
        np.mean([one.draws for one in found], axis=0),
        quality,
    )


def _mean_share(sums: NDArray[Any]) -> NDArray[Any]:
    """[..., cells * 3 * 2] -> mean over cells of the share of the gap that is closed."""
    none, mine, all_of_it = (sums[..., i::6] / sums[..., i + 1 :: 6] for i in (0, 2, 4))
    return np.asarray(np.mean((none - mine) / (none - all_of_it), axis=-1))


def _kind(played: Played, quality: Quality | None) -> str:
    if played.sees_future:
        return BOUNDS
    if not played.replaces:
        return LOSSLESS
    if quality is None or quality.why:
        return UNMEASURED
    return next((name for name, most in zip(CLASSES[1:], MARGINS, strict=False) if quality.high <= most), REST)


def ranked(scores: Sequence[Score]) -> list[tuple[Score, int, tuple[int, int]]]:
    """(score, rank within its class, its least and greatest rank in 95 % of the draws), best first, class by class.

    Scores that are equal as they are printed, to four decimals, share the best of their ranks, in every draw too.
    """
    order = [*CLASSES, UNMEASURED, BOUNDS, SCALE]
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
