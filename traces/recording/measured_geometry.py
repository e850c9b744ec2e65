"""Sizes of a loaded model, counted from its own parameters and cache rather than computed from its configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from traces.format.trace import Geometry
from traces.recording.moe_layers import MoELayer
from traces.recording.moe_probe import probe_tokens, text_config

if TYPE_CHECKING:
    import torch


def measure_geometry(model: torch.nn.Module, layers: tuple[MoELayer, ...], name: str) -> Geometry:
    """Geometry of `model`, whose MoE layers are `layers`, in the dtype in which it is loaded."""
    expert_bytes = tuple(_expert_bytes(layer) for layer in layers)
    read_bytes = _bytes(model.parameters()) - _unread_bytes(model, layers)
    shared_bytes = tuple(_bytes(_shared_parameters(layer)) for layer in layers)
    block_bytes = tuple(_bytes(layer.block.parameters()) for layer in layers)
    routed_bytes = tuple(_bytes(layer.experts.parameters()) for layer in layers)
    return Geometry(
        model=name,
        num_layers=len(layers),
        num_experts=layers[0].num_experts,
        top_k=max(layer.top_k for layer in layers),
        expert_bytes=expert_bytes,
        attention_bytes=tuple(
            block - routed - shared
            for block, routed, shared in zip(block_bytes, routed_bytes, shared_bytes, strict=True)
        ),
        shared_bytes=shared_bytes,
        other_bytes=read_bytes - sum(block_bytes) - _table_only_bytes(model),
        kv_bytes_per_token=_kv_bytes_per_token(model, len(layers)),
        hidden_size=getattr(text_config(model), "hidden_size", None),
        weight_bits=_weight_bits(layers),
    )


def _bytes(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _expert_bytes(layer: MoELayer) -> int:
    """Bytes of one expert: every parameter with one row per expert gives one row, else an equal share of all."""
    parameters = list(layer.experts.parameters(recurse=False))
    if parameters and all(parameter.shape[:1] == (layer.num_experts,) for parameter in parameters):
        return sum(parameter[0].numel() * parameter.element_size() for parameter in parameters)
    return _bytes(layer.experts.parameters()) // layer.num_experts


def _shared_parameters(layer: MoELayer) -> list[torch.nn.Parameter]:
    """Parameters of the decoder layer below a module named shared: shared_expert, shared_experts, shared_mlp."""
    return [
        parameter
        for name, parameter in layer.block.named_parameters()
        if any("shared" in part for part in name.split("."))
    ]


def _table_only_bytes(model: Any) -> int:
    """Bytes of an input embedding that is not also the LM head: only single rows of it are read in a step."""
    table = model.get_input_embeddings()
    head = model.get_output_embeddings()
    if table is None or (head is not None and head.weight is table.weight):
        return 0
    return _bytes(table.parameters())


def _unread_bytes(model: torch.nn.Module, layers: tuple[MoELayer, ...]) -> int:
    """Bytes outside of the MoE blocks of modules that a pass over text never calls, as what sees or hears."""
    import torch

    called: set[int] = set()
    handles = [module.register_forward_hook(lambda module, *_: called.add(id(module))) for module in model.modules()]
    try:
        with torch.no_grad():
            model(input_ids=probe_tokens(model))
    finally:
        for handle in handles:
            handle.remove()
    blocks = {id(layer.block) for layer in layers}

    def unread(module: torch.nn.Module) -> int:
        if id(module) in blocks:
            return 0
        if not any(id(part) in called for part in module.modules()):
            return _bytes(module.parameters())
        return sum(unread(child) for child in module.children())

    return unread(model)


def _weight_bits(layers: tuple[MoELayer, ...]) -> float:
    parameters = [parameter for layer in layers for parameter in layer.experts.parameters()]
    return 8 * _bytes(parameters) / sum(parameter.numel() for parameter in parameters)


def _kv_bytes_per_token(model: Any, moe_layers: int) -> int | None:
    """K and V of one token over all layers for each MoE layer, from the cache of a short pass; None if it has none.

    Layers that keep a state (Mamba, linear attention, convolutions) have no K and V. Of latent attention the latent is
    counted, which runtimes cache, not the keys and values of all heads that transformers keeps.
    """
    import torch

    tokens = probe_tokens(model)
    with torch.no_grad():
        cache = model(input_ids=tokens, use_cache=True).past_key_values
    entries = getattr(cache, "layers", None)
    if entries is None:
        return None
    latent = _latent_numbers(text_config(model))
    total = 0.0
    for entry in entries:
        held = [tensor for part in ("keys", "values") if (tensor := _per_token(entry, part)) is not None]
        if not held:
            continue
        each = sum(tensor.numel() * tensor.element_size() / tensor.shape[-2] for tensor in held) / tokens.shape[0]
        total += min(each, latent * held[0].element_size()) if latent else each
    return round(total / moe_layers)


def _per_token(entry: Any, part: str) -> torch.Tensor | None:
    """K or V of one layer, [..., tokens, width]; None for a layer without."""
    import torch

    tensor = getattr(entry, part, None)
    return tensor if isinstance(tensor, torch.Tensor) and tensor.ndim >= 3 and tensor.numel() else None


def _latent_numbers(config: Any) -> int:
    """Numbers that multi-head latent attention caches of a token in a layer; 0 for other kinds."""
    latent = getattr(config, "kv_lora_rank", None)
    return int(latent + (getattr(config, "qk_rope_head_dim", None) or 0)) if latent else 0
