"""Sizes of the shipped models against the totals that their authors publish."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from sim.machine import model
from sim.machine.model import Dimensions, dimensions_from_config, load_dimensions, load_geometry, model_names
from traces.errors import UserError

MIB, GIB = 2**20, 2**30

# name: (parameters in billions, bytes of one expert in MiB, bytes of the model in GiB), as published:
# model cards, papers and files named in each file; expert sizes and totals of the first three also in arXiv 2508.18983.
PUBLISHED = {
    "deepseek_moe_16b": (16.4, 16.5, 31.0),
    "xverse_moe_a4_2b": (25.8, 25.3, 49.0),
    "qwen2_57b_a14b": (57.4, 52.5, 107.0),
    "qwen3_30b_a3b": (30.5, 9.0, 56.9),
    "gpt_oss_20b": (20.9, 12.6, 12.8),
    "mixtral_8x7b": (46.7, 336.0, 87.0),
    "olmoe_1b_7b": (6.92, 12.0, 12.9),
    "qwen3_30b_a3b_q4": (30.5, 2.74, 17.3),
    "qwen3_5_35b_a3b_q4": (34.66, 1.905, 20.49),
    "deepseek_v3_q4": (671.0, 25.3, 376.0),
}

# Parameters as their model cards give them, in whole billions for some: how near a total must come follows from that.
CARDS = {
    "qwen3_235b_a22b": (235.0, 0.5),
    "gpt_oss_120b": (116.83, 0.005),
    "phi_3_5_moe": (41.9, 0.05),
    "minimax_m2": (230.0, 1.5),
    "glm_4_5_air": (106.0, 1.0),
    "qwen3_next_80b_a3b": (79.67, 0.01),  # 79 B without embeddings; without the layer that predicts a second token
    "qwen3_5_397b_a17b": (396.5, 0.6),  # 397 B with the vision tower
    "glm_4_7_flash": (30.0, 0.5),
    "glm_5": (744.0, 0.5),
    "deepseek_v3": (671.0, 0.5),
    "deepseek_v3_2": (671.0, 1.0),
    "kimi_k2": (1026.0, 5.0),
    "deepseek_v4_flash": (284.0, 0.5),
    "llama_4_scout": (107.8, 0.1),  # 109 B with the vision tower
    "llama_4_maverick": (400.0, 1.0),
    "gemma_4_26b_a4b": (25.2, 0.05),
    "granite_4_h_small": (59.99 * 2**30 / 2e9, 0.01),  # bytes of its safetensors files
    "granite_4_h_tiny": (12.93 * 2**30 / 2e9, 0.01),
    "nemotron_3_nano_30b_a3b": (31.6, 0.05),
}

# Parameters that one token uses, in billions, and how near a sum with the whole LM head must come: cards round, and
# some leave out the head or add the vision tower.
ACTIVE = {
    "qwen3_next_80b_a3b": (3.0, 0.6),
    "qwen3_5_397b_a17b": (17.0, 0.7),
    "glm_4_7_flash": (3.0, 0.6),
    "glm_5": (40.0, 1.0),
    "deepseek_v3": (37.0, 0.5),
    "deepseek_v3_2": (37.0, 0.5),
    "kimi_k2": (32.0, 0.5),
    "deepseek_v4_flash": (13.0, 0.5),
    "llama_4_scout": (17.0, 0.9),
    "llama_4_maverick": (17.0, 0.9),
    "gemma_4_26b_a4b": (3.8, 0.05),
    "granite_4_h_small": (9.0, 0.5),
    "granite_4_h_tiny": (1.0, 0.5),
    "nemotron_3_nano_30b_a3b": (3.2, 0.05),
    "qwen3_30b_a3b": (3.3, 0.3),
    "qwen3_235b_a22b": (22.0, 0.5),
    "minimax_m2": (10.0, 0.9),
}


def total_parameters(dimensions: Dimensions) -> int:
    """Numbers of the whole model, with the embedding where it is not the LM head (`tied`)."""
    layer = (
        dimensions.num_experts * model.expert_parameters(dimensions)
        + model.attention_parameters(dimensions)
        + model.shared_parameters(dimensions)
    )
    embedding = 0 if dimensions.tied else dimensions.vocab_size * dimensions.hidden_size
    return dimensions.num_layers * layer + model.other_parameters(dimensions) + embedding


def total_bytes(dimensions: Dimensions) -> int:
    """Bytes of the whole model as stored."""
    layer = (
        dimensions.num_experts * model.expert_bytes(dimensions)
        + model.attention_bytes(dimensions)
        + model.shared_bytes(dimensions)
    )
    embedding = 0 if dimensions.tied else dimensions.vocab_size * dimensions.hidden_size
    return dimensions.num_layers * layer + model.other_bytes(dimensions) + round(embedding * dimensions.other_bits / 8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name: str) -> None:
    parameters, expert_mib, total_gib = PUBLISHED[name]
    dimensions = load_dimensions(name)
    assert total_parameters(dimensions) / 1e9 == pytest.approx(parameters, rel=0.005)
    assert model.expert_bytes(dimensions) / MIB == pytest.approx(expert_mib, rel=0.005)
    assert total_bytes(dimensions) / GIB == pytest.approx(total_gib, rel=0.021)


@pytest.mark.parametrize("name", CARDS)
def test_totals_are_those_of_the_model_cards(name: str) -> None:
    billions, digits = CARDS[name]
    assert total_parameters(load_dimensions(name)) / 1e9 == pytest.approx(billions, abs=digits)


@pytest.mark.parametrize("name", ACTIVE)
def test_what_a_token_reads_is_that_of_the_model_cards(name: str) -> None:
    billions, digits = ACTIVE[name]
    of = load_dimensions(name)
    layer = of.top_k * model.expert_parameters(of) + model.attention_parameters(of) + model.shared_parameters(of)
    assert (of.num_layers * layer + model.other_parameters(of)) / 1e9 == pytest.approx(billions, abs=digits)


def test_every_file_is_covered_and_says_its_source() -> None:
    assert set(model_names()) == {*PUBLISHED, *CARDS}
    for name in model_names():
        dimensions = load_dimensions(name)
        assert dimensions.name == name
        assert dimensions.source


def test_one_model_by_hand() -> None:
    tiny = Dimensions(
        name="tiny", hidden_size=8, num_layers=2, num_experts=4, top_k=2, expert_ffn=16, num_heads=2, num_kv_heads=1,
        head_dim=4, vocab_size=100, dense_layers=1, dense_ffn=32, shared_ffn=6, attention_extra=16, weight_bits=4.5,
    )  # fmt: skip
    assert model.expert_bytes(tiny) == 216  # 384 weights of 4.5 bits
    assert model.attention_bytes(tiny) == 2 * (8 * 4 * 6 + 16 + 8 * 4)
    assert model.shared_bytes(tiny) == 2 * 3 * 8 * 6
    assert model.kv_bytes_per_token(tiny) == 2 * 2 * 4 * 3 / 2  # three layers cache, two have experts
    assert model.other_bytes(tiny) == 2 * (100 * 8 + 8 + (8 * 4 * 6 + 16 + 3 * 8 * 32))
    untied, tied = total_parameters(tiny), total_parameters(replace(tiny, tied=True))
    assert untied - tied == 100 * 8


def test_a_hybrid_by_hand() -> None:
    """Two layers with experts of two matrices, one dense; one of the three has a cache; bits of each part."""
    tiny = Dimensions(
        name="tiny", hidden_size=8, num_layers=2, num_experts=4, top_k=2, expert_ffn=16, num_heads=2, num_kv_heads=1,
        head_dim=4, vocab_size=100, dense_layers=1, dense_ffn=32, shared_ffn=6, matrices=2, attention_numbers=500,
        kv_numbers=24, other_extra=10, weight_bits=4, attention_bits=8, shared_bits=12, dense_bits=24, router_bias=4,
    )  # fmt: skip
    assert model.expert_bytes(tiny) == 2 * 8 * 16 / 2
    assert model.attention_bytes(tiny) == 500 + 2 * (8 * 4 + 4)
    assert model.shared_bytes(tiny) == 2 * 8 * 6 * 1.5
    assert model.other_bytes(tiny) == 2 * (100 * 8 + 8) + 500 + 3 * (2 * 8 * 32 + 10)
    assert model.kv_bytes_per_token(tiny) == 24 * 2 / 2


def test_geometry_repeats_each_layer() -> None:
    geometry = load_geometry("deepseek_moe_16b")
    assert geometry.num_layers == 27
    assert geometry.expert_bytes == (17_301_504,) * 27
    assert geometry.shared_bytes == (2 * 17_301_504,) * 27
    assert geometry.attention_bytes is not None
    assert len(geometry.attention_bytes) == 27
    assert geometry.weight_bits == 16
    assert load_geometry("mixtral_8x7b").shared_bytes == (0,) * 32


def test_names_and_aliases_find_one_model() -> None:
    assert load_geometry("Qwen/Qwen3-30B-A3B") == load_geometry("qwen3_30b_a3b")
    aliases = [alias.lower() for name in model_names() for alias in load_dimensions(name).names]
    assert len(aliases) == len(set(aliases))
    with pytest.raises(UserError, match=r"model=gpt-9 is not known: choose one of .*mixtral_8x7b"):
        load_geometry("gpt-9")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_experts": 0}, "num_experts=0: must be between 1 and 65535"),
        ({"num_experts": 2**40}, "num_experts=1099511627776: must be between 1 and 65535"),
        ({"num_heads": 2**24, "head_dim": 2**24}, "attention of one layer must have at most 2^40 numbers"),
        ({"matrices": 4}, "matrices=4: must be between 2 and 3"),
        ({"expert_ffn": 1.5}, "expert_ffn=1.5: must be a whole number"),
        ({"top_k": 99}, "top_k=99 must not be above num_experts=64"),
        ({"dense_ffn": 0}, "dense_layers=1 and dense_ffn=0 must both be above zero, or neither"),
        ({"weight_bits": 0}, "weight_bits=0: must be between 1 and 64"),
        ({"width": 3}, "width is not a field of Dimensions"),
        ({"head_dim": None}, "head_dim is missing"),
    ],
)
def test_bad_dimensions_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        dimensions_from_config({**asdict(load_dimensions("deepseek_moe_16b")), **change})
    assert sentence in str(error.value)
