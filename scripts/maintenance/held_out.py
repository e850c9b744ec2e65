"""What the demo model must show before a study of substitution may rest on it, measured on held-out text.

All passes are closed loop through the tap: a replaced expert changes the hidden state, hence every later decision.
Weights stay as the router gave them, so that a replacement differs from the original in nothing but the expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.statistics.bootstrap import estimate, ratio, request_interval
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
    import torch

    from traces.demo.losses import gate_slope
    from traces.recording.moe_layers import find_moe_layers

    layers = find_moe_layers(model)
    ids: list[list[NDArray[np.uint8]]] = [[] for _ in layers]
    slopes, low_shares = [], []

    def watch(routing: Routing) -> None:
        assert routing.router_logits is not None
        ids[routing.layer].append(routing.topk_ids.numpy().astype(np.uint8))
        slopes.append(float(gate_slope(routing.router_logits, routing.topk_ids.shape[-1])))
        low_shares.append(float(low_band(routing, alpha)[1].float().mean()))

    losses = {"unchanged": _window_losses(model, layers, windows, watch)}
    for kind in KINDS:
        replace = partial(replace_low, kind=kind, alpha=alpha, generator=torch.Generator().manual_seed(seed))
        losses[kind] = _window_losses(model, layers, windows, replace)
    topk_ids = np.stack([np.concatenate(passes) for passes in ids], axis=1)
    return Evidence(float(np.mean(slopes)), topk_ids, float(np.mean(low_shares)), losses)


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


def harm_ratio(evidence: Evidence) -> tuple[float, float, float]:
    """Loss added by a random replacement over that added by the next-ranked: (ratio, 2.5 %, 97.5 %).

    Paired bootstrap over windows. Where the denominator's own sign is uncertain the interval is infinite, and so shown.
    """
    random, following = (evidence.losses[kind] - evidence.losses["unchanged"] for kind in ("random", "next_ranked"))
    found = estimate(np.stack([random, following], axis=1), ratio)
    low, high = request_interval(following, np.ones(len(following)))
    return (found.value, *(found.interval if low > 0 or high < 0 else (-np.inf, np.inf)))


def perplexity_change(evidence: Evidence, kind: str) -> tuple[float, float, float]:
    """Relative change of perplexity by one kind of replacement: (change, 2.5 %, 97.5 %), paired bootstrap."""
    added = evidence.losses[kind] - evidence.losses["unchanged"]
    low, high = request_interval(added, np.ones(len(added)))
    return float(np.expm1(added.mean())), float(np.expm1(low)), float(np.expm1(high))


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


def replace_low(
    routing: Routing, kind: str, alpha: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replaces every low-band active expert: by the next-ranked, by one drawn from the inactive, or by nothing."""
    import torch

    ranking, low = low_band(routing, alpha)
    ids, weights = routing.topk_ids, routing.topk_weights
    if kind == "dropped":
        return ids, weights.masked_fill(low, 0.0)
    inactive = ranking[:, ids.shape[-1] :]  # [T, E-K], best first
    if kind == "random":
        order = torch.rand(inactive.shape, generator=generator).argsort(dim=-1)
        inactive = inactive.gather(1, order)
    # The j-th replaced expert of a token, best first, takes the j-th of the inactive.
    place = (low.cumsum(-1) - 1).clamp(min=0)
    return torch.where(low, inactive.gather(1, place), ids), weights
