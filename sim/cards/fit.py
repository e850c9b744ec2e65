"""The generator that draws what was measured, or a published curve. Everything here is FITTED.

1. The bias of every expert gives it its share of use (fixed-point iteration on drawn scores).
2. How alike the scores of two tokens are follows from how many experts they have in common, by lag and layer (a table
   of drawn pairs); non-negative least squares split that into the parts of the noise.
3. How often kinds return and how many there are is chosen from `AGAIN` and `KINDS`: the pair whose draw has the LRU
   curve, the union curve and the likeness of tokens that were measured. Lags are corrected for what kinds add.
4. How much layers follow each other gives the share of right guesses of the next layer's experts.
Belady's curve, the order of policies and other requests are not looked at: they are what the fit is judged by.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.cards.card import MOST_BINS, Generator, Published
from sim.cards.measure import MOST_LIKE_ROWS, Measured, measure
from sim.cards.numbers import bins, rounded
from sim.cards.routing import State, draw_block, draw_requests, normal_table, routing_of

TIMES = (6.0, 40.0, 250.0, 0.0)
AGAIN = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
KINDS = (16, 48, 144)
ALIKE = 0.9
"""Two tokens of a kind are not quite alike: their contexts differ."""
COUPLINGS = (0.0, 0.4, 0.6, 0.75, 0.85, 0.92, 0.96, 0.985, 1.0)
SEED = 20240601
MOST_ROWS, MOST_LAYERS, MOST_DRAWS = 6144, 6, 8
"""Drawn for each trial of a fit."""
_LIKENESSES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
_PAIR_DRAWS, _BIAS_DRAWS, _BIAS_STEPS = 1024, 512, 24
_CORRECTIONS = 3


@dataclass(frozen=True, slots=True)
class Parts:
    """Shares of the noise: `token`, `shift` [L], `slow` [L, J]."""

    token: NDArray[np.float64]
    shift: NDArray[np.float64]
    slow: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Of draws: `overlap` [L, G], `hits` [E+1] and `union` [U] as means over layers, mean `likeness`, `next_top1`."""

    overlap: NDArray[np.float64]
    hits: NDArray[np.float64]
    union: NDArray[np.float64]
    likeness: float
    next_top1: float


def fit_generator(measured: Measured, top_k: int, slope: float | None = None) -> Generator:
    """The generator of a trace's statistics; `slope`: of the gate, for scores."""
    use = -np.sort(-measured.use, axis=1)
    layers, experts = use.shape
    bias = fit_bias(use, top_k, measured.rows)
    shown = np.unique(np.linspace(0, layers - 1, min(layers, MOST_LAYERS)).astype(int))
    in_common = _pair_table(bias, top_k)
    lengths = _fit_lengths(measured.lengths)
    trials = []
    for again, kinds in itertools.product(AGAIN, KINDS):
        wanted = measured.overlap.copy()
        for last in (False,) * (_CORRECTIONS - 1) + (True,):
            parts = _split(_likeness_of(wanted, in_common), measured.lags)
            some = generator_of(
                bias[shown], Parts(parts.token[shown], parts.shift[shown], parts.slow[shown]), again, kinds
            )
            drawn = _measure_draw(some, lengths, experts, top_k, last)
            common = min(drawn.overlap.shape[1], wanted.shape[1])
            off = (measured.overlap[shown, :common] - drawn.overlap[:, :common]).mean(axis=0)
            if not last:
                wanted[:, :common] += off
        trials.append((_misfit(measured, drawn, shown), again, kinds, parts))
    _, again, kinds, parts = min(trials, key=lambda trial: trial[0])
    made = generator_of(bias, parts, again, kinds)
    some = generator_of(bias[shown], Parts(parts.token[shown], parts.shift[shown], parts.slow[shown]), again, kinds)
    made = replace(made, coupling=_fit_coupling(some, lengths, measured, top_k))
    return made if slope is None else replace(made, score_scale=_score_scale(made, layers, experts, top_k, slope))


def independent(measured: Measured, top_k: int) -> Generator:
    """A generator whose tokens have nothing in common but the popularity of experts."""
    use = -np.sort(-measured.use, axis=1)
    nothing = np.zeros((len(use), len(TIMES)))
    parts = Parts(np.ones(len(use)), np.zeros(len(use)), nothing)
    return generator_of(fit_bias(use, top_k, measured.rows), parts, 0.0, 1)


def generator_of(bias: NDArray[np.float64], parts: Parts, again: float, kinds: int) -> Generator:
    """The generator as a card holds it, `bias` [L, E] falling."""
    kept = bins(bias, MOST_BINS)
    return Generator(
        rounded(kept, 3),
        rounded(parts.token),
        rounded(parts.shift),
        list(TIMES),
        rounded(parts.slow),
        again,
        kinds,
        ALIKE,
        0.0,
    )


def fit_bias(use: NDArray[np.float64], top_k: int, rows: int) -> NDArray[np.float64]:
    """[L, E] biases under which experts are among the `top_k` of scores with unit noise as often as `use` says.

    An expert never used counts as used half a time in `rows`.
    """
    from scipy.special import ndtri

    least = 0.5 / max(rows, 1)
    wanted = ndtri(np.clip(use, least, 1 - least))
    bias = wanted - wanted.mean(axis=1, keepdims=True)
    for step in range(_BIAS_STEPS):
        draws = _BIAS_DRAWS * (1 + 3 * (step >= _BIAS_STEPS * 2 // 3))
        found = _top_counts(bias.astype(np.float32), top_k, draws, np.uint64(SEED), normal_table()) / draws
        floor = 0.5 / draws
        seen = ndtri(np.clip(found, floor, 1 - floor))
        goal = np.clip(wanted, ndtri(floor), -ndtri(floor))
        bias += (0.8 if step < _BIAS_STEPS // 2 else 0.4) * (goal - seen)
    bias -= bias.mean(axis=1, keepdims=True)
    return -np.sort(-np.clip(bias, -20, 20), axis=1)


def fit_published(published: Published, num_experts: int, top_k: int) -> Generator:
    """A generator with that LRU curve, one access at a time. Popularity, drift and kinds are of the usual proportions.

    The curve says nothing of popularity apart from reuse: three numbers are FITTED (how much noise is slow, how much
    fades in some tokens, how much is shared with the token before), the rest is ESTIMATED from the traces at hand.
    """
    from scipy.optimize import minimize

    slots, wanted = slots_of(published, num_experts), np.asarray(published.hit_rate)
    holds = slots >= top_k if (slots >= top_k).any() else np.ones(len(slots), bool)

    def misses(point: NDArray[np.float64]) -> float:
        made = _usual(num_experts, point)
        drawn = published_curve(made, num_experts, top_k, float(wanted[-1]), published.warm)
        off = 100 * (drawn[slots] - wanted)[holds]
        return float((off**2).mean() + 0.02 * (point**2).sum())

    begin = np.array([-0.5, -2.0, -1.0])
    steps = np.array([[0, 0, 0], [1, 0, 0], [0, 1.5, 0], [0, 0, 1.5]])
    found = minimize(
        misses,
        begin,
        method="Nelder-Mead",
        options={"initial_simplex": begin + steps, "maxfev": 70, "xatol": 0.02, "fatol": 0.01},
    )
    return _usual(num_experts, found.x)


def slots_of(published: Published, num_experts: int) -> NDArray[np.int64]:
    """Slots of a layer at the capacities of a curve, at least one."""
    return np.clip(np.round(np.asarray(published.capacity) * num_experts), 1, num_experts).astype(np.int64)


def published_curve(
    made: Generator, num_experts: int, top_k: int, last: float, warm: bool, layers: int = 3
) -> NDArray[np.float64]:
    """[E+1] hit rates of a drawn request at 0 to E slots, one access at a time.

    Of a cold curve `last` says how long the trace was: what is missed with all experts held was never used before.
    """
    lengths = np.full(4 if num_experts <= 128 else 2, 512)
    longest = int(lengths.sum())
    ids = draw_requests(routing_of(made, layers, num_experts, None), SEED, lengths, top_k)
    distances = _access_distances(ids.astype(np.int32), num_experts)  # [n, L, K]
    if not warm:
        new = (distances == num_experts).mean(axis=(1, 2)).cumsum() / np.arange(1, longest + 1)
        short = np.flatnonzero(new <= 1 - last)
        distances = distances[: max(16, int(short[0]) if len(short) else longest)]
    counts = np.bincount(distances.ravel(), minlength=num_experts + 1).astype(np.float64)
    whole = counts.sum() - (counts[num_experts] if warm else 0)
    return np.concatenate([[0.0], np.cumsum(counts[:num_experts]) / whole])


def _usual(num_experts: int, point: NDArray[np.float64]) -> Generator:
    """Three free numbers as a generator: logits of the shares (slow, fading, with the token before)."""
    slow, fading, before = 1 / (1 + np.exp(-np.clip(point, -12, 12)))
    from scipy.special import ndtri

    spread = 0.8 * np.sqrt(2 * slow)
    bias = spread * ndtri((np.arange(num_experts)[::-1] + 0.5) / num_experts)[None, :]
    left = (1 - slow) * (1 - fading)
    parts = Parts(
        np.array([left * (1 - before)]),
        np.array([left * before]),
        np.array([[(1 - slow) * fading, 0.0, 0.2 * slow, 0.8 * slow]]),
    )
    return generator_of(bias, parts, 0.8, 48)


def _fit_lengths(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths of requests to draw: those measured, spread over all, up to `MOST_ROWS` rows."""
    lengths = lengths[lengths > 0]
    if lengths.sum() <= MOST_ROWS:
        return lengths
    count = max(1, int(MOST_ROWS / lengths.mean()))
    chosen = lengths[np.linspace(0, len(lengths) - 1, count).astype(int)]
    return np.asarray(np.minimum(chosen, MOST_ROWS), np.int64)


def _measure_draw(made: Generator, lengths: NDArray[np.int64], num_experts: int, top_k: int, likeness: bool) -> Drawn:
    """Statistics of several draws of these lengths, averaged: of few rows one draw says little."""
    routing = routing_of(made, len(made.bias), num_experts, None)
    times = int(np.clip(MOST_ROWS // lengths.sum(), 1, MOST_DRAWS))
    found = []
    for number in range(times):
        ids = draw_requests(routing, SEED + number, lengths, top_k).astype(np.int32)
        found.append(measure(np.split(ids, np.cumsum(lengths)[:-1]), num_experts, MOST_LIKE_ROWS if likeness else 0))
    return Drawn(
        np.mean([one.overlap for one in found], axis=0),
        np.mean([one.hits.mean(axis=0) for one in found], axis=0),
        np.mean([one.union.mean(axis=0) for one in found], axis=0),
        float(np.mean([one.likeness.mean() for one in found])) if likeness else 0.0,
        float(np.mean([one.next_top1 for one in found])),
    )


def _fit_coupling(some: Generator, lengths: NDArray[np.int64], measured: Measured, top_k: int) -> float:
    """How much layers follow each other where a layer's best expert says as much of the next one as measured."""
    if measured.use.shape[0] < 2:
        return 0.0
    experts = measured.use.shape[1]
    found = [_measure_draw(replace(some, coupling=c), lengths, experts, top_k, False).next_top1 for c in COUPLINGS]
    return round(float(np.interp(measured.next_top1, np.maximum.accumulate(found), COUPLINGS)), 3)


def _misfit(measured: Measured, drawn: Drawn, shown: NDArray[np.int64]) -> float:
    """How far a draw is from what was measured: points of LRU hits, percents of the union, tenths of likeness."""
    points = 100 * (drawn.hits - measured.hits[shown].mean(axis=0))
    count = min(len(drawn.union), measured.union.shape[1])
    union = 100 * (drawn.union[:count] / measured.union[shown, :count].mean(axis=0) - 1)
    alike = 10 * (drawn.likeness - measured.likeness.mean()) if len(measured.likeness) else 0.0
    return float((points**2).mean() + (union**2).mean() / 2 + alike**2 / 4)


def _split(likeness: NDArray[np.float64], lags: NDArray[np.int64]) -> Parts:
    """Likeness of scores [L, G] as shares of the parts of the noise; the first two lags weigh most."""
    from scipy.optimize import nnls

    fading = [np.exp(-lags / time) if time else np.ones(len(lags)) for time in TIMES]
    columns = np.stack([np.zeros(len(lags)), 0.5 * (lags == 1), *fading], axis=1)
    weights = np.where(lags == 1, 5.0, np.where(lags == 2, 2.0, 1.0))
    equations = np.concatenate([columns * weights[:, None], np.full((1, columns.shape[1]), 1e3)])
    shares = np.empty((len(likeness), columns.shape[1]))
    for layer, row in enumerate(likeness):
        found = nnls(equations, np.append(row * weights, 1e3))[0]
        shares[layer] = found / found.sum()
    return Parts(shares[:, 0], shares[:, 1], shares[:, 2:])


def _likeness_of(overlap: NDArray[np.float64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of the scores of two tokens [L, G] that have such a share of experts in common; `table` [L, C]."""
    rising = np.maximum.accumulate(table + 1e-9 * np.arange(table.shape[1]), axis=1)
    found = [np.interp(row, known, _LIKENESSES) for row, known in zip(overlap, rising, strict=True)]
    return np.asarray(found)


def _pair_table(bias: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Share of experts that two tokens have in common whose scores correlate as `_LIKENESSES`, [L, C]."""
    common: NDArray[np.float64] = _pairs(
        bias.astype(np.float32),
        top_k,
        np.asarray(_LIKENESSES, np.float32),
        _PAIR_DRAWS,
        np.uint64(SEED),
        normal_table(),
    )
    return common


def _score_scale(made: Generator, layers: int, experts: int, top_k: int, slope: float) -> list[float]:
    """[L] logits per unit of score that give the gate this slope: mean ln(S_j / S_k+1) over the experts used."""
    if experts <= top_k:
        return [1.0] * layers
    routing = routing_of(made, layers, experts, None)
    ids, logits = np.empty((256, layers, top_k), np.uint16), np.empty((256, layers, experts), np.float32)
    draw_block(routing, SEED, 0, State(routing), ids, logits)
    best = -np.partition(-logits, top_k, axis=-1)[..., : top_k + 1]
    gaps = np.sort(best, axis=-1)[..., 1:] - np.sort(best, axis=-1)[..., :1]
    return list(rounded(slope / np.maximum(gaps.mean(axis=(0, 2)), 1e-9)))


@njit(cache=True)
def _choose(scores: NDArray[np.float32], chosen: NDArray[Any]) -> None:
    """The best experts of scores [E], which are spoilt, into `chosen` [K]."""
    for rank in range(chosen.shape[0]):
        best = 0
        for expert in range(1, scores.shape[0]):
            if scores[expert] > scores[best]:
                best = expert
        chosen[rank] = best
        scores[best] = -np.inf


@njit(cache=True)
def _top_counts(
    bias: NDArray[np.float32], top_k: int, draws: int, seed: np.uint64, table: NDArray[np.float32]
) -> NDArray[np.float64]:
    """How often experts are among the best of `draws` tokens with independent noise, [L, E]."""
    layers, experts = bias.shape
    counts = np.zeros((layers, experts))
    noise, chosen = np.empty(experts, np.float32), np.empty(top_k, np.int64)
    for layer in range(layers):
        for draw in range(draws):
            _fill(seed, layer * draws + draw, table, noise)
            _choose(bias[layer] + noise, chosen)
            for rank in range(top_k):
                counts[layer, chosen[rank]] += 1
    return counts


@njit(cache=True)
def _pairs(
    bias: NDArray[np.float32],
    top_k: int,
    likenesses: NDArray[np.float32],
    draws: int,
    seed: np.uint64,
    table: NDArray[np.float32],
) -> NDArray[np.float64]:
    layers, experts = bias.shape
    common = np.zeros((layers, likenesses.shape[0]))
    one, other = np.empty(experts, np.float32), np.empty(experts, np.float32)
    first, second = np.empty(top_k, np.int64), np.empty(top_k, np.int64)
    for layer in range(layers):
        for draw in range(draws):
            _fill(seed, 2 * (layer * draws + draw), table, one)
            _fill(seed, 2 * (layer * draws + draw) + 1, table, other)
            _choose(bias[layer] + one, first)
            for at in range(likenesses.shape[0]):
                like = likenesses[at]
                _choose(bias[layer] + like * one + np.float32(np.sqrt(1 - like * like)) * other, second)
                for rank in range(top_k):
                    for place in range(top_k):
                        common[layer, at] += first[rank] == second[place]
    return common / (draws * top_k)


@njit(cache=True)
def _fill(seed: np.uint64, number: int, table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    state = (seed + np.uint64(number)) * np.uint64(0x9E3779B97F4A7C15)
    for place in range(out.shape[0]):
        state = state ^ (state << np.uint64(13))
        state = state ^ (state >> np.uint64(7))
        state = state ^ (state << np.uint64(17))
        out[place] = table[(state >> np.uint64(40)) & np.uint64(0xFFFF)]


@njit(cache=True)
def _access_distances(ids: NDArray[Any], num_experts: int) -> NDArray[np.int64]:
    """LRU stack distances of single accesses, the E of one never used before, [n, L, K]."""
    rows, layers, ranks = ids.shape
    out = np.empty((rows, layers, ranks), np.int64)
    for layer in range(layers):
        used = np.full(num_experts, -1, np.int64)
        for row in range(rows):
            for rank in range(ranks):
                when = used[ids[row, layer, rank]]
                distance = num_experts
                if when >= 0:
                    distance = 0
                    for other in range(num_experts):
                        distance += used[other] > when
                out[row, layer, rank] = distance
                used[ids[row, layer, rank]] = row * ranks + rank
    return out
