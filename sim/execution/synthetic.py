"""A model of stated sizes whose routing is forced: random experts, a dense matrix in place of attention."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sim.execution.layout import ExpertLayout
from sim.execution.settings import RealSettings

if TYPE_CHECKING:
    import torch

INPUTS = 64
"""Different input vectors; a token's is chosen by its row."""
STEP_APART = 7919
"""How far the weights of one expert are shifted against those of the expert before."""


class SyntheticModel:
    """Weights of L layers with E experts each: ``host`` bytes of the host tier, everything else on ``device``."""

    def __init__(self, settings: RealSettings, num_layers: int, num_experts: int) -> None:
        import torch

        self.settings, self.num_experts = settings, num_experts
        self.dtype = getattr(torch, settings.dtype)
        self.device = torch.device(settings.device)
        hidden, ffn = settings.hidden_size, settings.expert_ffn
        self.layout = ExpertLayout.of([((2 * ffn, hidden), self.dtype), ((hidden, ffn), self.dtype)])
        self.host_layers = min(settings.distinct_layers or num_layers, num_layers)
        self.source_of = [
            layer % self.host_layers * num_experts + expert
            for layer in range(num_layers)
            for expert in range(num_experts)
        ]
        generator = torch.Generator().manual_seed(settings.seed)
        self.host = self._host_weights(generator)
        self.inputs = torch.randn(INPUTS, hidden, generator=generator).to(self.device, self.dtype)
        self.attention_weights = [self._matrix(settings.attention_rows, generator) for _ in range(num_layers)]
        self.head_weights = self._matrix(settings.head_rows, generator)
        self.shared_weights = [self._shared(generator) for _ in range(num_layers)]

    def _host_weights(self, generator: torch.Generator) -> torch.Tensor:
        """All experts: one random expert, shifted by another distance for each."""
        import torch

        layout, dtype = self.layout, self.dtype
        count = layout.stride // dtype.itemsize
        random_expert = (torch.randn(count, generator=generator) * self.settings.hidden_size**-0.5).to(dtype)
        size = self.host_layers * self.num_experts * layout.stride
        pinned = self.settings.device == "cuda" and self.settings.pinned
        host = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        for source in range(self.host_layers * self.num_experts):
            row = host[source * layout.stride : (source + 1) * layout.stride].view(dtype)
            row.copy_(random_expert.roll(source * STEP_APART))
        return host

    def _matrix(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        import torch

        hidden = self.settings.hidden_size
        matrix: torch.Tensor = torch.randn(rows, hidden, generator=generator) * hidden**-0.5
        return matrix.to(self.device, self.dtype)

    def _shared(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        ffn = self.settings.shared_ffn
        if ffn == 0:
            return None
        return self._matrix(2 * ffn, generator), self._matrix(ffn, generator).t().contiguous()

    def attention(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """The normalised state [B, H] plus a dense product of it."""
        import torch

        state = torch.nn.functional.rms_norm(state, (state.shape[-1],))
        product = torch.nn.functional.linear(state, self.attention_weights[layer])
        width = min(product.shape[-1], state.shape[-1])
        return torch.cat([state[:, :width] + product[:, :width], state[:, width:]], dim=-1)

    def expert(self, state: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """One expert on its tokens [n, H]: down(silu(gate) * up)."""
        import torch

        gate, up = torch.nn.functional.linear(state, weights[0]).chunk(2, dim=-1)
        output: torch.Tensor = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, weights[1])
        return output

    def shared(self, layer: int, state: torch.Tensor) -> torch.Tensor | None:
        """The shared expert of a layer, where there is one."""
        weights = self.shared_weights[layer]
        return None if weights is None else self.expert(state, weights)

    def head(self, state: torch.Tensor) -> Any:
        """What is computed once per step."""
        import torch

        return torch.nn.functional.linear(state, self.head_weights) if self.settings.head_rows else None


@lru_cache(maxsize=1)
def _cached(key: RealSettings, num_layers: int, num_experts: int) -> SyntheticModel:
    return SyntheticModel(key, num_layers, num_experts)


def synthetic_model(settings: RealSettings, num_layers: int, num_experts: int) -> SyntheticModel:
    """The model of these sizes; the last one is kept, for making the weights of a large one takes seconds."""
    from dataclasses import replace

    without = {"link_bytes_per_s": None, "link_latency_s": 0.0, "steps": None, "skip_steps": 0}
    without |= {"decode_only": False, "cuda_graphs": False}
    return _cached(replace(settings, **without), num_layers, num_experts)  # type: ignore[arg-type]
