"""`model=FOLDER`: what a config.json says, against the shipped files of the same models and their published totals."""

import json
from dataclasses import asdict

import pytest

from sim.assembly.compose import compose_run
from sim.config_json import read_config_json
from sim.machine.model import dimensions_from_config, load_dimensions
from tests.sim.machine.test_model import total_parameters
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
    "layer_types": ["sliding_attention", "full_attention"] * 12,
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
    unlike = {"name", "names", "source", "attention_extra", "expert_bias", "router_bias"}
    unlike |= {"weight_bits", "other_bits"} if name == "deepseek_v3_q4" else set()  # another file of the same model
    same = [{key: value for key, value in asdict(one).items() if key not in unlike} for one in (found, shipped)]
    assert same[0] == same[1]


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


def test_stored_bits_are_those_of_the_quantisation(tmp_path):
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    assert read(tmp_path, QWEN | {"quantization_config": awq}).weight_bits == 4 + 20 / 128
    assert read(tmp_path, QWEN | {"torch_dtype": "float32"}).weight_bits == 32


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention: some layers are no attention"),
        ({"mamba_d_state": 16}, "mamba_d_state: some layers are no attention"),
        ({"num_experts": None}, "num_local_experts is not set"),
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
