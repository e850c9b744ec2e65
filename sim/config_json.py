"""Sizes of a model from its own `config.json`, for `model=FOLDER` and `model=config.json`.

It names the same things in many ways; what a name means here is what the model's code in transformers does with it.
What cannot be read off for certain is refused: layers without a KV cache of their own kind (state space, linear
attention, convolutions), experts of another shape, an unknown quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traces.errors import UserError
from traces.special_files import require_regular
from traces.whole_input import read_json_value

MOST_LAYERS, MOST = 65535, 2**40
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "num_activated_experts")
EXPERT_FFN = ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_hidden_dim", "intermediate_size")
SHARED_COUNT = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size")
OTHER_LAYERS = ("mamba", "ssm", "conv_", "linear_num", "linear_key", "rwkv", "lru_width", "attn_layer_", "hybrid_")
"""Beginnings of names that say that some layers are no attention."""
PLAIN_KINDS = ("full_attention", "sliding_attention", "chunked_attention")


def read_config_json(path: Path) -> dict[str, Any]:
    """Fields of `sim.machine.model.Dimensions` of the model in a folder, or of a `config.json` itself.

    Raises: UserError naming the file and what it lacks, or what these sizes cannot express.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(f"model={path}: {file} does not exist: must be a folder with a config.json, or such a file")
    require_regular(file)
    content = read_json_value(file, f"model={path}: the file")
    if not isinstance(content, dict):
        raise UserError(f"model={path}: {file} must hold names and values")
    inner = content.get("text_config")
    config = content | inner if isinstance(inner, dict) else content
    try:
        found = Reader(config).dimensions()
    except UserError as error:
        raise UserError(f"model={path}: {file.name}: {error}") from error
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return {"name": name, "source": f"its {file.name}"} | found


class Reader:
    """Reads one configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.lists: dict[str, frozenset[int]] = {}

    def dimensions(self) -> dict[str, Any]:
        """All fields but name and source."""
        self._refuse_other_layers()
        hidden, experts = self._needed("hidden_size"), self._needed(*EXPERTS)
        expert_ffn, layers = self._needed(*EXPERT_FFN), self._needed("num_hidden_layers", most=MOST_LAYERS)
        routed = sum(self._routes(layer) for layer in range(layers))
        if routed == 0:
            raise UserError("no layer has routed experts")
        dense = layers - routed
        if dense and not any(self.config.get(name) for name in EXPERT_FFN[:-1]):
            raise UserError(
                "intermediate_size may be that of dense layers or of experts: moe_intermediate_size is not set"
            )
        found = {"hidden_size": hidden, "num_layers": routed, "num_experts": experts, "top_k": self._needed(*TOP_K)}
        found |= {"expert_ffn": expert_ffn, "vocab_size": self._needed("vocab_size")}
        found |= {"dense_layers": dense, "dense_ffn": self._needed("intermediate_size") if dense else 0}
        found |= {"tied": bool(self.config.get("tie_word_embeddings", False))}
        return found | self._shared(hidden, expert_ffn) | self._attention(hidden) | self._bits()

    def _given(self, *names: str, most: int = MOST) -> int | None:
        """The first of some names that has a value: a whole number."""
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise UserError(f"{name}={value!r}: must be a whole number from 0 to {most}")
            return value
        return None

    def _needed(self, *names: str, most: int = MOST) -> int:
        value = self._given(*names, most=most)
        if not value:
            raise UserError(f"{names[0]} is not set" + (f" (nor {', '.join(names[1:])})" if names[1:] else ""))
        return value

    def _refuse_other_layers(self) -> None:
        kinds = self.config.get("layer_types") or self.config.get("layers_block_type") or ()
        names = [str(kind) for kind in kinds] if isinstance(kinds, Sequence) and not isinstance(kinds, str) else []
        other = sorted({name for name in names if name not in PLAIN_KINDS})
        if not names:
            other = sorted(name for name, value in self.config.items() if name.startswith(OTHER_LAYERS) and value)
        if other:
            raise UserError(
                f"{other[0]}: some layers are no attention, whose sizes and caches cannot be read off here; "
                "write a file as conf/model/qwen3_5_35b_a3b_q4.yaml and name it"
            )

    def _routes(self, layer: int) -> bool:
        """Whether a layer has routed experts."""
        plan = self.config.get("moe_layer_freq")
        if isinstance(plan, list):
            return layer < len(plan) and bool(plan[layer])
        if layer < (self._given("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers") or 0):
            return False
        last = self._given("moe_layer_end_index")
        if last is not None and layer > last:
            return False
        if layer in self._listed("mlp_only_layers"):
            return False
        listed = self._listed("moe_layers")
        if listed:
            return layer in listed
        step = self._given("decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step", "moe_layer_freq")
        return not step or (layer + 1) % step == 0

    def _listed(self, name: str) -> frozenset[int]:
        """The layers that a list names; once, since every layer asks."""
        if name not in self.lists:
            value = self.config.get(name)
            values = value if isinstance(value, list) else []
            self.lists[name] = frozenset(number for number in values if isinstance(number, int))
        return self.lists[name]

    def _shared(self, hidden: int, expert_ffn: int) -> dict[str, int]:
        count, width = self._given(*SHARED_COUNT), self._given(*SHARED_WIDTH)
        gate = hidden if str(self.config.get("model_type")) in ("qwen2_moe", "qwen3_next") and width else 0
        return {"shared_ffn": width if width else (count or 0) * expert_ffn, "shared_gate": gate}

    def _attention(self, hidden: int) -> dict[str, int]:
        """Heads; multi-head latent attention is written as one head with what it caches, the rest as extra numbers."""
        heads = self._needed("num_attention_heads", "num_heads")
        latent = self._given("kv_lora_rank")
        if latent:
            rope, nope = self._needed("qk_rope_head_dim"), self._needed("qk_nope_head_dim")
            value, query = self._needed("v_head_dim"), self._given("q_lora_rank")
            width = heads * (rope + nope)
            numbers = hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden
            numbers += hidden * query + query * width if query else hidden * width
            cached = latent + rope
            if cached % 2:
                raise UserError(f"kv_lora_rank={latent} and qk_rope_head_dim={rope}: must have an even sum")
            extra = numbers + 2 * hidden + latent + (query or 0) - 4 * hidden * (cached // 2)
            return {"num_heads": 1, "num_kv_heads": 1, "head_dim": cached // 2, "attention_extra": extra}
        key_heads = self._given("num_key_value_heads") or heads
        width = self._given("head_dim") or hidden // heads
        extra = 2 * hidden + ((heads + 2 * key_heads) * width if self.config.get("attention_bias") else 0)
        return {"num_heads": heads, "num_kv_heads": key_heads, "head_dim": width, "attention_extra": extra}

    def _bits(self) -> dict[str, float]:
        """Stored bits: of expert matrices, and of the rest; scales and zero points of a group included."""
        stored = self.config.get("torch_dtype") or self.config.get("dtype") or "bfloat16"
        other = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}.get(str(stored).removeprefix("torch."))
        if other is None:
            raise UserError(f"torch_dtype={stored!r}: must be float32, bfloat16 or float16")
        quantised = self.config.get("quantization_config")
        if not isinstance(quantised, dict):
            return {"weight_bits": other, "other_bits": other}
        method = str(quantised.get("quant_method"))
        if method in ("gptq", "awq"):
            bits, group = quantised.get("bits", quantised.get("w_bit")), quantised.get("group_size", 128)
            if isinstance(bits, int) and isinstance(group, int) and 0 < bits <= 16 and group > 0:
                return {"weight_bits": bits + (16 + bits) / group, "other_bits": other}
        known = {"mxfp4": 4.25, "fp8": 8.0}
        if method not in known:
            raise UserError(
                f"quantization_config has quant_method={method!r}: sizes are known of {', '.join(known)}, and of "
                "gptq and awq with bits and group_size"
            )
        return {"weight_bits": known[method], "other_bits": other}
