"""A Transformer encoder that can be fed piece by piece: the pieces give what the whole would have given.

Positions enter as a penalty on attention that grows with distance, so that nothing depends on where a piece begins.
Source of that penalty: Press et al., Train Short, Test Long, https://arxiv.org/abs/2108.12409.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Past = tuple[Tensor, Tensor]
"""Keys and values of the tokens before a piece, [N, heads, S, width of a head]."""


def distance_bias(queries: int, past: int, heads: int, context: int, causal: bool) -> Tensor:
    """What is added to attention scores, [heads, queries, past + queries]; -inf where a token may not look.

    Head h (from 1) of H loses 2^(-8 h / H) per token of distance; a causal token sees itself and context - 1 before it.
    """
    position = torch.arange(past, past + queries)
    back = position[:, None] - torch.arange(past + queries)[None, :]
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    bias = -slopes[:, None, None] * back.abs()
    hidden = (back < 0) | (back >= context) if causal else back.abs() >= context
    return bias.masked_fill(hidden, float("-inf"))


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised copy and added back."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Past | None, bias: Tensor) -> tuple[Tensor, Past]:
        """x [N, T, width] -> the same shape, and keys and values of past and present."""
        batch, tokens, width = x.shape
        split = self.inward(self.before_attention(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # [N, heads, T, width of a head] each
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.dropout(self.outward(seen.transpose(1, 2).reshape(batch, tokens, width)))
        return x + self.dropout(self.feed_forward(self.before_feed_forward(x))), (key, value)


class Encoder(nn.Module):
    """Blocks one after the other over sequences [N, T, width]."""

    def __init__(
        self, width: int, blocks: int, heads: int, feed_forward: int, dropout: float, context: int, causal: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward, dropout) for _ in range(blocks))
        self.heads, self.context, self.causal = heads, context, causal

    def forward(self, x: Tensor, carry: list[Past] | None) -> tuple[Tensor, list[Past]]:
        """One piece; ``carry`` is what the call for the piece before returned (empty when not causal)."""
        past = carry[0][0].shape[2] if carry else 0
        bias = distance_bias(x.shape[1], past, self.heads, self.context, self.causal)
        kept: list[Past] = []
        for index, block in enumerate(self.blocks):
            x, (key, value) = block(x, carry[index] if carry else None, bias)
            if self.causal:
                reach = self.context - 1
                kept.append((key[:, :, -reach:], value[:, :, -reach:]))
        return x, kept
