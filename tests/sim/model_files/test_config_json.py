"""`model=FOLDER`: what a config.json says, against the shipped files of the same models and their published totals."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from sim.assembly.compose import compose_run
from sim.config import TraceConfig
from sim.machine.geometry import resolve_geometry
from sim.machine.model import dimensions_from_config, geometry, kv_bytes_per_token, load_dimensions
from sim.model_files.config_json import read_config_json
from tests.sim.machine.test_model import total_parameters
from tests.sim.model_files.released_configs import CONFIGS
from tests.support.random_traces import recorded_trace
from traces.errors import UserError

QWEN = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_experts": 128,
    "num_experts_per_tok": 8, "moe_intermediate_size": 768, "intermediate_size": 6144, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
    "intermediate_size": 18432, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "moe_layer_freq": 1, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24, "num_local_experts": 32, "head_dim": 64,
    "num_experts_per_tok": 4, "intermediate_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8,
    "vocab_size": 201088, "quantization_config": {"quant_method": "mxfp4"},
    "layer_types": ["sliding_attention", "full_attention"] * 12, "sliding_window": 128,
}  # fmt: skip
MOE_16B = {
    "model_type": "deepseek", "hidden_size": 2048, "num_hidden_layers": 28, "first_k_dense_replace": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
    "intermediate_size": 10944, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 102400,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_local_experts": 8,
    "num_experts_per_tok": 2, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32000, "torch_dtype": "bfloat16",
}  # fmt: skip
KNOWN = {
    "qwen3_30b_a3b": (QWEN, 30.5),
    "deepseek_v3_q4": (DEEPSEEK, 671.0),
    "gpt_oss_20b": (GPT_OSS, 20.9),
    "deepseek_moe_16b": (MOE_16B, 16.4),
    "mixtral_8x7b": (MIXTRAL, 46.7),
}


def read(tmp_path, config, name="some_model"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return dimensions_from_config(read_config_json(folder))


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_are_those_of_the_shipped_file_and_of_the_model_card(name, tmp_path):
    config, billions = KNOWN[name]
    found, shipped = read(tmp_path, config), load_dimensions(name)
    assert total_parameters(found) / 1e9 == pytest.approx(billions, rel=0.005)
    bits = ("weight_bits", "other_bits", "attention_bits", "shared_bits", "dense_bits")
    if name == "deepseek_v3_q4":  # another file of the same model
        found, shipped = (replace(one, **dict.fromkeys(bits, 16.0)) for one in (found, shipped))
    same = ("num_layers", "num_experts", "top_k", "hidden_size", "weight_bits", "kv_bytes_per_token", "shared_bytes")
    sizes = [geometry(one) for one in (found, shipped)]
    assert [getattr(sizes[0], field) for field in same] == [getattr(sizes[1], field) for field in same]
    for field in ("expert_bytes", "attention_bytes", "other_bytes"):
        np.testing.assert_allclose(getattr(sizes[0], field), getattr(sizes[1], field), rtol=2e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_released_models_are_read_as_they_are_shipped(name, tmp_path):
    said = ("name", "names", "source")
    found, shipped = (asdict(one) for one in (read(tmp_path, CONFIGS[name]), load_dimensions(name)))
    assert {key: found[key] for key in found if key not in said} == {
        key: shipped[key] for key in shipped if key not in said
    }


def test_only_layers_with_a_cache_count_for_k_and_v(tmp_path):
    """Numbers of a token, by hand."""
    cached = {
        "qwen3_next_80b_a3b": 12 * 2 * 2 * 256,
        "granite_4_h_small": 4 * 2 * 8 * 128,
        "nemotron_3_nano_30b_a3b": 6 * 2 * 2 * 128,
        "gemma_4_26b_a4b": 25 * 2 * 8 * 256 + 5 * 2 * 2 * 512,
        "glm_5": 78 * (512 + 64 + 128),
        "llama_4_maverick": 48 * 2 * 8 * 128,
        "deepseek_v4_flash": round(23 * 512 / 128 + 20 * (512 + 128) / 4),
    }
    for name, numbers in cached.items():
        found = read(tmp_path, CONFIGS[name])
        assert found.kv_numbers == numbers
        assert kv_bytes_per_token(found) == round(2 * numbers / found.num_layers)


def test_a_replay_says_what_the_sizes_leave_out(tmp_path):
    read(tmp_path, CONFIGS["gemma_4_26b_a4b"])
    sizes = asdict(dimensions_from_config(read_config_json(tmp_path / "some_model")))
    _, estimated, _ = resolve_geometry(recorded_trace(0), TraceConfig(path="t.safetensors"), sizes)
    assert estimated[-1] == (
        "sizes of some_model: 25 of 30 layers attend to 1024 tokens only: reading K and V over longer contexts is "
        "overstated"
    )


def test_layers_that_share_an_indexer_hold_none(tmp_path):
    """GLM-5.x: every fourth layer after the first two picks tokens, the others take its choice."""
    config = CONFIGS["glm_5"]
    every, freq = read(tmp_path, config), read(tmp_path, config | {"index_topk_freq": 4, "index_skip_topk_offset": 2})
    own = 2 + (78 - 2) // 4
    assert freq.kv_numbers == 78 * 576 + own * 128
    listed = read(tmp_path, config | {"indexer_types": ["full"] * own + ["shared"] * (78 - own)})
    assert (listed.kv_numbers, listed.attention_numbers) == (freq.kv_numbers, freq.attention_numbers)
    indexer = 2048 * 32 * 128 + 6144 * 128 + 6144 * 32 + 2 * 128
    assert every.attention_numbers - freq.attention_numbers == pytest.approx(indexer * (78 - own) / 78, abs=1)


def test_llama_4_as_published_names_no_kinds_of_layers(tmp_path):
    config = CONFIGS["llama_4_scout"]
    bare = {key: value for key, value in config["text_config"].items() if key != "layer_types"}
    found = read(tmp_path, config | {"text_config": bare})
    assert found.source == read(tmp_path, config).source and "36 of 48 layers attend to 8192 tokens" in found.source


def test_what_a_source_leaves_out_is_said(tmp_path):
    said = {
        "gpt_oss": "12 of 24 layers attend to 128 tokens only: their K and V, which do not grow, are left out",
        "qwen3_next_80b_a3b": "36 of 48 layers keep a state instead of K and V, which is not read here",
        "llama_4_scout": "36 of 48 layers attend to 8192 tokens only",
        "glm_5": "attention reads at most 2048 chosen tokens",
    }
    for name, sentence in said.items():
        assert sentence in read(tmp_path, CONFIGS.get(name, GPT_OSS)).source
    assert (
        "model_type 'new_one' is none whose sizes were compared: ESTIMATED"
        in read(tmp_path, QWEN | {"model_type": "new_one"}).source
    )


def test_a_folder_stands_in_for_a_model_with_overrides(tmp_path):
    read(tmp_path, QWEN)
    config = compose_run(f"model={tmp_path}/some_model", "model.weight_bits=4.5")
    assert (config.model.name, config.model.num_layers, config.model.weight_bits) == ("some_model", 48, 4.5)
    by_file = compose_run(f"model={tmp_path}/some_model/config.json").model
    assert (by_file.name, by_file.expert_ffn) == ("some_model", 768)


def test_layers_that_route_are_counted(tmp_path):
    assert read(tmp_path, QWEN | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}).num_layers == 23
    nested = {"model_type": "vlm", "text_config": QWEN}
    assert read(tmp_path, nested).num_layers == 48
    listed = read(tmp_path, QWEN | {"moe_layer_freq": [0] + [1] * 47})
    assert (listed.num_layers, listed.dense_layers, listed.dense_ffn) == (47, 1, 6144)


INT4 = {"num_bits": 4, "group_size": 32, "symmetric": True, "type": "int"}
EXCEPT = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]


def test_bits_are_those_of_each_part(tmp_path):
    def bits(quantised, **more):
        found = read(tmp_path, DEEPSEEK | {"quantization_config": quantised} | more)
        return found.weight_bits, found.attention_bits, found.shared_bits, found.dense_bits, found.other_bits

    packed = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": INT4}}}
    assert bits({"quant_method": "fp8"}) == (8, 8, 8, 8, 16)
    assert bits({"quant_method": "fp8"}, expert_dtype="fp4") == (4.25, 8, 8, 8, 16)
    assert bits(packed) == (4.5, 4.5, 4.5, 4.5, 16)
    assert bits(packed | {"ignore": EXCEPT}) == (4.5, 16, 16, 16, 16)
    kept = {"modules_to_not_convert": ["lm_head", "model.layers.3.self_attn", "self_attn.o_proj", "shared_experts"]}
    assert bits({"quant_method": "fp8"} | kept) == (8, 16, 16, 8, 16)
    assert bits({"quant_method": "mxfp4"})[0] == 4.25


def test_stored_bits_are_those_of_the_quantisation(tmp_path):
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    assert read(tmp_path, QWEN | {"quantization_config": awq}).weight_bits == 4 + 20 / 128
    assert read(tmp_path, QWEN | {"torch_dtype": "float32"}).weight_bits == 32


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types lists 2 layers: must list all 48"),
        ({"layer_types": ["linear_attention"] * 48}, "some layers keep a state, whose size cannot be read off here"),
        ({"layer_types": ["telepathy"] * 48}, "a layer is 'telepathy', whose size and cache are not known here"),
        ({"layer_types": 7}, "layer_types=7: must be a list of words"),
        ({"mamba_d_state": 16}, "mamba_d_state says that some layers are no attention"),
        ({"hc_mult": 4}, "hc_mult=4: sizes of several residual streams are not known here"),
        ({"moe_latent_size": 1024}, "moe_latent_size=1024: experts of another width are not known here"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True: must be a model with a decoder only"),
        ({"model_type": "doge"}, "model_type doge: experts are rows of two tables, which these sizes do not express"),
        ({"attention_bias": "no"}, "attention_bias='no': must be true or false"),
        ({"vocab_size": 0}, "vocab_size=0: must be a whole number from 1 to"),
        (
            {"quantization_config": {"quant_method": "fp8", "ignore": ["re:(a+)+$"]}},
            r"quantization_config leaves out '\(a\+\)\+': only names",
        ),
        ({"num_experts": None}, r"num_local_experts is not set \(nor num_experts"),
        ({"hidden_size": "wide"}, "hidden_size='wide': must be a whole number from 0 to"),
        ({"num_hidden_layers": 3_000_000}, "num_hidden_layers=3000000: must be a whole number from 0 to 65535"),
        ({"first_k_dense_replace": 48}, "no layer has routed experts"),
        ({"torch_dtype": "float8"}, "torch_dtype='float8': must be float32, bfloat16 or float16"),
        (
            {"quantization_config": {"quant_method": "hqq"}},
            "quantization_config has quant_method='hqq': sizes are known of mxfp4, fp8",
        ),
        ({"num_experts_per_tok": True}, "num_experts_per_tok=True: must be a whole number"),
    ],
)
def test_what_cannot_be_read_off_is_refused(change, sentence, tmp_path):
    with pytest.raises(UserError, match=f"model=.*config.json: {sentence}"):
        read(tmp_path, QWEN | change)


def test_a_folder_without_one_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist: must be a folder with a config\.json"):
        compose_run(f"model={tmp_path}")


@pytest.mark.parametrize(("name", "routed"), [("mlp_only_layers", 65535), ("moe_layers", 1)])
def test_a_list_as_long_as_a_file_may_hold_is_read_once(name, routed, tmp_path):
    """Not once for each layer: 65,535 layers would look through a million numbers each."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN | {"num_hidden_layers": 65535, name: [-1] * 10**6 + ([7] if routed == 1 else [])}))
    found = read_config_json(path)
    assert (found["num_layers"], found["dense_layers"]) == (routed, 65535 - routed)


@pytest.mark.parametrize("value", [{}, 7, "a", [[1], {}, "3", None]])
def test_lists_of_layers_that_are_none_name_no_layer(value, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN | {"mlp_only_layers": value}))
    assert read_config_json(path)["dense_layers"] == 0
