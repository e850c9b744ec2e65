"""What the demo model must show before a study of substitution may rest on it, measured on held-out text.

All passes are closed loop through the tap: a replaced expert changes the hidden state, hence every later decision.
Weights stay as the router gave them, so that a replacement differs from the original in nothing but the expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.corpus import DOMAINS, Corpus
from traces.format.trace import DECODE, Geometry, Trace

if TYPE_CHECKING:
    import torch

    from traces.recording.tap import Routing

KINDS = ("next_ranked", "random", "dropped")
BATCH = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured on N held-out windows of one model; losses in nats per token, one per window [N]."""

    gate_slope: float
    topk_ids: NDArray[np.uint8]  # [tokens, L, K], windows one after the other
    low_share: float
    losses: dict[str, NDArray[np.float64]]  # "unchanged" and each of KINDS


def held_out_windows(corpus: Corpus, tokenizer: Any, count: int, tokens: int, seed: int = 0) -> NDArray[np.int64]:
    """`count` windows [N, tokens] of held-out text, prose and code in turn, drawn without overlap where possible."""
    rng = np.random.default_rng(seed)
    pools = []
    for domain in DOMAINS:
        ids: list[int] = []
        for document in corpus.of("held_out", domain):
            ids.extend(tokenizer.backend_tokenizer.encode(document.text).ids)
        usable = len(ids) // tokens
        pools.append(np.asarray(ids[: usable * tokens], np.int64).reshape(usable, tokens)[rng.permutation(usable)])
    return np.stack([pools[i % len(pools)][(i // len(pools)) % len(pools[i % len(pools)])] for i in range(count)])


def measure(model: torch.nn.Module, windows: NDArray[np.int64], alpha: float = 0.35, seed: int = 0) -> Evidence:
    """Run the unchanged model and the three replacements of every low-band active expert over the windows."""
    from traces.recording.moe_layers import find_moe_layers

    layers = find_moe_layers(model)
    watched = _Watch(alpha)
    losses = {"unchanged": _window_losses(model, layers, windows, watched)}
    for kind in KINDS:
        losses[kind] = _window_losses(model, layers, windows, _Replace(kind, alpha, seed))
    return Evidence(watched.slope(), watched.ids(), watched.low_share(), losses)


def as_trace(evidence: Evidence, num_experts: int) -> Trace:
    """The unchanged model's routing as a trace: a request per window, teacher-forced rows counted as decode steps."""
    tokens, num_layers, top_k = evidence.topk_ids.shape
    count = len(evidence.losses["unchanged"])
    return Trace(
        geometry=Geometry("held-out text", num_layers, num_experts, top_k),
        topk_ids=evidence.topk_ids,
        request_offsets=np.arange(count + 1, dtype=np.int64) * (tokens // count),
        prompt_len=np.zeros(count, np.int32),
        phase=np.full(tokens, DECODE, np.uint8),
        provenance={"forcing": "teacher"},
    )


def harm_ratio(evidence: Evidence, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Loss added by a random replacement over that added by the next-ranked: (ratio, 2.5 %, 97.5 %).

    Paired bootstrap over windows. Where the denominator's own sign is uncertain the interval is infinite, and so shown.
    """
    base = evidence.losses["unchanged"]
    random, following = evidence.losses["random"] - base, evidence.losses["next_ranked"] - base
    chosen = np.random.default_rng(seed).integers(len(base), size=(draws, len(base)))
    numerator, denominator = random[chosen].mean(1), following[chosen].mean(1)
    ratios = np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), np.inf)
    low, high = np.quantile(ratios, (0.025, 0.975), method="inverted_cdf")
    return float(random.mean() / following.mean()), float(low), float(high)


def perplexity_change(evidence: Evidence, kind: str, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Relative change of perplexity by one kind of replacement: (change, 2.5 %, 97.5 %), paired bootstrap."""
    added = evidence.losses[kind] - evidence.losses["unchanged"]
    chosen = np.random.default_rng(seed).integers(len(added), size=(draws, len(added)))
    low, high = np.quantile(np.expm1(added[chosen].mean(1)), (0.025, 0.975))
    return float(np.expm1(added.mean())), float(low), float(high)


def _window_losses(
    model: torch.nn.Module, layers: Any, windows: NDArray[np.int64], on_route: Callable[[Routing], Any]
) -> NDArray[np.float64]:
    import torch

    from traces.recording.tap import Tap

    losses = []
    with torch.no_grad(), Tap(model, on_route, layers=layers):
        for start in range(0, len(windows), BATCH):
            batch = torch.from_numpy(windows[start : start + BATCH])
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            per_token = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
            losses.append(per_token.double().mean(1).numpy())
    return np.concatenate(losses)


def low_band(routing: Routing, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranking of all experts [T, E], and which active ones lie in S_{k+1} < s < (1+alpha) S_{k+1} [T, K]."""
    top_k = routing.topk_ids.shape[-1]
    assert routing.router_logits is not None
    scores = routing.router_logits.float().softmax(-1)
    ranked = scores.sort(dim=-1, descending=True)
    bound = ranked.values[:, top_k : top_k + 1]
    own = scores.gather(1, routing.topk_ids)
    return ranked.indices, (own > bound) & (own < (1 + alpha) * bound)


class _Watch:
    """Collects ids, slope and low-score share of the unchanged model."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._ids: dict[int, list[NDArray[np.uint8]]] = {}
        self._slopes: list[float] = []
        self._low: list[float] = []

    def __call__(self, routing: Routing) -> None:
        from traces.demo.losses import gate_slope

        assert routing.router_logits is not None
        self._ids.setdefault(routing.layer, []).append(routing.topk_ids.numpy().astype(np.uint8))
        self._slopes.append(float(gate_slope(routing.router_logits, routing.topk_ids.shape[-1])))
        self._low.append(float(low_band(routing, self._alpha)[1].float().mean()))

    def slope(self) -> float:
        return float(np.mean(self._slopes))

    def low_share(self) -> float:
        return float(np.mean(self._low))

    def ids(self) -> NDArray[np.uint8]:
        return np.stack([np.concatenate(self._ids[layer]) for layer in sorted(self._ids)], axis=1)


class _Replace:
    """Replaces every low-band active expert: by the next-ranked, by one drawn from the inactive, or by nothing."""

    def __init__(self, kind: str, alpha: float, seed: int) -> None:
        import torch

        self._kind, self._alpha = kind, alpha
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        ranking, low = low_band(routing, self._alpha)
        ids, weights = routing.topk_ids, routing.topk_weights
        if self._kind == "dropped":
            return ids, weights.masked_fill(low, 0.0)
        top_k = ids.shape[-1]
        inactive = ranking[:, top_k:]  # [T, E-K], best first
        if self._kind == "random":
            order = torch.rand(inactive.shape, generator=self._generator).argsort(dim=-1)
            inactive = inactive.gather(1, order)
        # The j-th replaced expert of a token, best first, takes the j-th of the inactive.
        place = (low.cumsum(-1) - 1).clamp(min=0)
        return torch.where(low, inactive.gather(1, place), ids), weights
