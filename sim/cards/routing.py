"""Draws routing from a generator: every number follows from the seed and its place, so that blocks may have any size.

The score of expert e in layer l for token t of a request is bias[l, e] + noise, and the K best scores are used. Noise
has variance 1 and consists of
  the kind of the token: one value per kind, layer and expert, of which a share `alike` returns with the kind, the rest
    is new for each token; `shift` of it comes from the token before, as where a layer sees its neighbour;
  slow parts: autoregressive, forgetting over `times` tokens; what a request is about never does.
A token is of one of the last `kinds` kinds of its request with probability `again`, each as likely, and of a new kind
where there were not as many yet: phrases and loops come back, in all layers at once. Kinds and slow parts are new in
every request.
Layers are coupled: the noise of a layer is `coupling` times that of the layer before, its experts in another order, and
for the rest its own. Within one layer nothing changes by that.
Sources: Gaussian copulas of autoregressive processes (Biller and Nelson, ACM TOMACS 13(3), 2003); that routing follows
the token: Xue et al., OpenMoE, arXiv 2402.01739, section 4; both put together here, which no source does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from sim.cards.card import Generator
from sim.cards.numbers import by_layer, unbinned

_TABLE_BITS = 16
_SLOT = 64
"""Numbers of one token that are drawn apart from each other: kind, rest, beginning, slow parts."""
_REST, _BEFORE, _FIRST_SLOW = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Routing:
    """A generator in the shape of a trace: L layers, E experts, J slow parts; arrays are float32 but `order`.

    `bias` [L, E] in the order of ids; `token`, `before` [L]: factors on the kind of this token and of the one before;
    `slow` [L, J]: factors; `keep` [J]: what a slow part keeps from token to token; `order` [L, E]: expert of
    the layer before that each follows; `scale` [L] or None: logit per unit.
    """

    bias: NDArray[np.float32]
    token: NDArray[np.float32]
    before: NDArray[np.float32]
    slow: NDArray[np.float32]
    keep: NDArray[np.float32]
    again: float
    kinds: int
    alike: float
    coupling: float
    order: NDArray[np.int32]
    scale: NDArray[np.float32] | None


class State:
    """What one request carries from block to block. `kinds`: the last ones that it had, in turn."""

    def __init__(self, routing: Routing) -> None:
        layers, experts = routing.bias.shape
        self.slow = np.zeros((layers, routing.slow.shape[1], experts), np.float32)
        self.noise = np.zeros((layers, 2, experts), np.float32)
        self.kinds = np.zeros(routing.kinds, np.int64)
        self.counts = np.zeros(2, np.int64)  # tokens drawn, kinds had


def routing_of(made: Generator, layers: int, experts: int, seed: int | None) -> Routing:
    """A generator for so many layers and experts; `seed` shuffles which expert is how popular, None: sorted."""
    bias = unbinned(by_layer(made.bias, layers), experts)
    numbers = np.random.default_rng([seed or 0, layers, experts])
    order = numbers.random(bias.shape).argsort(axis=-1, kind="stable").astype(np.int32)
    if seed is not None:
        bias = np.take_along_axis(bias, numbers.random(bias.shape).argsort(axis=-1, kind="stable"), axis=-1)
    token, shift = by_layer(made.token, layers), by_layer(made.shift, layers)
    whole = np.maximum(token + shift, 1e-12)
    angle = 0.5 * np.arcsin(np.clip(shift / whole, 0.0, 1.0))
    times = np.asarray(made.times, np.float64)
    keep = np.where(times > 0, np.exp(-1.0 / np.maximum(times, 1e-9)), 1.0)
    scale = None if made.score_scale is None else by_layer(made.score_scale, layers).astype(np.float32)
    return Routing(
        bias.astype(np.float32),
        (np.sqrt(token + shift) * np.cos(angle)).astype(np.float32),
        (np.sqrt(token + shift) * np.sin(angle)).astype(np.float32),
        np.sqrt(by_layer(made.slow, layers)).astype(np.float32),
        keep.astype(np.float32),
        made.again,
        made.kinds,
        made.alike,
        made.coupling,
        order,
        scale,
    )


def draw_block(
    routing: Routing,
    seed: int,
    request: int,
    state: State,
    ids: NDArray[Any],
    logits: NDArray[np.float32] | None = None,
) -> None:
    """The next tokens of a request: their experts, best first, into `ids` [n, L, K]; logits into [n, L, E]."""
    layers, experts = routing.bias.shape
    none = np.empty((0, layers, experts), np.float32)
    scale = np.ones(layers, np.float32) if routing.scale is None else routing.scale
    _draw(
        routing.bias,
        routing.token,
        routing.before,
        routing.slow,
        routing.keep,
        routing.again,
        routing.alike,
        routing.coupling,
        routing.order,
        scale,
        np.uint64(seed),
        request,
        state.slow,
        state.noise,
        state.kinds,
        state.counts,
        normal_table(),
        ids,
        none if logits is None else logits,
    )


def draw_requests(routing: Routing, seed: int, lengths: NDArray[np.int64], top_k: int) -> NDArray[np.uint16]:
    """The experts of whole requests one after the other, [sum of lengths, L, K]."""
    ids = np.empty((int(lengths.sum()), routing.bias.shape[0], top_k), np.uint16)
    start = 0
    for request, length in enumerate(lengths.tolist()):
        draw_block(routing, seed, request, State(routing), ids[start : start + length])
        start += length
    return ids


@cache
def normal_table() -> NDArray[np.float32]:
    """The normal distribution at the middles of 65536 equal shares."""
    from scipy.special import ndtri

    count = 1 << _TABLE_BITS
    return np.asarray(ndtri((np.arange(count) + 0.5) / count), np.float32)


@register_jitable
def _mixed(number: Any) -> Any:
    """A number whose bits look random; of neighbours they have nothing in common.

    Source: splitmix64, Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    number = number + np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


@register_jitable
def _normals(key: Any, table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Normal numbers that follow from a key, four from one mixed number."""
    for group in range((out.shape[0] + 3) // 4):
        bits = _mixed(key + np.uint64(group))
        for part in range(min(4, out.shape[0] - 4 * group)):
            out[4 * group + part] = table[(bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)]


@register_jitable
def _coupled(
    key: Any,
    layer: int,
    coupling: float,
    order: NDArray[np.int32],
    table: NDArray[np.float32],
    above: NDArray[np.float32],
    spare: NDArray[np.float32],
) -> None:
    """Normal numbers of one layer into `above` [E], which holds those of the layer before."""  # fmt: skip
    if layer == 0 or coupling == 0:
        _normals(key, table, above)
        return
    _normals(key, table, spare)
    kept, new = np.float32(coupling), np.float32(np.sqrt(1.0 - coupling * coupling))
    for expert in range(spare.shape[0]):
        spare[expert] = new * spare[expert] + kept * above[order[layer, expert]]
    above[:] = spare


@register_jitable
def _uniform(key: Any) -> float:
    return float(np.float64(_mixed(key) >> np.uint64(11)) / 9007199254740992.0)


@register_jitable
def _kind(key: Any, token: int, again: float, kinds: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """The kind of a token, named after the token that had it first."""
    had, held = counts[1], kinds.shape[0]
    if _uniform(key) < again:
        place = min(int(_uniform(key + np.uint64(1)) * held), held - 1)
        if place < had:
            return int(kinds[place])
    kinds[had % held] = token
    counts[1] = had + 1
    return token


@njit(cache=True)
def _draw(
    bias: NDArray[np.float32],
    on_token: NDArray[np.float32],
    on_before: NDArray[np.float32],
    on_slow: NDArray[np.float32],
    keep: NDArray[np.float32],
    again: float,
    alike: float,
    coupling: float,
    order: NDArray[np.int32],
    scale: NDArray[np.float32],
    seed: np.uint64,
    request: int,
    slow: NDArray[np.float32],
    noise: NDArray[np.float32],
    kinds: NDArray[np.int64],
    counts: NDArray[np.int64],
    table: NDArray[np.float32],
    ids: NDArray[Any],
    logits: NDArray[np.float32],
) -> None:
    num_layers, num_experts = bias.shape
    num_slow, top_k = on_slow.shape[1], ids.shape[2]
    scores = np.empty(num_experts, np.float32)
    spare = np.empty(num_experts, np.float32)
    above = np.empty((_FIRST_SLOW + num_slow, num_experts), np.float32)  # noise of the layer before, by part
    drawn = np.zeros(num_slow, np.bool_)
    for part in range(num_slow):
        drawn[part] = on_slow[:, part].max() > 0
    share, rest = np.float32(np.sqrt(alike)), np.float32(np.sqrt(1.0 - alike))
    of_request = _mixed(_mixed(seed) ^ np.uint64(request))
    for row in range(ids.shape[0]):
        token = counts[0]
        counts[0] += 1
        first = token == 0
        kind = _kind(_mixed(of_request + np.uint64(token * _SLOT)), token, again, kinds, counts)
        now, past = token & 1, 1 - (token & 1)
        for layer in range(num_layers):
            of_layer = _mixed(of_request ^ _mixed(np.uint64(layer + 1)))
            of_token = of_layer + np.uint64(token * _SLOT)
            _coupled(_mixed(of_layer + np.uint64(kind * _SLOT)), layer, coupling, order, table, above[0], spare)
            noise[layer, now] = share * above[0]
            if rest > 0:
                _coupled(_mixed(of_token + np.uint64(_REST)), layer, coupling, order, table, above[_REST], spare)
                noise[layer, now] += rest * above[_REST]
            if first:
                _coupled(_mixed(of_token + np.uint64(_BEFORE)), layer, coupling, order, table, above[_BEFORE], spare)
                noise[layer, past] = above[_BEFORE]
            for expert in range(num_experts):
                scores[expert] = (
                    bias[layer, expert]
                    + on_token[layer] * noise[layer, now, expert]
                    + on_before[layer] * noise[layer, past, expert]
                )
            for part in range(num_slow):
                if not drawn[part]:
                    continue
                kept = keep[part]
                if first or kept < 1:
                    fresh = above[_FIRST_SLOW + part]
                    _coupled(
                        _mixed(of_token + np.uint64(_FIRST_SLOW + part)), layer, coupling, order, table, fresh, spare
                    )
                    if first:
                        slow[layer, part] = fresh
                    else:
                        new = np.float32(np.sqrt(1.0 - float(kept) * float(kept)))
                        for expert in range(num_experts):
                            slow[layer, part, expert] = kept * slow[layer, part, expert] + new * fresh[expert]
                for expert in range(num_experts):
                    scores[expert] += on_slow[layer, part] * slow[layer, part, expert]
            if logits.shape[0] > 0:
                for expert in range(num_experts):
                    scores[expert] *= scale[layer]
                    logits[row, layer, expert] = scores[expert]
            for rank in range(top_k):
                best = 0
                for expert in range(1, num_experts):
                    if scores[expert] > scores[best]:
                        best = expert
                ids[row, layer, rank] = best
                scores[best] = -np.inf
