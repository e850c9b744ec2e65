"""What a device's memory leaves for experts: sizes of a known model, by hand."""

import numpy as np

from sim.machine.hardware import load_hardware
from sim.machine.memory import device_memory
from sim.machine.model import geometry, load_dimensions


def test_every_part_of_a_known_model_is_counted_once():
    dimensions = load_dimensions("deepseek_moe_16b")
    sizes, hardware = geometry(dimensions), load_hardware("s1_rtx3080ti")
    memory = device_memory(sizes, dimensions, hardware, 2, 0, 1000)
    layers = dimensions.num_layers + dimensions.dense_layers
    kv = 2 * dimensions.num_kv_heads * dimensions.head_dim * 2 * layers  # 16 bits, dense layers too
    assert abs(memory.kv_bytes_per_token - kv) <= dimensions.num_layers  # rounded once per MoE layer
    assert memory.parts["input embedding"] == dimensions.vocab_size * dimensions.hidden_size * 2
    assert memory.parts["staging slots"] == 2 * sizes.expert_bytes[0]
    taken = sum(memory.parts.values()) + 10 * memory.kv_bytes_per_token
    assert memory.room(np.array([10])).tolist() == [hardware.gpu_memory_bytes - taken]
