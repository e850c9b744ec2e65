"""A loaded Hugging Face MoE model whose experts live in a host tier and are executed out of a few slots.

The experts' own forward is kept: each expert is run by the family's code on a copy of the module that has one expert,
whose parameters are views of a slot. So no layout of weights has to be known here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from sim.execution.layout import ExpertLayout
from traces.errors import UserError
from traces.recording.moe_layers import MoELayer, family_name

if TYPE_CHECKING:
    import torch

    Weights = tuple[torch.Tensor, ...]


class HostTier:
    """The experts of a model as bytes in host memory, [L * E] of them; the model's parameters become views of it.

    Raises: UserError where an expert is not one row of each parameter, or layers have experts of different sizes.
    """

    def __init__(self, model: torch.nn.Module, layers: tuple[MoELayer, ...], pinned: bool) -> None:
        import torch

        self.layers, self.num_experts = layers, layers[0].num_experts
        self.names = [name for name, _ in layers[0].experts.named_parameters(recurse=False)]
        layouts = {self._layout(model, layer) for layer in layers}
        if len(layouts) > 1:
            raise UserError(f"{family_name(model)} has layers with experts of different sizes; slots need one size")
        self.layout = layouts.pop()
        size = len(layers) * self.num_experts * self.layout.stride
        self.bytes = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self.devices = [next(layer.experts.parameters()).device for layer in layers]
        for index, layer in enumerate(layers):
            self._take(index, layer)

    def _layout(self, model: torch.nn.Module, layer: MoELayer) -> ExpertLayout:
        direct, all_parameters = list(layer.experts.parameters(recurse=False)), list(layer.experts.parameters())
        if not direct or len(direct) != len(all_parameters) or any(p.shape[0] != self.num_experts for p in direct):
            raise UserError(f"{family_name(model)}: an expert is not one row of each parameter of {layer.name}")
        return ExpertLayout.of((tuple(p.shape[1:]), p.dtype) for p in direct)

    def _take(self, index: int, layer: MoELayer) -> None:
        """Copy a layer's experts into the tier and let its parameters be views of them."""
        parameters = [parameter for _, parameter in layer.experts.named_parameters(recurse=False)]
        for expert in range(self.num_experts):
            for view, parameter in zip(self.views(index * self.num_experts + expert), parameters, strict=True):
                view.copy_(parameter.data[expert])
        for position, parameter in enumerate(parameters):
            parameter.data = self._whole(index, position)

    def _whole(self, index: int, position: int) -> torch.Tensor:
        """[E, ...]: one parameter of a layer, strided over the tier."""
        layout = self.layout
        dtype, shape = layout.dtypes[position], layout.shapes[position]
        start = index * self.num_experts * layout.stride + layout.offsets[position]
        strides = [layout.stride // dtype.itemsize]
        inner = [1]
        for length in reversed(shape[1:]):
            inner.insert(0, inner[0] * length)
        typed = self.bytes[: self.bytes.numel()].view(dtype)
        return typed.as_strided((self.num_experts, *shape), strides + inner[: len(shape)], start // dtype.itemsize)

    def views(self, source: int) -> Weights:
        """The parameters of one expert."""
        return self.layout.views(self.bytes, source)

    def give_back(self) -> None:
        """Parameters of their own again, where they were."""
        for layer, device in zip(self.layers, self.devices, strict=True):
            for parameter in layer.experts.parameters(recurse=False):
                parameter.data = parameter.data.contiguous().to(device)


def move_rest(model: torch.nn.Module, layers: tuple[MoELayer, ...], device: torch.device) -> None:
    """Everything but the routed experts goes to a device, so that a model too large for it can be probed elsewhere."""
    for tensor in rest_of(model, layers):
        tensor.data = tensor.data.to(device)


def rest_of(model: torch.nn.Module, layers: tuple[MoELayer, ...]) -> list[torch.Tensor]:
    """Parameters and buffers that belong to no routed expert."""
    routed = {id(parameter) for layer in layers for parameter in layer.experts.parameters()}
    return [tensor for tensor in [*model.parameters(), *model.buffers()] if id(tensor) not in routed]


class OneExpert:
    """Runs a single expert of a layer by the family's own forward; one object per thread."""

    def __init__(self, layer: MoELayer, names: list[str]) -> None:
        self.module, self.names = copy.copy(layer.experts), names
        self.module.num_experts = 1  # type: ignore[assignment]
        forward: Any = type(layer.experts).forward
        self.forward = getattr(forward, "__wrapped__", forward)  # below the choice of an implementation

    def __call__(self, hidden: torch.Tensor, weights: torch.Tensor, parameters: Weights) -> torch.Tensor:
        """Weighted outputs [n, H] of the expert for its tokens [n, H] with their weights [n]."""
        import torch

        one_row = {name: parameter[None] for name, parameter in zip(self.names, parameters, strict=True)}
        self.module._parameters = one_row  # type: ignore[assignment]
        ids = torch.zeros(hidden.shape[0], 1, dtype=torch.int64, device=hidden.device)
        output: torch.Tensor = self.forward(self.module, hidden, ids, weights[:, None])
        return output
