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

from traces.errors import UserError
from traces.recording.moe_layers import MoELayer, family_name, find_moe_layers
from traces.recording.moe_probe import first_tensor, routing_arguments

if TYPE_CHECKING:
    import torch

    from traces.recording.topk_inputs import TopkInputs


@dataclass(frozen=True, slots=True)
class Routing:
    """One layer's decision for the T tokens of one forward pass, as the model made it.

    `hidden_states`: what enters the experts, [T, H] or [B, S, H] as the family has it; `topk_ids` and `topk_weights`
    [T, K]; `router_logits` [T, E], None where no scores were found that give the weights;
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
UNKNOWN_BELOW = 30.0
"""How far below all known experts those lie that a hash-routed layer cannot choose; exp(-30) of a probability."""


class Tap:
    """Reports every routing decision of `model` to a function, which may replace it, while the `with` block lasts.

    `on_route(routing)` is called in each MoE layer before its experts run; what it returns, (ids, weights) of the same
    shapes, is executed instead. `on_layer_end(layer, logits)` is called at the end of each MoE layer but the last, with
    the next MoE layer's gate applied to the residual that leaves this one [T, E]; never for a family whose router input
    is not the output of a norm (`has_lookahead_after`). `lookahead` and `selection` fill the `Routing` fields of that
    name. `keep_going`: a table beside ids and weights that fails is left out from then on, and `failed` says why.

    Raises: UserError on construction if the model has no MoE layers that can be hooked, and from inside a forward
        pass if one of those tables fails and is not to be left out; ValueError if a replacement has another shape.
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
        keep_going: bool = False,
    ) -> None:
        self.model = model
        self.failed: dict[str, str] = {}
        self._keep_going = keep_going
        self._pass_tokens: torch.Tensor | None = None
        self._pass_rows = 0  # of the pass that runs
        self.layers = find_moe_layers(model) if layers is None else layers
        self._on_route = on_route
        self._on_layer_end = on_layer_end
        self._lookahead = lookahead
        self._selection = selection
        self._handles: list[Any] = []
        self._seen: dict[int, _RouterCall] = {}

    @property
    def has_router_logits(self) -> bool:
        """Whether every layer's router was found, and its scores give the weights."""
        return all(layer.router is not None for layer in self.layers)

    @property
    def has_lookahead_after(self) -> bool:
        """Whether the gate of every layer but the first can be applied to the residual before its norm."""
        return self.has_router_logits and all(layer.norm is not None for layer in self.layers[1:])

    def __enter__(self) -> Tap:
        if any(layer.token_places for layer in self.layers):
            self._handles.append(self.model.register_forward_pre_hook(self._keep_pass_tokens, with_kwargs=True))
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
        inputs = None
        if layer.router is not None and self._selection:
            from traces.recording.topk_inputs import TopkInputs  # a torch class, so importing it imports torch

            inputs = TopkInputs()
            self._handles.append(layer.chooser.register_forward_pre_hook(inputs.start))
            # Also when the router fails, or the mode would stay on for the rest of the program.
            self._handles.append(layer.chooser.register_forward_hook(inputs.stop, always_call=True))
        if layer.router is not None:
            self._handles.append(
                layer.router.register_forward_hook(self._router_hook(layer, following, inputs), with_kwargs=True)
            )
        self._handles.append(
            layer.experts.register_forward_pre_hook(self._experts_hook(layer), with_kwargs=True, prepend=True)
        )
        if self._on_layer_end is not None and following is not None and self.has_lookahead_after:
            self._handles.append(layer.block.register_forward_hook(self._block_hook(layer, following)))

    def _keep_pass_tokens(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pass_tokens = kwargs.get("input_ids", args[0] if args else None)

    def _optional(self, table: str, compute: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """What `compute` gives, [T, E] for a table beside ids and weights; None once that has failed."""
        if table in self.failed:
            return None
        try:
            return compute()
        except Exception as error:  # of the model's own code, which may do anything
            reason = next(iter(str(error).splitlines()), "")
            if not isinstance(error, ValueError):
                reason = f"{type(error).__name__}: {reason}"
            if not self._keep_going:
                raise UserError(f"{family_name(self.model)}: {table} cannot be computed: {reason}") from error
            self.failed[table] = reason
            return None

    def _router_hook(self, layer: MoELayer, following: MoELayer | None, inputs: TopkInputs | None) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            state = args[0] if args else next(iter(kwargs.values()))
            lookahead = None
            if self._lookahead and following is not None:
                lookahead = self._optional("lookahead_before", lambda: gate_logits(following, state, self._pass_tokens))
            self._seen[layer.index] = _RouterCall(output, lookahead, inputs)

        return hook

    def _experts_hook(self, layer: MoELayer) -> Any:
        names = layer.signature

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            ids, weights = routing_arguments(args, kwargs, names)
            call = self._seen.pop(layer.index, None)
            self._pass_rows = ids.shape[0]
            if self._on_route is None:
                return None
            if not self._keep_going and bool(((ids < 0) | (ids >= layer.num_experts)).any()):
                raise UserError(
                    f"{family_name(self.model)} gives tokens fewer than {ids.shape[-1]} experts: it can be recorded, "
                    "but no policy can decide inside the running model"
                )
            replacement = self._on_route(self._routing(layer, first_tensor(args, kwargs), ids, weights, call))
            if replacement is None:
                return None
            return _replace_arguments(args, kwargs, names, _match_inputs(replacement, ids, weights))

        return hook

    def _block_hook(self, layer: MoELayer, following: MoELayer) -> Any:
        import torch

        def after(residual: torch.Tensor) -> torch.Tensor:
            assert following.norm is not None
            states = residual.numel() // residual.shape[-1]
            if states != self._pass_rows:  # as with several residual streams
                raise ValueError(f"{states} states leave a layer for {self._pass_rows} tokens")
            with torch.no_grad():
                return gate_logits(following, following.norm.forward(residual), self._pass_tokens)

        def hook(_module: Any, _args: tuple[Any, ...], output: Any) -> None:
            assert self._on_layer_end is not None
            residual = output[0] if isinstance(output, tuple) else output
            logits = self._optional("lookahead_after", lambda: after(residual))
            if logits is not None:
                self._on_layer_end(layer.index, logits)

        return hook

    def _routing(
        self,
        layer: MoELayer,
        states: torch.Tensor | None,
        ids: torch.Tensor,
        weights: torch.Tensor,
        call: _RouterCall | None,
    ) -> Routing:
        assert states is not None  # an experts module receives hidden states first
        source = layer.scores
        if call is None or source is None:
            return Routing(layer.index, states, ids, weights, None, None, None)
        logits = self._optional("router_logits", lambda: _of_rows(source.read(call.output), ids))
        scores = None
        if layer.hashed:  # the choice is a table's: its experts, and no other
            scores = weights.new_zeros((ids.shape[0], layer.num_experts)).scatter_(1, ids.long(), 1.0)
        elif call.inputs is not None:
            scores = call.inputs.that_chose(ids)
            scores = None if scores is None else scores[:, : layer.num_experts]
        return Routing(layer.index, states, ids, weights, logits, scores, call.lookahead)


def _of_rows(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    if scores.shape[0] != ids.shape[0]:
        raise ValueError(f"a router returned scores of {scores.shape[0]} tokens for {ids.shape[0]}")
    return scores


@dataclass(slots=True)
class _RouterCall:
    output: Any
    lookahead: torch.Tensor | None
    inputs: TopkInputs | None


def gate_logits(layer: MoELayer, state: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """Logits [T, E] of this layer's router for a router input of another layer.

    A router that chooses by the ids of the tokens gets `tokens`; where it chooses by nothing else, its choice is known
    for certain, and all other experts get logits that leave them no probability. Calls `forward` directly, which runs
    no hooks: nothing is recorded twice.
    """
    import torch

    assert layer.router is not None and layer.scores is not None
    if layer.remembers:
        raise ValueError("the router also reads what earlier layers left of each token, so it cannot be applied early")
    rest = [tokens if place in layer.token_places else value for place, value in enumerate(layer.router_rest)]
    named = {name: tokens if name in layer.token_places else value for name, value in layer.router_named.items()}
    with torch.no_grad():
        output = layer.router.forward(_reshape_for(layer, state), *rest, **named)
        logits = layer.scores.read(output)
        rows = state.numel() // state.shape[-1]
        if logits.shape[0] != rows:
            raise ValueError(f"a router gave scores of {logits.shape[0]} tokens for the states of {rows}")
        return _known_first(layer, output, logits) if layer.hashed else logits


def _known_first(layer: MoELayer, output: Any, logits: torch.Tensor) -> torch.Tensor:
    """Logits in which the experts of a table lie above all others by more than any softmax sees."""
    import torch

    ids = next(item for item in output if torch.is_tensor(item) and not item.is_floating_point())
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, ids.reshape(len(logits), -1), False)
    spread = logits.amax(-1, keepdim=True) - logits.amin(-1, keepdim=True)
    return logits - others * (spread + UNKNOWN_BELOW)


def _reshape_for(layer: MoELayer, state: torch.Tensor) -> torch.Tensor:
    """`state` with as many dimensions as this router was called with, [T, H] or [B, S, H]."""
    if layer.router_input_ndim == state.ndim:
        return state
    return state.reshape(-1, state.shape[-1]) if layer.router_input_ndim == 2 else state.reshape(1, -1, state.shape[-1])


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
