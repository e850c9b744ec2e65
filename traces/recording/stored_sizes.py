"""Sizes of a quantised checkpoint as its files hold them, where the loaded model has them dequantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from traces.format.header import check_header
from traces.format.trace import Geometry
from traces.recording.moe_layers import MoELayer


def stored_tensors(folder: Path) -> dict[str, int]:
    """Bytes of every tensor in a folder's safetensors files, by name. Raises: UserError naming a damaged file."""
    return {
        name: claim["data_offsets"][1] - claim["data_offsets"][0]
        for path in sorted(folder.glob("*.safetensors"))
        for name, claim in check_header(path).items()
    }


def as_stored(geometry: Geometry, layers: tuple[MoELayer, ...], stored: Mapping[str, int]) -> Geometry | None:
    """The geometry with the bytes of stored tensors; None where their names do not tell whose they are.

    A tensor belongs to the decoder layer whose last two names it has (`layers.3`), in the part of the model where that
    layer has experts; to its experts below a name that starts with `expert`, to shared ones below a name with `shared`.
    """
    experts, shared, rest, taken = [], [], [], 0
    for layer in layers:
        own = _of_layer(layer, stored)
        if own is None:
            return None
        sums = {"experts": 0, "shared": 0, "rest": 0}
        for name, size in own.items():
            sums[_kind(name)] += size
        taken += sum(sums.values())
        experts.append(sums["experts"] // layer.num_experts)
        shared.append(sums["shared"])
        rest.append(sums["rest"])
    table = sum(size for name, size in stored.items() if _is_table(name)) if _has_head(stored) else 0
    weights = sum(parameter.numel() for layer in layers for parameter in layer.experts.parameters())
    total = sum(size * layer.num_experts for size, layer in zip(experts, layers, strict=True))
    return replace(
        geometry,
        expert_bytes=tuple(experts),
        shared_bytes=tuple(shared),
        attention_bytes=tuple(rest),
        other_bytes=sum(size for name, size in stored.items() if not _is_seen(name)) - taken - table,
        weight_bits=round(8 * total / weights, 4),
    )


def _of_layer(layer: MoELayer, stored: Mapping[str, int]) -> dict[str, int] | None:
    """The stored tensors of one decoder layer by their names in it."""
    place = ".".join(layer.block_name.split(".")[-2:])
    found: dict[str, dict[str, int]] = {}
    for name, size in stored.items():
        before, here, inside = f".{name}".partition(f".{place}.")
        if here:
            found.setdefault(before, {})[inside] = size
    with_experts = [names for names in found.values() if any(_kind(name) == "experts" for name in names)]
    return with_experts[0] if len(with_experts) == 1 else None


def _kind(name: str) -> str:
    parts = name.split(".")
    if any("shared" in part for part in parts):
        return "shared"
    return "experts" if any(part.startswith("expert") for part in parts) else "rest"


def _is_table(name: str) -> bool:
    return "embed_tokens" in name or ".wte." in f".{name}"


def _has_head(stored: Mapping[str, int]) -> bool:
    """Whether the LM head is stored apart from the embedding, of which a step then reads single rows only."""
    return any("lm_head" in name for name in stored)


def _is_seen(name: str) -> bool:
    """Tensors of the part of a model that sees or hears, which a pass over text does not read."""
    return any(part in name for part in ("vision", "visual", "audio", "vit."))
