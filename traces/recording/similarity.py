"""How alike the experts of a layer are: the mean cosine of their outputs on the same sampled inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.recording.moe_layers import MoELayer
from traces.recording.moe_probe import input_device
from traces.recording.tap import Routing

if TYPE_CHECKING:
    import torch

_MOST_OUTPUTS = 1 << 24
"""Numbers of expert outputs held at once."""


class SimilaritySample:
    """Keeps what enters the experts for a sample of tokens, drawn evenly from all that pass, the same in every layer.

    Feed it every `Routing` of a recording, then call `measure` when the hooks are gone: during a forward pass it only
    copies. Reservoir sampling, set by `seed`. Source: Vitter, ACM TOMS 11(1), 1985, https://doi.org/10.1145/3147.3165.
    """

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens_seen = 0
        self._size, self._seed = tokens, seed
        self._rng = np.random.default_rng(seed)
        self._kept: dict[int, int] = {}  # place in the sample -> row of this step
        self._states: dict[int, torch.Tensor] = {}  # layer -> [size, H]
        self._ndim = 2

    @property
    def count(self) -> int:
        """Tokens in the sample."""
        return min(self._size, self.tokens_seen)

    @property
    def statement(self) -> str:
        """How the similarities are measured, for the provenance."""
        return (
            f"mean cosine of two experts' outputs on the same input, over {self.count} of {self.tokens_seen} recorded "
            f"tokens drawn evenly with seed {self._seed}"
        )

    def add(self, routing: Routing) -> None:
        """Keep the sampled rows of one layer of one forward pass."""
        states = routing.hidden_states.detach()
        self._ndim = states.ndim
        states = states.reshape(-1, states.shape[-1])
        if routing.layer == 0:
            self._draw(states.shape[0])
        if routing.layer not in self._states:
            self._states[routing.layer] = states.new_zeros((self._size, states.shape[-1]), device="cpu")
        self._states[routing.layer][list(self._kept)] = states[list(self._kept.values())].cpu()

    def _draw(self, rows: int) -> None:
        """Choose which of the next rows enter the sample, and whose places they take."""
        self._kept = {}
        for row in range(rows):
            self.tokens_seen += 1
            place = self.tokens_seen - 1
            if place >= self._size:
                place = int(self._rng.integers(self.tokens_seen))
            if place < self._size:
                self._kept[place] = row

    def measure(self, layers: tuple[MoELayer, ...]) -> NDArray[np.float16]:
        """Run all experts of every layer on the sample -> mean cosines [L, E, E]: symmetric, ones on the diagonal."""
        return np.stack([self._layer(layer) for layer in layers])

    def _layer(self, layer: MoELayer) -> NDArray[np.float16]:
        import torch

        states = self._states[layer.index][: self.count]
        device = input_device(layer.experts)
        at_once = max(1, _MOST_OUTPUTS // (layer.num_experts * states.shape[-1]))
        total = torch.zeros((layer.num_experts, layer.num_experts), dtype=torch.float64)
        with torch.no_grad():
            for start in range(0, len(states), at_once):
                chunk = states[start : start + at_once].to(device)
                outputs = torch.stack(
                    [expert_output(layer, expert, chunk, self._ndim) for expert in range(layer.num_experts)], dim=1
                )  # [n, E, H]
                directions = torch.nn.functional.normalize(outputs.double(), dim=-1)
                total += (directions @ directions.transpose(1, 2)).sum(dim=0).cpu()
        mean: NDArray[np.float64] = (total / len(states)).numpy()
        mean = np.clip((mean + mean.T) / 2, -1.0, 1.0)
        np.fill_diagonal(mean, 1.0)
        return mean.astype(np.float16)


def expert_output(layer: MoELayer, expert: int, states: torch.Tensor, ndim: int = 2) -> torch.Tensor:
    """What one expert of a layer makes of `states` [n, H], unweighted: [n, H]. No hook sees the call."""
    import torch

    rows = states.shape[0]
    ids = torch.full((rows, 1), expert, dtype=torch.int64, device=states.device)
    weights = torch.ones((rows, 1), dtype=states.dtype, device=states.device)
    output: Any = layer.experts.forward(states if ndim == 2 else states[None], ids, weights)
    flat: torch.Tensor = output.reshape(rows, -1)
    return flat
