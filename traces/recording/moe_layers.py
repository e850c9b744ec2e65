"""Finds the MoE layers of a loaded Hugging Face model by looking at its modules, and proves them by a probe pass.

Nothing here trusts the configuration. An experts module is one whose forward takes (hidden states, chosen ids,
weights): the library marks most of them, others carry the name. One short forward pass then shows which are called, in
which order, what their router is (the module that returns the very tensor the experts receive as ids, or one beside it
whose scores give the weights), whether what it returns are logits, and which norm feeds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from traces.errors import UserError
from traces.recording.adapted import adapt
from traces.recording.choices import stacked_choices
from traces.recording.moe_probe import (
    PROBE_TOKENS,
    ModuleCall,
    Probe,
    argument_names,
    first_returning,
    first_tensor,
    norm_of,
    required_arguments,
    run_probe,
    text_config,
    token_places,
)
from traces.recording.score_source import Call, ScoreSource, as_numpy, find_source, tolerance_of

if TYPE_CHECKING:
    import torch

# Configuration fields that tell a dense model from an MoE model that has no hookable experts module.
EXPERT_COUNT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOOSES = "the module that returns the ids"
"""Where the scores are looked for first."""


@dataclass(frozen=True, slots=True)
class MoELayer:
    """One MoE layer as the probe saw it; `index` counts MoE layers in the order in which they run.

    `router` is the module whose scores, read by `scores`, give the weights; both None where there is none, and
    `no_scores` says why. `router_rest` and `router_named` are its further arguments (a bias, in some families);
    `token_places` are the places among them at which it gets the ids of the tokens themselves. `hashed`: its choice
    follows from these alone; `remembers`: it also gets states of the tokens' earlier layers, so that it cannot be
    applied early. `chooser` is the module inside which the ids are chosen, `block` the whole decoder layer. `norm` is
    None where no module's output is the router's input.
    """

    index: int
    name: str
    experts: torch.nn.Module
    num_experts: int
    top_k: int
    chooser: torch.nn.Module
    block: torch.nn.Module
    block_name: str
    router: torch.nn.Module | None = None
    scores: ScoreSource | None = None
    no_scores: str | None = None
    router_rest: tuple[Any, ...] = ()
    router_named: dict[str, Any] = field(default_factory=dict)
    router_input_ndim: int = 2
    token_places: tuple[int | str, ...] = ()
    hashed: bool = False
    remembers: bool = False
    norm: torch.nn.Module | None = None

    @property
    def signature(self) -> tuple[str, str]:
        """Names of the ids and the weights in the signature of the experts' forward."""
        return argument_names(self.experts)


def find_moe_layers(model: torch.nn.Module) -> tuple[MoELayer, ...]:
    """The MoE layers of `model`, proved by a forward pass over a few tokens.

    Raises:
        UserError: the model is dense, spread over devices, or of a family whose routing cannot be hooked.
    """
    family = family_name(model)
    adapt(model)
    experts = [(name, module) for name, module in model.named_modules() if _is_experts(module)]
    if not experts:
        raise UserError(_no_experts_sentence(model, family))
    if any(getattr(module, "_is_expert_parallel", False) for _, module in experts):
        raise UserError(f"{family} is loaded with expert parallelism; only a model in one process can be recorded")
    probe = run_probe(model, experts, family)
    if silent := [name for name, _ in experts if name not in probe.calls]:
        raise UserError(
            f"{family} cannot be hooked: its experts module {silent[0]} was not called in a probe pass over "
            f"{PROBE_TOKENS} tokens"
        )
    for name, (ids, _) in probe.calls.items():
        if getattr(ids, "ndim", 0) == 2 and len(ids) != PROBE_TOKENS:  # as of a model that writes many tokens at once
            raise UserError(
                f"{family} cannot be hooked: its experts module {name} receives {len(ids)} tokens in a pass over "
                f"{PROBE_TOKENS}, and a trace holds one choice for each token in each layer"
            )
    if probe.again:
        raise UserError(
            f"{family} cannot be hooked: one pass calls its experts module {probe.again[0]} more than once, and a "
            "trace holds one choice for each token in each layer"
        )
    layers = tuple(_layer(model, index, name, probe, family) for index, name in enumerate(probe.calls))
    return _with_routers(layers, probe)


def family_name(model: torch.nn.Module) -> str:
    """The model type of the configuration, or the class name."""
    return str(getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__)


def _is_experts(module: torch.nn.Module) -> bool:
    if hasattr(module, "_is_expert_parallel") and hasattr(module, "is_transposed"):  # set by the library's decorator
        return True
    return type(module).__name__.endswith("Experts") and len(required_arguments(module)) == 3


def _no_experts_sentence(model: torch.nn.Module, family: str) -> str:
    for name in EXPERT_COUNT_FIELDS:
        count = getattr(text_config(model), name, None)
        if isinstance(count, int) and count > 1:
            return (
                f"{family} has {count} experts per layer but cannot be hooked: it has no experts module that receives "
                "the chosen ids and weights"
            )
    return f"{family} is a dense model: none of its modules are experts, so there is no routing to record"


def _layer(model: torch.nn.Module, index: int, name: str, probe: Probe, family: str) -> MoELayer:
    experts = model.get_submodule(name)
    ids, weights = probe.calls[name]
    num_experts = _num_experts(experts, probe, ids)
    _check_routing(family, name, ids, weights, num_experts)
    chooser = first_returning(probe, ids)
    block_name = _block_name(model, name)
    return MoELayer(
        index=index,
        name=name,
        experts=experts,
        num_experts=num_experts,
        top_k=int(ids.shape[-1]),
        chooser=model.get_submodule(name.rpartition(".")[0]) if chooser is None else chooser.module,
        block=model.get_submodule(block_name),
        block_name=block_name,
    )


def _num_experts(experts: Any, probe: Probe, ids: Any) -> int:
    """Experts that have weights: as the module says, else rows of its weights, else classes of the router's scores."""
    if stated := int(getattr(experts, "num_experts", 0) or 0):
        return stated
    if rows := [parameter.shape[0] for parameter in experts.parameters(recurse=False) if parameter.ndim > 1]:
        return int(min(rows))
    chooser = first_returning(probe, ids)
    widths = (
        [] if chooser is None else [item.shape[-1] for item in _tensors(chooser.output) if item.is_floating_point()]
    )
    return max(widths, default=0)


def _tensors(output: Any) -> list[Any]:
    items = output if isinstance(output, tuple | list) else (output,)
    return [item for item in items if getattr(item, "ndim", 0) > 1]


def _with_routers(layers: tuple[MoELayer, ...], probe: Probe) -> tuple[MoELayer, ...]:
    """The layers with the router of each, if the same place in all of them has scores that give the weights."""
    if len({layer.num_experts for layer in layers}) > 1:
        return tuple(replace(layer, no_scores="its layers differ in experts") for layer in layers)
    routings = [probe.calls[layer.name] for layer in layers]
    ids, weights = stacked_choices(
        [as_numpy(chosen) for chosen, _ in routings], [as_numpy(given) for _, given in routings], layers[0].num_experts
    )
    calls = [_candidates(layer, probe) for layer in layers]
    tolerance = tolerance_of(
        *(tensor for layer in calls for call in layer.values() for tensor in _floats(call.output)),
        *(given for _, given in routings),
    )
    tried = tuple(tuple(Call(place, call.module, call.output) for place, call in layer.items()) for layer in calls)
    found = find_source(tried, ids, weights, layers[0].num_experts, tolerance)
    if found is None:
        return tuple(replace(layer, no_scores=_NOTHING_EXPLAINS) for layer in layers)
    place, source = found
    return tuple(_with_router(layer, call[place], source, probe) for layer, call in zip(layers, calls, strict=True))


_NOTHING_EXPLAINS = (
    "no module beside the experts returns scores from which a known function (softmax, sigmoid, sqrtsoftplus, "
    "sparsemixer) gives the weights that the experts received in a probe pass"
)


def _floats(output: Any) -> list[Any]:
    return [item for item in _tensors(output) if item.is_floating_point()]


def _candidates(layer: MoELayer, probe: Probe) -> dict[str, ModuleCall]:
    """Calls that may have returned the scores: that which returned the ids, then those beside the experts, by place."""
    ids, _ = probe.calls[layer.name]
    chooser = first_returning(probe, ids)
    beside = layer.name.rpartition(".")[0] + "."
    calls = {} if chooser is None else {CHOOSES: chooser}
    for call in probe.outputs:
        inside = call.name.startswith(beside) and not f"{call.name}.".startswith(f"{layer.name}.")
        if inside and any(item.shape[-1] >= layer.num_experts for item in _floats(call.output)):
            calls.setdefault(call.name.removeprefix(beside), call)
    return calls


def _with_router(layer: MoELayer, call: ModuleCall, source: ScoreSource, probe: Probe) -> MoELayer:
    state = first_tensor(call.args, call.kwargs)
    named = dict(list(call.kwargs.items())[0 if call.args else 1 :])
    places = token_places(call.args[1:], named, probe.tokens)
    return replace(
        layer,
        router=call.module,
        scores=source,
        router_rest=tuple(call.args[1:]),
        router_named=named,
        router_input_ndim=2 if state is None else state.ndim,
        token_places=places,
        remembers=_remembers(call.args[1:], named, places, layer.block),
        hashed=bool(places) and _is_hashed(call, places, probe.calls[layer.name][0]),
        norm=None if state is None else norm_of(probe, state),
    )


def _remembers(
    rest: tuple[Any, ...], named: dict[str, Any], places: tuple[int | str, ...], block: torch.nn.Module
) -> bool:
    """Whether a router's further arguments hold floating numbers for each token, which are no weights of the model."""
    kept = {tensor.data_ptr() for tensor in (*block.parameters(), *block.buffers())}
    return any(
        getattr(value, "is_floating_point", bool)() and PROBE_TOKENS in value.shape and value.data_ptr() not in kept
        for place, value in (*enumerate(rest), *named.items())
        if place not in places
    )


def _is_hashed(call: ModuleCall, places: tuple[int | str, ...], ids: torch.Tensor) -> bool:
    """Whether a router that gets the tokens' ids chooses the same experts for quite other states."""
    import torch

    state = first_tensor(call.args, call.kwargs)
    assert state is not None
    with torch.no_grad():
        other = torch.randn(state.shape, generator=torch.Generator().manual_seed(0)).to(state.device, state.dtype)
        args = (other, *call.args[1:]) if call.args else ()
        kwargs = call.kwargs if call.args else {**call.kwargs, next(iter(call.kwargs)): other}
        output = call.module.forward(*args, **kwargs)
    return any(item.shape == ids.shape and torch.equal(item, ids) for item in _tensors(output))


def _check_routing(family: str, name: str, ids: Any, weights: Any, num_experts: int) -> None:
    """The experts' arguments must be ids [T, K], some of them of experts, and weights of the same shape."""
    import torch

    fault = None
    if not (isinstance(ids, torch.Tensor) and isinstance(weights, torch.Tensor)):
        fault = "its experts do not receive tensors of ids and weights"
    elif ids.is_floating_point() or ids.ndim != 2 or weights.shape != ids.shape:
        fault = f"its experts receive ids of shape {tuple(ids.shape)} and weights of shape {tuple(weights.shape)}"
    elif num_experts < 1 or ids.shape[1] < 1 or not bool(((ids >= 0) & (ids < num_experts)).any()):
        fault = f"its experts receive ids that are none of its {num_experts} experts"
    if fault is not None:
        raise UserError(f"{family} cannot be hooked at {name}: {fault}")


def _block_name(model: torch.nn.Module, name: str) -> str:
    """The decoder layer around an experts module: its outermost ancestor that is an entry of a module list."""
    import torch

    parts = name.split(".")
    for end in range(1, len(parts)):
        parent = model.get_submodule(".".join(parts[:end]))
        if isinstance(parent, torch.nn.ModuleList):
            return ".".join(parts[: end + 1])
    return ".".join(parts[:-1])
