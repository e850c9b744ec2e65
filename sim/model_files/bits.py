"""Stored bits of a model's parts by its `quantization_config`: which tensors, how many bits each."""

from __future__ import annotations

import re
from typing import Any

from sim.model_files.values import Values
from traces.errors import UserError

KNOWN = {"mxfp4": 4.25, "fp8": 8.0, "fbgemm_fp8": 8.0}
"""Method -> bits of a weight with the scale of its block; that of fp8, for 128 x 128 weights or a row, is left out."""
PARTS = {
    "weight_bits": ("mlp.experts.0.up_proj", "mlp.experts", "feed_forward.experts.down_proj"),
    "attention_bits": ("self_attn.q_proj", "self_attn.o_proj", "self_attn"),
    "shared_bits": ("mlp.shared_experts.up_proj", "mlp.shared_expert.up_proj", "feed_forward.shared_expert.up_proj"),
    "dense_bits": ("mlp.up_proj", "mlp.down_proj", "feed_forward.up_proj"),
}
"""Field of the dimensions -> modules that stand for it, below a decoder layer; one that is kept keeps the part."""


def stored_bits(values: Values, middle: int) -> dict[str, float | None]:
    """Bits of expert matrices, of attention, shared experts and dense blocks, and of the rest; K and V as the rest.

    ``middle``: a layer with experts, which stands for all of them in lists of what is not quantised.

    Raises: UserError where the bits of a method are not known.
    """
    stored = values.config.get("torch_dtype") or values.config.get("dtype") or "bfloat16"
    other = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}.get(str(stored).removeprefix("torch."))
    if other is None:
        raise UserError(f"torch_dtype={stored!r}: must be float32, bfloat16 or float16")
    quantised = values.config.get("quantization_config") or values.config.get("compression_config")
    if not isinstance(quantised, dict):
        return {"weight_bits": other, "other_bits": other}
    method = str(quantised.get("quant_method"))
    bits = _bits(method, quantised)
    kept = [*_patterns(quantised, "modules_to_not_convert"), *_patterns(quantised, "ignore")]
    kept += _patterns(quantised, "ignored_layers")
    if method == "mxfp4":  # experts alone
        return {"weight_bits": bits, "other_bits": other}
    found: dict[str, float | None] = {"other_bits": other}
    for field, modules in PARTS.items():
        names = [f"model.layers.{middle}.{module}" for module in modules]
        if field == "weight_bits" and "fp4" in (quantised.get("expert_dtype"), values.config.get("expert_dtype")):
            found[field] = KNOWN["mxfp4"]
            continue
        found[field] = other if any(_matches(pattern, name) for pattern in kept for name in names) else bits
    return found


def _bits(method: str, quantised: dict[str, Any]) -> float:
    """Bits of a quantised weight, scales and zero points of a group included."""
    if method in KNOWN:
        return KNOWN[method]
    if method in ("gptq", "awq"):
        bits, group = quantised.get("bits", quantised.get("w_bit")), quantised.get("group_size", 128)
        if type(bits) is int and type(group) is int and 0 < bits <= 16 and group > 0:
            return bits + (16 + bits) / group
    groups = quantised.get("config_groups")
    if method == "compressed-tensors" and isinstance(groups, dict):
        forms: list[Any] = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        if forms and isinstance(forms[0], dict) and all(form == forms[0] for form in forms):
            bits, group = forms[0].get("num_bits"), forms[0].get("group_size")
            scale = 8 if forms[0].get("type") == "float" and bits == 4 else 16  # nvfp4, mxfp4: one byte
            if type(bits) is int and 0 < bits <= 16 and (group is None or (type(group) is int and group > 0)):
                return bits + (scale / group if group else 0.0)
    raise UserError(
        f"quantization_config has quant_method={method[:60]!r}: sizes are known of {', '.join(KNOWN)}, of gptq and awq "
        "with bits and group_size, and of compressed-tensors whose groups have one form of weights"
    )


def _patterns(quantised: dict[str, Any], name: str) -> list[str]:
    value = quantised.get(name)
    return [word for word in value if isinstance(word, str) and len(word) < 200] if isinstance(value, list) else []


def _matches(pattern: str, name: str) -> bool:
    """Whether a module is named by an entry of a list: a regular expression after `re:`, else a part of its name."""
    if pattern.startswith("re:"):
        return _matches_expression(pattern[3:], name)
    plain = pattern.removeprefix("language_model.").replace("model.language_model.", "model.")
    return plain == name or f".{plain.removeprefix('model.')}." in f".{name}."


def _matches_expression(expression: str, name: str) -> bool:
    """`re.match` of the simple expressions that such lists hold; those of a stranger may take for ever.

    Raises: UserError for one of more than names, `.*`, `(a|b)` and an end.
    """
    parts = [_alternatives(part) for part in expression.removeprefix("^").removesuffix("$").split(".*")]
    at = 0
    for index, words in enumerate(parts):
        last = index == len(parts) - 1 and expression.endswith("$")
        if index == 0:
            ends = [len(word) for word in words if name.startswith(word)]
        elif last:
            ends = [len(name) for word in words if name.endswith(word) and len(name) - len(word) >= at]
        else:
            ends = [place + len(word) for word in words if (place := name.find(word, at)) >= 0]
        if not ends or (last and max(ends) != len(name)):
            return False
        at = min(ends)
    return True


def _alternatives(part: str) -> list[str]:
    """The texts that a piece between two `.*` stands for."""
    found = _PIECE.fullmatch(part.replace(r"\.", "\0"))
    if found is None:
        raise UserError(f"quantization_config leaves out {part[:60]!r}: only names, .*, and one (a|b) are understood")
    middle = found[2].split("|") if found[2] is not None else [""]
    return [f"{found[1]}{word}{found[3] or ''}".replace("\0", ".") for word in middle]


_PIECE = re.compile("([\\w\0.-]*)(?:\\(([\\w\0.|-]*)\\)([\\w\0.-]*))?")
