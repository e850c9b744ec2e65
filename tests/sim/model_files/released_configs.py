"""What the `config.json` of released models says of sizes; sources stand in their files of conf/model."""

from typing import Any

LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_next_80b_a3b": {
        "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_experts": 512,
        "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "intermediate_size": 5120, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128, "full_attention_interval": 4,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151936, "tie_word_embeddings": False,
    },
    "qwen3_5_397b_a17b": {
        "model_type": "qwen3_5_moe", "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_5_moe_text", "hidden_size": 4096, "num_hidden_layers": 60, "num_experts": 512,
            "num_experts_per_tok": 10, "moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 64,
            "linear_value_head_dim": 128, "full_attention_interval": 4, "vocab_size": 248320,
        },
    },
    "glm_4_7_flash": {
        "model_type": "glm4_moe_lite", "hidden_size": 2048, "num_hidden_layers": 47, "n_routed_experts": 64,
        "n_shared_experts": 1, "num_experts_per_tok": 4, "moe_intermediate_size": 1536, "intermediate_size": 10240,
        "first_k_dense_replace": 1, "num_attention_heads": 20, "num_key_value_heads": 20, "q_lora_rank": 768,
        "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "vocab_size": 154880,
        "tie_word_embeddings": False,
    },
    "glm_5": {
        "model_type": "glm_moe_dsa", "hidden_size": 6144, "num_hidden_layers": 78, "n_routed_experts": 256,
        "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "intermediate_size": 12288,
        "first_k_dense_replace": 3, "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 2048,
        "kv_lora_rank": 512, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "vocab_size": 154880,
        "index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048, "tie_word_embeddings": False,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "intermediate_size": 18432, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
        "moe_layer_freq": 1, "vocab_size": 129280, "tie_word_embeddings": False, "quantization_config": FP8, **LATENT,
    },
    "deepseek_v3_2": {
        "model_type": "deepseek_v32", "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "intermediate_size": 18432, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
        "moe_layer_freq": 1, "vocab_size": 129280, "tie_word_embeddings": False, "quantization_config": FP8,
        "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, **LATENT,
    },
    "kimi_k2": {
        "model_type": "kimi_k2", "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 1,
        "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
        "intermediate_size": 18432, "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1536,
        "moe_layer_freq": 1, "vocab_size": 163840, "tie_word_embeddings": False, "quantization_config": FP8, **LATENT,
    },
    "deepseek_v4_flash": {
        "model_type": "deepseek_v4", "hidden_size": 4096, "num_hidden_layers": 43, "n_routed_experts": 256,
        "n_shared_experts": 1, "num_experts_per_tok": 6, "moe_intermediate_size": 2048, "num_attention_heads": 64,
        "num_key_value_heads": 1, "head_dim": 512, "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8,
        "layer_types": ["heavily_compressed_attention"] * 2
        + ["heavily_compressed_attention", "compressed_sparse_attention"] * 20 + ["heavily_compressed_attention"],
        "mlp_layer_types": ["hash_moe"] * 3 + ["moe"] * 40, "index_n_heads": 64, "index_head_dim": 128,
        "index_topk": 512, "hc_mult": 4, "sliding_window": 128, "vocab_size": 129280, "tie_word_embeddings": False,
        "expert_dtype": "fp4", "quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0"},
    },
    "llama_4_scout": {
        "model_type": "llama4", "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_local_experts": 16,
            "num_experts_per_tok": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
            "interleave_moe_layer_step": 1, "attention_chunk_size": 8192,
            "layer_types": ["chunked_attention", "chunked_attention", "chunked_attention", "full_attention"] * 12,
        },
    },
    "llama_4_maverick": {
        "model_type": "llama4", "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_local_experts": 128,
            "num_experts_per_tok": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
            "interleave_moe_layer_step": 2, "attention_chunk_size": 8192,
            "layer_types": ["chunked_attention", "chunked_attention", "chunked_attention", "full_attention"] * 12,
        },
    },
    "gemma_4_26b_a4b": {
        "model_type": "gemma4", "tie_word_embeddings": True,
        "text_config": {
            "model_type": "gemma4_text", "hidden_size": 2816, "num_hidden_layers": 30, "num_experts": 128,
            "top_k_experts": 8, "enable_moe_block": True, "moe_intermediate_size": 704, "intermediate_size": 2112,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512,
            "num_global_key_value_heads": 2, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
            "sliding_window": 1024, "vocab_size": 262144,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        },
    },
    "granite_4_h_small": {
        "model_type": "granitemoehybrid", "hidden_size": 4096, "num_hidden_layers": 40, "num_local_experts": 72,
        "num_experts_per_tok": 10, "intermediate_size": 768, "shared_intermediate_size": 1536,
        "num_attention_heads": 32, "num_key_value_heads": 8, "mamba_n_heads": 128, "mamba_d_head": 64,
        "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_expand": 2, "vocab_size": 100352,
        "tie_word_embeddings": True, "layer_types": (["mamba"] * 9 + ["attention"]) * 4,
    },
    "granite_4_h_tiny": {
        "model_type": "granitemoehybrid", "hidden_size": 1536, "num_hidden_layers": 40, "num_local_experts": 64,
        "num_experts_per_tok": 6, "intermediate_size": 512, "shared_intermediate_size": 1024,
        "num_attention_heads": 12, "num_key_value_heads": 4, "mamba_n_heads": 48, "mamba_d_head": 64,
        "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_expand": 2, "vocab_size": 100352,
        "tie_word_embeddings": True, "layer_types": (["mamba"] * 9 + ["attention"]) * 4,
    },
    "nemotron_3_nano_30b_a3b": {
        "model_type": "nemotron_h", "hidden_size": 2688, "num_hidden_layers": 52, "n_routed_experts": 128,
        "num_experts_per_tok": 6, "moe_intermediate_size": 1856, "n_shared_experts": 1, "intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712, "mlp_hidden_act": "relu2", "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8,
        "ssm_state_size": 128, "conv_kernel": 4, "vocab_size": 131072, "tie_word_embeddings": False,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    },
}  # fmt: skip
