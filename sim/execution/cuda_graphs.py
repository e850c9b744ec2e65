"""Captured CUDA graphs for steps of one token: one per slot for its expert, one per layer for attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sim.execution.synthetic import SyntheticModel

if TYPE_CHECKING:
    import torch

WARM_UPS = 3
"""Runs before a capture, in which libraries allocate what they need."""


class GraphedModel:
    """A synthetic model whose launches of one-token steps are replays of graphs; larger steps run as they are.

    The output of a graph is overwritten when it is replayed: that happens in a later layer, when it has been added up.
    """

    def __init__(self, model: SyntheticModel, slots: Sequence[tuple[torch.Tensor, ...]]) -> None:
        import torch

        self.model = model
        self.state = torch.zeros(1, model.settings.hidden_size, dtype=model.dtype, device=model.device)
        self.pool = torch.cuda.graph_pool_handle()
        self.beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        self.experts = {weights[0].data_ptr(): self._capture(self._expert_of(weights)) for weights in slots}
        self.layers = [self._capture(self._attention_of(layer)) for layer in range(len(model.attention_weights))]

    def _expert_of(self, weights: tuple[torch.Tensor, ...]) -> Callable[[], torch.Tensor]:
        return lambda: self.model.expert(self.state, weights)

    def _attention_of(self, layer: int) -> Callable[[], torch.Tensor]:
        return lambda: self.model.attention(layer, self.state)

    def _capture(self, function: Callable[[], torch.Tensor]) -> tuple[Any, torch.Tensor]:
        """(graph, its output) of a function of ``state``. No other thread uses the device meanwhile."""
        import torch

        with torch.cuda.stream(self.beside):
            for _ in range(WARM_UPS):
                function()
            self.beside.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self.pool)
            output = function()
            graph.capture_end()
        return graph, output

    def _replay(self, captured: tuple[Any, torch.Tensor], state: torch.Tensor) -> torch.Tensor:
        graph, output = captured
        self.state.copy_(state)
        graph.replay()
        return output

    def expert(self, state: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """See ``SyntheticModel.expert``."""
        if state.shape[0] != 1:
            return self.model.expert(state, weights)
        return self._replay(self.experts[weights[0].data_ptr()], state)

    def attention(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """See ``SyntheticModel.attention``."""
        if state.shape[0] != 1:
            return self.model.attention(layer, state)
        return self._replay(self.layers[layer], state)
