"""Differentiable statistics of routing that the demo training adds to its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def balance_loss(logits: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
    """Switch-style balance of ONE layer: E * sum_e load_e * mean score_e, equal to 1 where all experts are used alike.

    Per layer on purpose: summing loads over layers first, as the library's own auxiliary loss does, lets single layers
    stay skewed. `logits` [T, E], `topk_ids` [T, K]; load_e is the share of all choices.
    Source: Fedus et al., Switch Transformers, section 2.2, https://arxiv.org/abs/2101.03961 (there K = 1).
    """
    import torch

    num_experts = logits.shape[-1]
    load = torch.bincount(topk_ids.flatten(), minlength=num_experts).float() / topk_ids.numel()
    mean_score = logits.float().softmax(-1).mean(0)
    return num_experts * (load * mean_score).sum()


def pooled_balance_loss(routed: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The library's own auxiliary loss: loads (choices per token) and mean scores over all layers together.

    Layers may stay skewed as long as their skews cancel. `routed`: (logits [T, E], ids [T, K]) of each layer.
    Source: transformers, `load_balancing_loss_func` of modeling_olmoe.
    """
    import torch

    logits, ids = torch.cat([logits for logits, _ in routed]), torch.cat([ids for _, ids in routed])
    return balance_loss(logits, ids) * ids.shape[-1]


def gate_slope(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Gate slope h of one layer: mean over tokens and active experts of ln(S_j / S_{k+1}); `logits` [T, E].

    The softmax normaliser cancels in the ratio, so differences of logits are enough.
    """
    best = logits.float().topk(top_k + 1, dim=-1).values
    return (best[:, :-1] - best[:, -1:]).mean()


def noisy_choice(
    logits: torch.Tensor, top_k: int, noise: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weights, ids) [T, K] of the best top_k by logits [T, E] + normal noise; weights are their renormalised scores.

    A token that falls now to one, now to another expert of nearly its score makes the two learn alike.
    Source: Shazeer et al., Outrageously Large Neural Networks, section 2.1, https://arxiv.org/abs/1701.06538 (there the
    size of the noise is learned).
    """
    import torch

    noisy = logits.float() + noise * torch.randn(logits.shape, generator=generator)
    values, ids = noisy.softmax(-1).topk(top_k, dim=-1)
    return (values / values.sum(-1, keepdim=True)).to(logits.dtype), ids


def distinct_tokens(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mutual information (nats) of expert and token of the vocabulary in ONE layer: how far experts divide the tokens.

    H(mean scores) - sum_v p_v H(mean scores where the token is v), over `logits` [T, E] and `tokens` [T] of a batch; 0
    where every token has the same scores, at most ln E.
    Source: Chen et al., Mod-Squad, section 3.2, https://arxiv.org/abs/2212.08066 (there of experts and tasks).
    """
    import torch

    scores = logits.float().softmax(-1)
    _, index, counts = torch.unique(tokens, return_inverse=True, return_counts=True)
    of_token = torch.zeros(len(counts), scores.shape[-1]).index_add(0, index, scores) / counts[:, None]

    def entropy(mean_scores: torch.Tensor) -> torch.Tensor:
        return -(mean_scores * mean_scores.clamp_min(1e-12).log()).sum(-1)

    information: torch.Tensor = entropy(scores.mean(0)) - (counts / counts.sum() * entropy(of_token)).sum()
    return information
