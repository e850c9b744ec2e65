"""K and V of recorded models: of every layer with a cache, spread over the layers with experts."""

import pytest

from scripts.studies.families.tiny import tiny_model
from traces.recording.measured_geometry import measure_geometry
from traces.recording.moe_layers import find_moe_layers

HEADS = 2 * 2 * 8 * 4
"""Bytes of K and V in one layer: 2 heads, 8 wide, float32."""
BY_HAND = {
    "jamba": HEADS * 2 // 2,  # 2 of 4 layers attend, the same 2 have experts
    "nemotron_h": HEADS,  # one block is attention, another one has experts
    "qwen3_next": HEADS // 4,  # one of 4 layers attends, all have experts
    "deepseek_v3": (16 + 8) * 4 * 4 // 3,  # the latent of 4 layers, 3 with experts
}


@pytest.mark.parametrize("family", BY_HAND)
def test_layers_with_a_cache_count_wherever_they_are(family: str) -> None:
    model = tiny_model(family)
    assert measure_geometry(model, find_moe_layers(model), family).kv_bytes_per_token == BY_HAND[family]
