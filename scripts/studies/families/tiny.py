"""Tiny random models of every type of the installed transformers whose configuration counts experts.

Sizes are set by the names of configuration fields, so that a type that a later version adds is built too; what its
configuration needs beyond that stands in `DIFFERING`.
"""

from __future__ import annotations

import inspect
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from traces.errors import UserError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

EXPERTS, CHOSEN, VOCABULARY, CONTEXT = 8, 3, 300, 256
MOST_PARAMETERS = 4_000_000

_ATTENTION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "sliding_window": 64, "max_position_embeddings": CONTEXT, "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attn_temperature_tuning": False,
}  # fmt: skip
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16,
    "v_head_dim": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 64,
}  # fmt: skip
_RECURRENT: dict[str, Any] = {
    "mamba_d_state": 4, "mamba_dt_rank": 4, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
    "mamba_expand": 2, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1,
    "use_mamba_kernels": False, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}  # fmt: skip
_EXPERTS: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts", "experts_per_token"),
        CHOSEN,
    ),
    "intermediate_size": 48, "intermediate_size_mlp": 48, "ffn_hidden_size": 48, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24, "expert_ffn_hidden_size": 16,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "n_group": 4, "topk_group": 2, "moe_num_shared_experts": 1,
    "n_shared_experts": 1, "zero_expert_num": 2, "num_nextn_predict_layers": 0, "moe_latent_size": None,
}  # fmt: skip
SIZES = {**_ATTENTION, **_LATENT, **_RECURRENT, **_EXPERTS}
ALTERNATING = ["linear_attention", "full_attention"] * 2
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
DIFFERING: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": ALTERNATING, "layer_group_size": 2},
    "deepseek_v4": {
        "o_lora_rank": 16, "o_groups": 2, "num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 5,
        "hc_mult": 2, "sliding_window": 32, "index_topk": 8,
    },
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16, "shared_experts_intermediate_size": 24},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [16, 8]},
    "gemma4_text": {"enable_moe_block": True},
    "glm4v_moe_text": {"rope_parameters": {**ROTARY, "partial_rotary_factor": 1.0}},
    "glm5_next_text": {
        "qk_rope_head_dim": 0, "head_dim": 0, "linear_head_dim": 8, "linear_num_heads": 4, "hc_mult": 2,
    },
    "granitemoehybrid": {"layer_types": ALTERNATING, "shared_intermediate_size": 24},
    "granitemoeshared": {"shared_intermediate_size": 24},
    "hy_v4_vl_text": {"rope_parameters": ROTARY},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts_per_tok": 2,
    },
    "kimi_linear": {
        "layer_types": ALTERNATING, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "linear_head_dim": 8, "linear_num_heads": 4,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "minimax_m3_vl_text": {
        "dense_intermediate_size": 48, "shared_intermediate_size": 24, "rotary_dim": 8,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "phimoe": {"num_experts_per_tok": 2},
    "qwen4_exp_text": {
        "layer_types": ALTERNATING, "hc_count": 2, "hc_lowrank": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 8, "indexer_budget": 64, "indexer_compress_ratio": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {
    "nllb-moe": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2,
        "num_experts": EXPERTS, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT,
    },
    "switch_transformers": {
        "d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 4, "num_decoder_layers": 4,
        "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "num_experts": EXPERTS,
        "vocab_size": VOCABULARY,
    },
    "dbrx": {
        "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": CONTEXT, "vocab_size": VOCABULARY,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": EXPERTS, "moe_top_k": CHOSEN},
    },
}  # fmt: skip
"""Types whose sizes lie in other places, with all that is set of them."""
IMAGES = {
    **dict.fromkeys(("depth", "num_hidden_layers", "num_layers"), 1),
    **dict.fromkeys(("hidden_size", "intermediate_size", "out_hidden_size", "projection_dim", "text_hidden_size",
                     "vision_output_dim", "projector_input_dim", "projector_output_dim", "hidden_dim"), 32),
    **dict.fromkeys(("num_heads", "num_attention_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("d_model", "encoder_ffn_dim", "output_dim"), 32),  # of the part that hears
    **dict.fromkeys(("encoder_layers",), 1), "encoder_attention_heads": 2, "downsample_hidden_size": 16,
    "image_size": 28, "patch_size": 14, "num_position_embeddings": 16, "head_dim": 16, "global_head_dim": 16,
    "deepstack_visual_indexes": [0], "fullatt_block_indexes": [0],
}  # fmt: skip
"""Sizes of the parts of a multimodal model that see and hear, by the same rule."""
TABLES = ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "TOKEN_CLASSIFICATION")
"""The library's tables of classes that make text; a type in none of them is a part of another."""


def moe_types() -> list[str]:
    """Every model type of the installed transformers that makes text and whose configuration has experts."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    types = []
    whole = set().union(*(getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}) for table in TABLES))
    for name in sorted(whole & set(CONFIG_MAPPING.keys())):
        try:
            kind = CONFIG_MAPPING[name]
        except (ImportError, AttributeError):  # of a library that is not here
            continue
        parts = [kind, *getattr(kind, "sub_configs", {}).values()]
        if any(any("expert" in field for field in _fields(part)) for part in parts) or name in WHOLE:
            types.append(name)
    return types


def tiny_model(model_type: str, seed: int = 0, **sizes: Any) -> Any:
    """A random model of one type in evaluation mode, float32, its routers and biases spread out; `sizes`: set besides.

    Raises: UserError for a type that stays large; whatever the library raises where it cannot be built.
    """
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = CONFIG_MAPPING[model_type](**(_values(CONFIG_MAPPING[model_type], model_type) | sizes))
    build, size = _model_class(config), 0
    with torch.device("meta"), suppress(RuntimeError):  # takes no memory; some classes compute while they are built
        size = sum(parameter.numel() for parameter in build._from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise UserError(f"{model_type} has {size} parameters even so: name its sizes in DIFFERING")
    torch.manual_seed(seed)
    model: Any = build._from_config(config)
    _spread(model, seed)
    return model.float().eval()


def save_tiny(model: Any, folder: Path) -> Path:
    """Write a tiny model to a folder as save_pretrained does, with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={"<end>": 0, **{c: i for i, c in enumerate(letters, 1)}}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    return folder


def _model_class(config: Any) -> Any:
    """The class that the library's own tables name for a configuration, the first that makes text."""
    import transformers
    from transformers.models.auto import modeling_auto

    for table in TABLES if config.sub_configs else sorted(TABLES):
        name = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}).get(config.model_type)
        if name is not None:
            return getattr(transformers, name)
    return getattr(transformers, str(modeling_auto.MODEL_MAPPING_NAMES[config.model_type]))


def _fields(config_class: Any) -> set[str]:
    """Names that a configuration class takes, its other names for them included."""
    names = set(getattr(config_class, "attribute_map", {}))
    for parent in config_class.__mro__:
        names |= set(inspect.get_annotations(parent))
    return names


def _values(config_class: Any, model_type: str) -> dict[str, Any]:
    """What a tiny configuration sets."""
    if model_type in WHOLE:
        return WHOLE[model_type]
    known = _fields(config_class)
    values = {name: value for name, value in SIZES.items() if name in known}
    if "kv_lora_rank" in known:
        values["num_key_value_heads"] = values["num_attention_heads"]
    values |= DIFFERING.get(model_type, {})
    for other, name in getattr(config_class, "attribute_map", {}).items():
        if other in values and name in values and other != name:
            del values[other]
    parts = getattr(config_class, "sub_configs", {})
    default = config_class() if parts else None  # its parts have a class of their own where the table says "any"
    for name in parts:
        inner = _part_values(name, type(getattr(default, name)))
        if inner is not None:
            values[name] = inner
    return values


def _part_values(name: str, part: Any) -> Any:
    """The configuration of one part of a multimodal model, as a dictionary."""
    kind = getattr(part, "model_type", "")
    if kind == "":
        return None
    if "text" in name or "thinker" in name or "llm" in name:
        return part(**_values(part, kind)).to_dict()
    if "vision" in name or "audio" in name:
        known = _fields(part)
        return part(**{field: value for field, value in IMAGES.items() if field in known}).to_dict()
    return None


def _spread(model: Any, seed: int) -> None:
    """Give routers, biases and scales values that decide, where the library starts them equal or leaves them unset."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Any, size: float) -> Any:
        return size * torch.randn(tensor.shape, generator=generator)

    routers = tuple(
        f"{part}.weight"
        for part in ("gate", "router", "router.proj", "router.layer", "router.classifier", "gate.wg", "out_proj")
    )
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("tid2eid"):  # ids of experts by token
                rows = [torch.randperm(EXPERTS, generator=generator)[: tensor.shape[1]] for _ in range(len(tensor))]
                tensor.copy_(torch.stack(rows))
            elif not tensor.is_floating_point() or not tensor.numel():
                continue
            elif any(part in name for part in ("correction_bias", "expert_bias", "moe_statics", "balancing_bias")):
                tensor.copy_(normal(tensor, 0.3))
            elif name.endswith(("per_expert_scale", "router.scale")):
                tensor.copy_(normal(tensor, 0.5).abs() + 0.1)
            elif name.endswith(routers) and EXPERTS <= tensor.shape[0] <= EXPERTS + 2:
                tensor.copy_(normal(tensor, 0.5))
            elif not torch.isfinite(tensor).all() or (tensor.ndim >= 2 and float(tensor.std()) == 0):
                tensor.copy_(normal(tensor, 0.1))
