"""One short forward pass through a model, to see which modules are called with what, before any is hooked."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from traces.errors import UserError

if TYPE_CHECKING:
    import torch

PROBE_TOKENS = 8


def routing_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and weights out of the arguments of an experts call, given by position or by name."""
    ids = args[1] if len(args) > 1 else kwargs[names[0]]
    weights = args[2] if len(args) > 2 else kwargs[names[1]]
    return ids, weights


def required_arguments(module: torch.nn.Module) -> list[str]:
    """Names that `module.forward` takes by position."""
    parameters = inspect.signature(module.forward).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def argument_names(module: torch.nn.Module) -> tuple[str, str]:
    """Names of the ids and the weights in the signature of an experts module."""
    names = required_arguments(module)
    return (names[1], names[2]) if len(names) >= 3 else ("top_k_index", "top_k_weights")


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module: what it was given and what it returned."""

    name: str
    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(slots=True)
class Probe:
    """What one forward pass showed; every tensor is kept alive so that no address is used twice."""

    tokens: torch.Tensor
    calls: dict[str, tuple[torch.Tensor, torch.Tensor]]  # experts name -> ids, weights, in order of the calls
    outputs: list[ModuleCall]
    again: list[str] = field(default_factory=list)  # experts that one pass calls more than once


def run_probe(model: torch.nn.Module, experts: list[tuple[str, torch.nn.Module]], family: str) -> Probe:
    """Run `model` over a few tokens and note every module's call; `experts` are the experts modules.

    Raises: UserError if the pass fails, naming the family.
    """
    import torch

    probe = Probe(probe_tokens(model), {}, [])
    handles = []

    def on_experts(name: str, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in probe.calls:
            probe.again.append(name)
        probe.calls.setdefault(name, routing_arguments(args, kwargs, argument_names(module)))

    def on_output(name: str, *call: Any) -> None:
        probe.outputs.append(ModuleCall(name, *call))

    for name, module in experts:
        handles.append(module.register_forward_pre_hook(partial(on_experts, name), with_kwargs=True))
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(partial(on_output, name), with_kwargs=True))
    try:
        with torch.no_grad():
            model(input_ids=probe.tokens)
    except Exception as error:  # of the model's own code
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise UserError(f"{family} cannot be hooked: a probe pass over text failed ({reason})") from error
    finally:
        for handle in handles:
            handle.remove()
    return probe


def text_config(model: torch.nn.Module) -> Any:
    """The configuration of a model's language part; None where it has none."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def probe_tokens(model: torch.nn.Module) -> torch.Tensor:
    """A few valid token ids [1, n] on the model's device."""
    import torch

    vocab_size = int(getattr(text_config(model), "vocab_size", 0) or PROBE_TOKENS)
    return (torch.arange(1, PROBE_TOKENS + 1, device=input_device(model)) % vocab_size)[None]


def input_device(model: torch.nn.Module) -> torch.device:
    """Where a model's inputs go: to its first parameter that is in memory, since some may be on disk."""
    import torch

    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def first_returning(probe: Probe, ids: torch.Tensor) -> ModuleCall | None:
    """The innermost call whose output tuple holds the very tensor `ids`."""
    for call in probe.outputs:
        items = call.output if isinstance(call.output, tuple | list) else ()
        if any(_same_memory(item, ids) for item in items):
            return call
    return None


def norm_of(probe: Probe, router_input: torch.Tensor) -> torch.nn.Module | None:
    """The module that made the router's input, if it takes one tensor of that size; None for a bare residual."""
    for call in probe.outputs:
        if _same_memory(call.output, router_input):
            source = first_tensor(call.args, call.kwargs)
            if source is not None and source.numel() == router_input.numel() and not _same_memory(source, router_input):
                return call.module
            return None
    return None


def token_places(rest: tuple[Any, ...], named: dict[str, Any], tokens: torch.Tensor) -> tuple[int | str, ...]:
    """Places and names among a router's further arguments at which it gets the ids of the tokens."""
    import torch

    given: list[tuple[int | str, Any]] = [*enumerate(rest), *named.items()]
    return tuple(
        place
        for place, value in given
        if isinstance(value, torch.Tensor)
        and not value.is_floating_point()
        and value.numel() == tokens.numel()
        and torch.equal(value.reshape(-1).to(tokens), tokens.reshape(-1))
    )


def _same_memory(a: Any, b: Any) -> bool:
    import torch

    return (
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and a.numel() == b.numel()
        and a.dtype == b.dtype
        and a.data_ptr() == b.data_ptr()
    )


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The first tensor among the arguments of a call."""
    import torch

    return next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
