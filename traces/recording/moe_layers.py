"""Finds the MoE layers of a loaded Hugging Face model by looking at its modules, and proves them by a probe pass.

Nothing here trusts the configuration. An experts module is one whose forward takes (hidden states, chosen ids,
weights): the library marks most of them, others carry the name. One short forward pass then shows which are called, in
which order, what their router is (the module that returns the very tensor the experts receive as ids) and which norm
feeds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traces.errors import UserError
from traces.recording.moe_probe import (
    PROBE_TOKENS,
    Probe,
    argument_names,
    first_returning,
    first_tensor,
    norm_of,
    required_arguments,
    run_probe,
    text_config,
)

if TYPE_CHECKING:
    import torch

# Configuration fields that tell a dense model from an MoE model that has no hookable experts module.
EXPERT_COUNT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class MoELayer:
    """One MoE layer as the probe saw it; `index` counts MoE layers in the order in which they run.

    `router` is None where the ids are chosen outside any module; `norm` is None where no module's output is the
    router's input. `router_rest` are the router's further arguments (a bias, in some families). `block` is the whole
    decoder layer.
    """

    index: int
    name: str
    experts: torch.nn.Module
    num_experts: int
    top_k: int
    router: torch.nn.Module | None
    router_name: str | None
    router_rest: tuple[Any, ...]
    router_input_ndim: int
    block: torch.nn.Module
    block_name: str
    norm: torch.nn.Module | None

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
    return tuple(_layer(model, index, name, probe, family) for index, name in enumerate(probe.calls))


def family_name(model: torch.nn.Module) -> str:
    """The model type of the configuration, or the class name."""
    return str(getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__)


def _is_experts(module: torch.nn.Module) -> bool:
    if hasattr(module, "_is_expert_parallel") and hasattr(module, "is_transposed"):  # set by the library's decorator
        return True
    return type(module).__name__.endswith("Experts") and len(required_arguments(module)) == 3


def _no_experts_sentence(model: torch.nn.Module, family: str) -> str:
    for field in EXPERT_COUNT_FIELDS:
        count = getattr(text_config(model), field, None)
        if isinstance(count, int) and count > 1:
            return (
                f"{family} has {count} experts per layer but cannot be hooked: it has no experts module that receives "
                "the chosen ids and weights"
            )
    return f"{family} is a dense model: none of its modules are experts, so there is no routing to record"


def _layer(model: torch.nn.Module, index: int, name: str, probe: Probe, family: str) -> MoELayer:
    experts = model.get_submodule(name)
    ids, weights = probe.calls[name]
    router_call = first_returning(probe, ids)
    logits = None if router_call is None else router_logits_of(router_call[4], ids)
    num_experts = int(getattr(experts, "num_experts", 0) or (0 if logits is None else logits.shape[-1]))
    _check_routing(family, name, ids, weights, num_experts)
    if logits is not None and logits.shape[-1] != num_experts:
        router_call = None  # more classes than experts: its scores are not scores of these experts
    router_input = None if router_call is None else first_tensor(router_call[2], router_call[3])
    block_name = _block_name(model, name)
    return MoELayer(
        index=index,
        name=name,
        experts=experts,
        num_experts=num_experts,
        top_k=int(ids.shape[-1]),
        router=None if router_call is None else router_call[1],
        router_name=None if router_call is None else router_call[0],
        router_rest=() if router_call is None else tuple(router_call[2][1:]),
        router_input_ndim=2 if router_input is None else router_input.ndim,
        block=model.get_submodule(block_name),
        block_name=block_name,
        norm=None if router_input is None else norm_of(probe, router_input),
    )


def router_logits_of(output: Any, ids: torch.Tensor) -> torch.Tensor | None:
    """Logits [T, E] out of a router's output: its first floating tensor with a row for each of ids, wider than them."""
    for item in output if isinstance(output, tuple | list) else ():
        if getattr(item, "is_floating_point", bool)() and item.shape[-1] > ids.shape[-1]:
            flat: torch.Tensor = item.reshape(-1, item.shape[-1])
            if flat.shape[0] == ids.reshape(-1, ids.shape[-1]).shape[0]:
                return flat
    return None


def _check_routing(family: str, name: str, ids: Any, weights: Any, num_experts: int) -> None:
    """The experts' arguments must be ids [T, K] of different experts and weights of the same shape."""
    import torch

    fault = None
    if not (isinstance(ids, torch.Tensor) and isinstance(weights, torch.Tensor)):
        fault = "its experts do not receive tensors of ids and weights"
    elif ids.is_floating_point() or ids.ndim != 2 or weights.shape != ids.shape:
        fault = f"its experts receive ids of shape {tuple(ids.shape)} and weights of shape {tuple(weights.shape)}"
    elif not 1 <= ids.shape[1] <= num_experts or int(ids.min()) < 0 or int(ids.max()) >= num_experts:
        fault = f"its experts receive ids outside 0 to {num_experts - 1}"
    elif ids.shape[1] > 1 and bool((ids.sort(dim=-1).values.diff(dim=-1) == 0).any()):
        fault = "one token receives the same expert twice"
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
