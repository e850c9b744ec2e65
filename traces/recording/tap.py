"""Hooks into the MoE layers of a model: every routing decision is reported, and may be replaced, before experts run.

A forward pre-hook on each experts module gets ids and weights and leaves the arithmetic alone, so a recorded model
gives the very logits of an unrecorded one. A hook on the router gives the scores of all experts. Recording, forced
routing and closed-loop substitution all go through `Tap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from traces.recording.moe_layers import MoELayer, find_moe_layers, router_logits_of
from traces.recording.moe_probe import first_tensor, routing_arguments

if TYPE_CHECKING:
    import torch

    from traces.recording.topk_inputs import TopkInputs


@dataclass(frozen=True, slots=True)
class Routing:
    """One layer's decision for the T tokens of one forward pass, as the model made it.

    `hidden_states`: what enters the experts, [T, H] or [B, S, H] as the family has it; `topk_ids` and `topk_weights`
    [T, K]; `router_logits` [T, E], None where the router cannot be found;
    `selection_scores` [T, E], what the choice was made by, only if asked for and found;
    `lookahead` [T, E]: the next MoE layer's logits from this router's input, only if asked for.
    """

    layer: int
    hidden_states: torch.Tensor
    topk_ids: torch.Tensor
    topk_weights: torch.Tensor
    router_logits: torch.Tensor | None
    selection_scores: torch.Tensor | None
    lookahead: torch.Tensor | None


Replacement = tuple["torch.Tensor", "torch.Tensor"]
OnRoute = Callable[[Routing], Replacement | None]
OnLayerEnd = Callable[[int, "torch.Tensor"], None]


class Tap:
    """Reports every routing decision of `model` to a function, which may replace it, while the `with` block lasts.

    `on_route(routing)` is called in each MoE layer before its experts run; what it returns, (ids, weights) of the same
    shapes, is executed instead. `on_layer_end(layer, logits)` is called at the end of each MoE layer but the last, with
    the next MoE layer's gate applied to the residual that leaves this one [T, E]; never for a family whose router input
    is not the output of a norm (`has_lookahead_after`). `lookahead` and `selection` fill the `Routing` fields of that
    name.

    Raises: UserError on construction if the model has no MoE layers that can be hooked; ValueError from inside the
        forward pass if a replacement has another shape.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        on_route: OnRoute | None = None,
        *,
        on_layer_end: OnLayerEnd | None = None,
        lookahead: bool = False,
        selection: bool = False,
        layers: tuple[MoELayer, ...] | None = None,
    ) -> None:
        self.model = model
        self.layers = find_moe_layers(model) if layers is None else layers
        self._on_route = on_route
        self._on_layer_end = on_layer_end
        self._lookahead = lookahead
        self._selection = selection
        self._handles: list[Any] = []
        self._seen: dict[int, _RouterCall] = {}

    @property
    def has_router_logits(self) -> bool:
        """Whether every layer's router was found."""
        return all(layer.router is not None for layer in self.layers)

    @property
    def has_lookahead_after(self) -> bool:
        """Whether the gate of every layer but the first can be applied to the residual before its norm."""
        return self.has_router_logits and all(layer.norm is not None for layer in self.layers[1:])

    def __enter__(self) -> Tap:
        for layer in self.layers:
            self._hook(layer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def _hook(self, layer: MoELayer) -> None:
        following = self.layers[layer.index + 1] if layer.index + 1 < len(self.layers) else None
        if layer.router is not None:
            inputs = None
            if self._selection:
                from traces.recording.topk_inputs import TopkInputs  # a torch class, so importing it imports torch

                inputs = TopkInputs()
                self._handles.append(layer.router.register_forward_pre_hook(inputs.start))
                # Also when the router fails, or the mode would stay on for the rest of the program.
                self._handles.append(layer.router.register_forward_hook(inputs.stop, always_call=True))
            self._handles.append(
                layer.router.register_forward_hook(self._router_hook(layer, following, inputs), with_kwargs=True)
            )
        self._handles.append(
            layer.experts.register_forward_pre_hook(self._experts_hook(layer), with_kwargs=True, prepend=True)
        )
        if self._on_layer_end is not None and following is not None and self.has_lookahead_after:
            self._handles.append(layer.block.register_forward_hook(self._block_hook(layer, following)))

    def _router_hook(self, layer: MoELayer, following: MoELayer | None, inputs: TopkInputs | None) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            state = args[0] if args else next(iter(kwargs.values()))
            lookahead = None
            if self._lookahead and following is not None:
                lookahead = gate_logits(following, state)
            self._seen[layer.index] = _RouterCall(output, lookahead, inputs)

        return hook

    def _experts_hook(self, layer: MoELayer) -> Any:
        names = layer.signature

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            ids, weights = routing_arguments(args, kwargs, names)
            call = self._seen.pop(layer.index, None)
            if self._on_route is None:
                return None
            replacement = self._on_route(_routing(layer.index, first_tensor(args, kwargs), ids, weights, call))
            if replacement is None:
                return None
            return _replace_arguments(args, kwargs, names, _match_inputs(replacement, ids, weights))

        return hook

    def _block_hook(self, layer: MoELayer, following: MoELayer) -> Any:
        import torch

        def hook(_module: Any, _args: tuple[Any, ...], output: Any) -> None:
            residual = output[0] if isinstance(output, tuple) else output
            assert self._on_layer_end is not None and following.norm is not None
            with torch.no_grad():
                logits = gate_logits(following, following.norm.forward(residual))
            self._on_layer_end(layer.index, logits)

        return hook


@dataclass(slots=True)
class _RouterCall:
    output: Any
    lookahead: torch.Tensor | None
    inputs: TopkInputs | None


def gate_logits(layer: MoELayer, state: torch.Tensor) -> torch.Tensor:
    """Logits [T, E] of this layer's router for a router input of another layer.

    Calls `forward` directly, which runs no hooks: nothing is recorded twice.
    """
    import torch

    assert layer.router is not None
    with torch.no_grad():
        output = layer.router.forward(_reshape_for(layer, state), *layer.router_rest)
    rows = state.numel() // state.shape[-1]
    logits = router_logits_of(output, torch.empty(rows, layer.top_k, device="meta"))
    assert logits is not None
    return logits


def _reshape_for(layer: MoELayer, state: torch.Tensor) -> torch.Tensor:
    """`state` with as many dimensions as this router was called with, [T, H] or [B, S, H]."""
    if layer.router_input_ndim == state.ndim:
        return state
    return state.reshape(-1, state.shape[-1]) if layer.router_input_ndim == 2 else state.reshape(1, -1, state.shape[-1])


def _routing(
    index: int, states: torch.Tensor | None, ids: torch.Tensor, weights: torch.Tensor, call: _RouterCall | None
) -> Routing:
    assert states is not None  # an experts module receives hidden states first
    if call is None:
        return Routing(index, states, ids, weights, None, None, None)
    scores = None if call.inputs is None else call.inputs.that_chose(ids)
    return Routing(index, states, ids, weights, router_logits_of(call.output, ids), scores, call.lookahead)


def _match_inputs(replacement: Replacement, ids: torch.Tensor, weights: torch.Tensor) -> Replacement:
    new_ids, new_weights = replacement
    if new_ids.shape != ids.shape or new_weights.shape != weights.shape:
        raise ValueError(
            f"A replacement of shapes {tuple(new_ids.shape)} and {tuple(new_weights.shape)} was given for ids and "
            f"weights of shape {tuple(ids.shape)}: must be of the same shapes"
        )
    return new_ids.to(ids.device, ids.dtype), new_weights.to(weights.device, weights.dtype)


def _replace_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, str], replacement: Replacement
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional, named = list(args), dict(kwargs)
    for position, (name, value) in enumerate(zip(names, replacement, strict=True), start=1):
        if position < len(positional):
            positional[position] = value
        else:
            named[name] = value
    return tuple(positional), named
