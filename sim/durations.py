"""How long each thing takes, tabulated once in whole nanoseconds from the sizes of a model and the rates of a machine.

The engines add and compare these integers only; every rounding (half to even) happens here. Two limits decide a
computation: reading its weights over the memory bandwidth, and its arithmetic over the rate; the longer one counts
(roofline, Williams et al. 2009, doi 10.1145/1498765.1498785). One weight costs two FLOP per token. What activations
read and write is left out: at these widths it is below one percent of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.hardware import Hardware
from traces.errors import UserError
from traces.trace import Geometry

Table = NDArray[np.int64]

# Stored bits of the weights that are not experts: models quantise their experts first and keep the rest in 16 bits.
_LEAST_OTHER_BITS = 16.0


@dataclass(frozen=True, slots=True)
class Durations:
    """Tables for L MoE layers and steps of up to n tokens; column i holds i tokens, column 0 is 0.

    `copy_ns` [L]: one expert over the link. `link_call_ns`: host time to issue a copy. `expert_ns` [L, n+1]: one expert
    on the GPU, without launches. `cpu_expert_ns` [L, n+1]: the same on the CPU; None where the machine states no CPU.
    `shared_ns` [L, n+1]: shared experts. `attention_weights_ns` [L, n+1]: attention, norms and router without K and V.
    `kv_ps_per_token`, `pair_ps`: picoseconds to read K and V of one token, and to attend to one (query, key) pair.
    `head_ns` [n+1]: LM head and dense layers, once per step. `expert_launch_ns`, `layer_launch_ns`: launches of one
    expert, and of everything else in a layer. `readback_ns`, `sync_ns`, `host_ns`: once per layer.
    `unmodelled`: what is left out of the time because the model's sizes are not known; print it with every result.
    """

    copy_ns: Table
    link_call_ns: int
    expert_ns: Table
    cpu_expert_ns: Table | None
    shared_ns: Table
    attention_weights_ns: Table
    kv_ps_per_token: int
    pair_ps: int
    head_ns: Table
    expert_launch_ns: int
    layer_launch_ns: int
    readback_ns: int
    sync_ns: int
    host_ns: int
    unmodelled: tuple[str, ...]

    def attention_ns(self, layer: int, num_tokens: int, kv_tokens: int, attended_pairs: int) -> int:
        """Attention of one layer for a step of `num_tokens` new tokens; see `attention_ns`."""
        weights_ns = int(self.attention_weights_ns[layer, num_tokens])
        return attention_ns(weights_ns, kv_tokens, self.kv_ps_per_token, attended_pairs, self.pair_ps)


def attention_ns(weights_ns: int, kv_tokens: int, kv_ps_per_token: int, attended_pairs: int, pair_ps: int) -> int:
    """Attention time: its weights, then the longer of reading K and V and of the arithmetic over all pairs.

    `kv_tokens`: tokens whose K and V are read, summed over the requests of the step. `attended_pairs`: (query, key)
    pairs, summed likewise: n new tokens on a context of c before them make n * c + n * (n + 1) / 2.
    Whole numbers in, whole numbers out, and in numba's subset: both engines call it.
    """
    return weights_ns + max(kv_tokens * kv_ps_per_token, attended_pairs * pair_ps) // 1000


def tabulate(geometry: Geometry, hardware: Hardware, max_tokens: int) -> Durations:
    """All durations of a model on a machine, for steps of up to `max_tokens` tokens.

    Raises: UserError when `max_tokens` is below 1, or when bytes per expert are not known.
    """
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens}: a step has at least 1 token")
    if geometry.expert_bytes is None:
        raise UserError(
            f"bytes per expert of model {geometry.model} are not known, so no copy can be timed: "
            "take the sizes of a known model with model=NAME, for example model=qwen3_30b_a3b"
        )
    tokens = np.arange(max_tokens + 1, dtype=np.float64)
    layers = geometry.num_layers
    bits = geometry.weight_bits
    other_bits = max(_LEAST_OTHER_BITS, bits or 0.0)
    load_s = copy_s(geometry.expert_bytes, hardware)
    rates = (hardware.gpu_memory_bytes_per_s, hardware.gpu_flops_per_s)
    return Durations(
        copy_ns=_nanoseconds(load_s),
        link_call_ns=_count(hardware.link_call_s, 1e9),
        expert_ns=_nanoseconds(compute_s(geometry.expert_bytes, bits, tokens, *rates)),
        cpu_expert_ns=_cpu_expert_ns(geometry.expert_bytes, bits, tokens, load_s, hardware),
        shared_ns=_nanoseconds(compute_s(geometry.shared_bytes or (0,) * layers, other_bits, tokens, *rates)),
        attention_weights_ns=_nanoseconds(
            compute_s(geometry.attention_bytes or (0,) * layers, other_bits, tokens, *rates)
        ),
        kv_ps_per_token=_count((geometry.kv_bytes_per_token or 0) / hardware.gpu_memory_bytes_per_s, 1e12),
        pair_ps=_count(pair_s(geometry.hidden_size or 0, hardware), 1e12),
        head_ns=_nanoseconds(compute_s((geometry.other_bytes or 0,), other_bits, tokens, *rates))[0],
        expert_launch_ns=_count(hardware.kernels_per_expert * hardware.launch_s, 1e9),
        layer_launch_ns=_count(hardware.kernels_per_layer * hardware.launch_s, 1e9),
        readback_ns=_count(hardware.readback_s, 1e9),
        sync_ns=_count(hardware.sync_s, 1e9),
        host_ns=_count(hardware.host_s_per_layer, 1e9),
        unmodelled=unmodelled_terms(geometry, hardware),
    )


def copy_s(num_bytes: Sequence[int], hardware: Hardware) -> NDArray[np.float64]:
    """Seconds of one host-to-device copy per size: t(x) = alpha + x / beta(x), [len(num_bytes)].

    With beta(x) = beta_inf * x / (x + x_half) this is alpha + (x + x_half) / beta_inf: the lost bandwidth of small
    copies and a fixed latency look alike here, and only their sum can be fitted from one kind of memory.
    Source: the postal model (Hockney 1994, doi 10.1016/S0167-8191(06)80021-9), r_inf and n_1/2.
    """
    size = np.asarray(num_bytes, dtype=np.float64)
    return hardware.link_latency_s + (size + hardware.link_half_bytes) / hardware.link_bytes_per_s


def compute_s(
    num_bytes: Sequence[int],
    weight_bits: float | None,
    tokens: NDArray[np.float64],
    bytes_per_s: float,
    flops_per_s: float | None,
) -> NDArray[np.float64]:
    """Seconds to apply weights to 0..n tokens: max(bytes / bandwidth, 2 * weights * tokens / rate), [len, n+1].

    Weights are counted as bytes * 8 / weight_bits. Without `weight_bits` or `flops_per_s` the arithmetic is left out.
    """
    size = np.asarray(num_bytes, dtype=np.float64)[:, None]
    seconds = size / bytes_per_s * np.ones_like(tokens)
    if weight_bits is not None and flops_per_s is not None:
        seconds = np.maximum(seconds, 2.0 * (size * 8.0 / weight_bits) * tokens / flops_per_s)
    seconds[:, 0] = 0.0
    return seconds


def pair_s(hidden_size: int, hardware: Hardware) -> float:
    """Seconds of attention arithmetic for one (query, key) pair in one layer: 4 * hidden_size / rate.

    Two products of 2 FLOP each over num_heads * head_dim numbers, which is taken as hidden_size: models with wider
    queries (Qwen3-30B: twice, gpt-oss: 1.4 times) spend more, those with attention windows less.
    Source: PaLM, appendix B (arXiv 2204.02311).
    """
    return 4.0 * hidden_size / hardware.gpu_flops_per_s


def unmodelled_terms(geometry: Geometry, hardware: Hardware) -> tuple[str, ...]:
    """Parts of the time that are left out because a size or a rate is not known, each in words."""
    missing = {
        "attention weights": geometry.attention_bytes is None,
        "reading K and V": geometry.kv_bytes_per_token is None,
        "attention arithmetic": geometry.hidden_size is None,
        "shared experts": geometry.shared_bytes is None,
        "LM head and dense layers": geometry.other_bytes is None,
        "expert arithmetic": geometry.weight_bits is None,
        "expert arithmetic on the CPU": hardware.has_cpu
        and (geometry.weight_bits is None or hardware.cpu_flops_per_s is None),
    }
    return tuple(term for term, absent in missing.items() if absent)


def _cpu_expert_ns(
    num_bytes: Sequence[int],
    weight_bits: float | None,
    tokens: NDArray[np.float64],
    load_s: NDArray[np.float64],
    hardware: Hardware,
) -> Table | None:
    """Nanoseconds of one expert on the CPU, [L, n+1]: its weights out of DRAM or its arithmetic, the longer.

    The weights take bytes / `cpu_expert_bytes_per_s`, or `cpu_load_ratio` of the load; the sum does not depend on the
    number of tokens until the arithmetic takes over. Source: SMoE, Fig. 9 and section on CPU-assisted loading
    (arXiv 2508.18983); Fiddler (arXiv 2402.07033).
    """
    if not hardware.has_cpu:
        return None
    bandwidth = hardware.cpu_expert_bytes_per_s or np.inf
    seconds = compute_s(num_bytes, weight_bits, tokens, bandwidth, hardware.cpu_flops_per_s)
    if hardware.cpu_load_ratio is not None:
        seconds = np.maximum(seconds, hardware.cpu_load_ratio * load_s[:, None])
        seconds[:, 0] = 0.0
    return _nanoseconds(seconds)


def _nanoseconds(seconds: NDArray[np.float64]) -> Table:
    return np.rint(seconds * 1e9).astype(np.int64)


def _count(seconds: float, per_second: float) -> int:
    return round(seconds * per_second)
