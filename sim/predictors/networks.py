"""The networks of the trained predictors: rows of a trace in, one logit for each (distance, layer, expert) out.

Both give logits [n, A, L, E]: [i, d, m] are those of layer m for row i as they are known d + 1 layers before m; layers
that a distance cannot reach are marked by ``predicts`` [A, L].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sim.predictors.encoder import Encoder, Past
from sim.predictors.inputs import UNKNOWN, Inputs, Rows, Shape, many_hot
from sim.predictors.settings import MoeBeyondSettings, PromoeSettings, Settings

Carry = list[Past] | None


class MoeBeyondNetwork(nn.Module):
    """MoE-Beyond: a Transformer encoder over the tokens of a request, once for each layer, told by an embedding.

    What it says of a layer depends on no routing of the token itself, so every distance has the same logits (A = 1).
    Source: https://arxiv.org/abs/2508.17137.
    """

    def __init__(self, settings: MoeBeyondSettings, shape: Shape, inputs: Inputs, vocabulary: int) -> None:
        super().__init__()
        self.shape, self.any_distance, self.carries = shape, True, settings.causal
        self.chunk_rows = 128 if settings.causal else settings.context
        layers, experts, width = shape.num_layers, shape.num_experts, settings.token_width
        self.tokens = nn.Embedding(vocabulary + 1, width) if inputs.tokens else None
        self.experts = (
            nn.EmbeddingBag(layers * experts + 1, width, mode="sum", padding_idx=layers * experts)
            if inputs.experts
            else None
        )
        self.layers = nn.Parameter(torch.randn(layers, settings.layer_width), settings.learned_layers)
        known = width * (inputs.tokens + inputs.experts) + settings.layer_width
        self.project = nn.Linear(known, settings.width)
        self.encoder = Encoder(
            settings.width,
            settings.blocks,
            settings.heads,
            settings.feed_forward,
            settings.dropout,
            settings.context,
            settings.causal,
        )
        self.head = nn.Sequential(
            nn.LayerNorm(settings.width), nn.Linear(settings.width, settings.head_width), nn.GELU()
        )
        heads = layers if settings.layer_heads else 1
        self.out = nn.Parameter(torch.randn(heads, settings.head_width, experts) * settings.head_width**-0.5)
        self.out_bias = nn.Parameter(torch.zeros(heads, 1, experts))
        self.predicts = torch.ones(1, layers, dtype=torch.bool)

    def forward(self, rows: Rows, carry: Carry = None) -> tuple[Tensor, Carry]:
        """Logits [n, 1, L, E] of the rows that follow those in ``carry``, and the carry for the next."""
        count = rows.previous.shape[0]
        parts = [self.layers[:, None, :].expand(-1, count, -1)]  # each [L, n, width]
        if self.tokens is not None:
            parts.append(self.tokens(torch.as_tensor(rows.tokens)).expand(self.shape.num_layers, -1, -1))
        if self.experts is not None:
            parts.append(self._previous(rows).transpose(0, 1))
        x, kept = self.encoder(self.project(torch.cat(parts, dim=-1)), carry)
        logits = self.head(x) @ self.out + self.out_bias  # [L, n, E]
        return logits.transpose(0, 1)[:, None], kept

    def _previous(self, rows: Rows) -> Tensor:
        """Sum of the embeddings of the previous token's experts in each layer, [n, L, width]."""
        assert self.experts is not None
        layers, experts = self.shape.num_layers, self.shape.num_experts
        ids = torch.as_tensor(rows.previous)
        index = torch.where(ids == UNKNOWN, layers * experts, ids + torch.arange(layers)[:, None] * experts)
        summed: Tensor = self.experts(index.flatten(0, 1))
        return summed.view(ids.shape[0], layers, -1)


class PromoeNetwork(nn.Module):
    """ProMoE: a two-layer perceptron for each (distance, target layer) on what the current layer shows.

    The original reads hidden states; the gate's scores of the current layer stand in for them (see ``Inputs.signal``),
    with the experts that the token before used in the target layer. Source: https://arxiv.org/abs/2410.22134.
    """

    def __init__(self, settings: PromoeSettings, shape: Shape, inputs: Inputs) -> None:
        super().__init__()
        self.chunk_rows, self.any_distance, self.carries = 256, False, False
        self.num_experts, self.previous = shape.num_experts, inputs.experts
        layers, experts, distances = shape.num_layers, shape.num_experts, settings.stride
        known = experts * (2 if inputs.experts else 1)
        grid = (distances, layers)
        self.inward = nn.Parameter(torch.randn(*grid, known, settings.hidden) * known**-0.5)
        self.inward_bias = nn.Parameter(torch.zeros(*grid, 1, settings.hidden))
        self.out = nn.Parameter(torch.randn(*grid, settings.hidden, experts) * settings.hidden**-0.5)
        self.out_bias = nn.Parameter(torch.zeros(*grid, 1, experts))
        source = torch.arange(layers)[None, :] - torch.arange(1, distances + 1)[:, None]  # [A, L]
        self.predicts, self.source = source >= 0, source.clamp(min=0)

    def forward(self, rows: Rows, carry: Carry = None) -> tuple[Tensor, Carry]:
        """Logits [n, A, L, E]; it carries nothing from row to row."""
        signal = torch.as_tensor(rows.signal)  # [n, L, E]
        x = signal[:, self.source]  # [n, A, L, E]
        if self.previous:
            before = torch.as_tensor(many_hot(rows.previous, self.num_experts)).float()
            x = torch.cat([x, before[:, None].expand(x.shape)], dim=-1)
        hidden = nn.functional.relu(x.permute(1, 2, 0, 3) @ self.inward + self.inward_bias)  # [A, L, n, hidden]
        return (hidden @ self.out + self.out_bias).permute(2, 0, 1, 3), None


Network = MoeBeyondNetwork | PromoeNetwork


def make_network(settings: Settings, shape: Shape, inputs: Inputs, vocabulary: int) -> Network:
    """A network with fresh weights, drawn from torch's global random numbers."""
    if isinstance(settings, MoeBeyondSettings):
        return MoeBeyondNetwork(settings, shape, inputs, vocabulary)
    return PromoeNetwork(settings, shape, inputs)


def round_weights(network: Network) -> None:
    """Round every weight to the nearest of 16 bits, in place."""
    network.load_state_dict({name: value.half() for name, value in network.state_dict().items()})


def tensors_of(network: Network, float16: bool = False) -> dict[str, Any]:
    """Every weight as a numpy array by name."""
    kind = torch.float16 if float16 else torch.float32
    return {name: value.detach().to(kind, copy=True).numpy() for name, value in network.state_dict().items()}
