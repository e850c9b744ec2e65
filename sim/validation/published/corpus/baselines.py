"""Two public estimates of the same rows, by the formulas that their authors state; nothing is fitted.

Bytes over bandwidth is the floor of moe-fit (https://github.com/YauhenBichel/moe-fit, src/moefit/plan.py): bytes that a
token reads over the rate of where they lie. moe-fit itself divides what it reads from storage only, and gives no number
where everything fits in memory ("compute decides"); its own answer is ``moe_fit``, the same division for every tier at
its nominal rate is ``bytes_over_bandwidth``. llmfit (https://github.com/AlexsJones/llmfit, llmfit-core/src/fit.rs
``estimate_tps`` and models.rs ``moe_bandwidth_decomposition``) is its formula for mixtures of experts.
"""

from __future__ import annotations

import re

from sim.machine.model import Dimensions, attention_parameters, expert_bytes, shared_parameters
from sim.validation.published.corpus.placement import CPU_ONLY, LINK_CACHE, RESIDENT
from sim.validation.published.corpus.rule import Setting
from sim.validation.published.corpus.terms import Terms, machine_of, weights_read

GPU_HEADROOM, OS_HEADROOM, SKEW = 2e9, 8e9, 1.6
"""moe-fit: bytes held back from the GPU and from the system, and how much better its cache does than its share."""
EFFICIENCY, OFFLOAD_FACTOR, CPU_FACTOR, CORES_BONUS = 0.55, 0.8, 0.3, 1.1
FIXED_BYTES, FIXED_BYTES_GPT_OSS = 3.2, 1.43
FALLBACK_DDR_GB_S = 50.0
CPU_CONSTANT, CPU_CONSTANT_ARM = 70.0, 90.0
PRESSURE_FROM, PRESSURE_FLOOR = 0.6, 0.3
QUANTISATIONS: tuple[tuple[str, float, float, float], ...] = (
    (r"bf16|fp16|\bf16\b", 2.0, 2.0, 0.6),
    (r"mxfp4", 0.53, 0.55, 1.15),
    (r"awq|gptq", 0.5, 0.5, 1.2),
    (r"\b8[- ]?bit", 1.0, 1.0, 0.85),
    (r"\b4[- ]?bit", 0.5, 0.55, 1.15),
    (r"(?<!i)q8_", 1.0, 1.05, 0.8),
    (r"(?<!i)q6_k", 0.75, 0.80, 0.95),
    (r"(?<!i)q5_k", 0.625, 0.68, 1.0),
    (r"(?<!i)q4_(?:k_m|k_xl|k_l|0)|q4km", 0.5, 0.58, 1.15),
    (r"(?<!i)q3_k", 0.375, 0.48, 1.25),
    (r"(?<!i)q2_k", 0.25, 0.37, 1.35),
    (r"", 0.5, 0.58, 1.0),
)
"""llmfit: (name, bytes per weight by its speed table, by its size table, factor on speed); the last for all others."""


def bytes_over_bandwidth(setting: Setting, terms: Terms) -> float:
    """Tokens per second if every byte moved at the nominal rate of where it lies, and nothing else took time."""
    link = 0.0
    if setting.placement.kind == LINK_CACHE:
        missed = setting.placement.miss * setting.model.num_layers * setting.model.top_k
        link = missed * expert_bytes(setting.model) / machine_of(setting).hardware.link_bytes_per_s
    return 1.0 / (terms.gpu_s + terms.hits_s + terms.beside_s + terms.dram_s + link + terms.storage_s)


def moe_fit(setting: Setting) -> tuple[float, float] | None:
    """moe-fit's range of tokens per second; None where it gives no number: all fits, or a size or rate is not known.

    Share of the experts that GPU and page cache hold, times the skew at the upper end; the rest is read from storage.
    """
    rates, model = setting.rates, setting.model
    if rates.storage_bytes_per_s is None or rates.ram_bytes is None:
        return None
    experts = float(expert_bytes(model)) * model.num_layers * model.num_experts
    rest = (weights_read(setting) - _routed(model)) * model.other_bits / 8
    vram = rates.gpu.memory_gb * 1e9 if rates.gpu is not None and not rates.unified else 0.0
    on_gpu = min(experts, max(0.0, vram - GPU_HEADROOM - rest))
    cached = (on_gpu + min(max(0.0, rates.ram_bytes - OS_HEADROOM), experts - on_gpu)) / experts
    per_token = experts * model.top_k / model.num_experts
    seconds = [per_token * max(0.0, 1 - min(1.0, cached * skew)) / rates.storage_bytes_per_s for skew in (1.0, SKEW)]
    return None if seconds[1] == 0 else (1 / seconds[0], 1 / seconds[1])


def llmfit(setting: Setting) -> float:
    """llmfit's tokens per second, at least 0.1."""
    model, rates = setting.model, setting.rates
    text = setting.row.quantisation.lower()
    speed_bytes, size_bytes, speed = next(row[1:] for row in QUANTISATIONS if re.search(row[0], text))
    active_b = weights_read(setting) / 1e9
    gpu_gb_s = (rates.gpu_bytes_per_s or 0.0) / 1e9
    if setting.placement.kind == CPU_ONLY or not gpu_gb_s:
        constant = CPU_CONSTANT_ARM if rates.cpu is not None and rates.cpu.vector == "neon" else CPU_CONSTANT
        many = CORES_BONUS if (rates.cores or 0) >= 8 else 1.0
        return max(0.1, constant / active_b * speed * many * CPU_FACTOR)
    if setting.placement.kind != RESIDENT:
        active_gb = active_b * speed_bytes
        ddr = (rates.ram_bytes_per_s or FALLBACK_DDR_GB_S * 1e9) / 1e9
        return max(0.1, OFFLOAD_FACTOR / (active_gb / ddr + active_gb / (gpu_gb_s * EFFICIENCY)))
    fixed_bytes = FIXED_BYTES_GPT_OSS if "gpt-oss" in setting.known.name else FIXED_BYTES
    per_token = _routed(model) / 1e9 * size_bytes + _fixed(model) / 1e9 * fixed_bytes
    return max(0.1, gpu_gb_s / per_token * _pressure(setting, size_bytes))


def _routed(model: Dimensions) -> float:
    """Weights of the experts of one token."""
    return 3.0 * model.hidden_size * model.expert_ffn * model.top_k * model.num_layers


def _fixed(model: Dimensions) -> float:
    """Attention, router, shared experts, head and embedding."""
    layer = attention_parameters(model) + shared_parameters(model)
    return model.num_layers * float(layer) + 2.0 * model.vocab_size * model.hidden_size


def _pressure(setting: Setting, size_bytes: float) -> float:
    """llmfit's penalty where the whole model fills more than 60 % of the GPU's memory."""
    gpu, model = setting.rates.gpu, setting.model
    if gpu is None or not gpu.memory_gb or setting.known.parameters_b is None:
        return 1.0
    filled = setting.known.parameters_b * size_bytes / gpu.memory_gb
    if filled > 1 or filled < PRESSURE_FROM:
        return 1.0
    return max(PRESSURE_FLOOR, 1 - (filled - PRESSURE_FROM) * (1 - model.top_k / model.num_experts))
