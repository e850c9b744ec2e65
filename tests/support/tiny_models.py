"""Small random models of many families, and a byte tokenizer, saved as ordinary Hugging Face folders."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

VOCAB = 300
EXPERTS = 8
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.0,
}
# Configuration class -> what differs from SMALL.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": EXPERTS, "num_experts_per_tok": 3}),
    "olmoe": ("OlmoeConfig", {"num_experts": EXPERTS, "num_experts_per_tok": 3}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            "norm_topk_prob": True,
            "head_dim": 8,
        },
    ),
    "deepseek_v2": ("DeepseekV2Config", {**LATENT, "topk_method": "group_limited_greedy", "n_shared_experts": 1}),
    "deepseek_v3": ("DeepseekV3Config", {**LATENT, "n_shared_experts": 1}),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": EXPERTS, "num_experts_per_tok": 3, "head_dim": 8, "layer_types": ["full_attention"] * 3},
    ),
    "granitemoe": ("GraniteMoeConfig", {"num_local_experts": EXPERTS, "num_experts_per_tok": 3}),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": EXPERTS, "moe_k": 3, "moe_intermediate_size": 16, "moe_num_shared_experts": 1},
    ),
    "jamba": (
        "JambaConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
}


def build(family: str, seed: int = 0) -> Any:
    """A random model of one family whose routers and correction biases are spread out."""
    import torch
    import transformers

    name, differing = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, name)(**{**SMALL, **differing})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter_name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if "correction_bias" in parameter_name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            elif parameter_name.endswith(("gate.weight", "router.weight")):
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.eval()


def save_model(model: Any, folder: Path, tokenizer: bool = True) -> Path:
    """Write `model` to `folder` as save_pretrained does, with a byte tokenizer."""
    model.save_pretrained(folder)
    if tokenizer:
        byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> Any:
    """One token per byte, ids 1 to 256; 0 is the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{character: index for index, character in enumerate(alphabet, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
