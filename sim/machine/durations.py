"""How long each thing takes, tabulated once in whole nanoseconds from the sizes of a model and the rates of a machine.

The engines add and compare these integers only; every rounding (half to even) happens here. Two limits decide a
computation: reading its weights over the memory bandwidth, and its arithmetic over the rate; the longer one counts
(roofline, Williams et al. 2009, doi 10.1145/1498765.1498785). One weight costs two FLOP per token. What activations
read and write is left out: at these widths it is below one percent of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.config import TimeConfig
from sim.machine.attention import attention_time
from sim.machine.hardware import AFTER_EXPERTS, BEFORE_LOOKUP, PARAMETERS, Hardware
from sim.machine.parts import PARTS
from traces.errors import UserError
from traces.format.trace import Geometry

Table = NDArray[np.int64]

# Stored bits of the weights that are not experts: models quantise their experts first and keep the rest in 16 bits.
_LEAST_OTHER_BITS = 16.0
_LONGEST = 2.0**53


@dataclass(frozen=True, slots=True)
class Durations:
    """Tables for L MoE layers and steps of up to n tokens; column i holds i tokens, column 0 is 0."""

    copy_ns: Table
    """[L] a whole expert over the link."""
    chunk_ns: Table
    """[L] one chunk of a prefetched expert."""
    low_copy_ns: Table
    """[L] an expert in low precision."""
    write_back_ns: Table
    """[L] an expert the other way."""
    low_write_back_ns: Table
    """[L] an expert in low precision the other way."""
    link_call_ns: int
    """Host time to issue the copy of an expert."""
    expert_ns: Table
    """[L, n+1] one expert on the GPU, without launches."""
    dequantise_ns: Table
    """[L] added to an expert that is executed in low precision."""
    cpu_expert_ns: Table | None
    """[L, n+1] one expert on the CPU; None where the machine states no CPU."""
    link_contention: float
    """Factor on a copy that starts while the CPU computes."""
    cpu_contention: float
    """Factor on a CPU expert that starts while the link copies."""
    shared_ns: Table
    """[L, n+1] shared experts."""
    attention_weights_ns: Table
    """[L, n+1] attention, norms and router without K and V."""
    kv_ps_per_token: int
    """Picoseconds to read K and V of one token."""
    pair_ps: int
    """Picoseconds to attend to one (query, key) pair."""
    head_ns: Table
    """[n+1] LM head and dense layers, once per step."""
    expert_launch_ns: int
    """Launches of one expert."""
    before_lookup_ns: Table
    """[parts] constants of every layer ahead of its lookup: launches of what is no expert, and the ``each_layer``
    parameters of the hardware. Engines add this vector and the next one, whatever they are made of."""
    after_experts_ns: Table
    """[parts] constants at the end of every layer."""
    unmodelled: tuple[str, ...]
    """What is left out of the time because the model's sizes are not known; print it with every result."""

    def attention_ns(self, layer: int, num_tokens: int, kv_tokens: int, attended_pairs: int) -> int:
        """Attention of one layer for a step of `num_tokens` new tokens; see `attention_time`."""
        weights_ns = int(self.attention_weights_ns[layer, num_tokens])
        return int(attention_time(weights_ns, kv_tokens, self.kv_ps_per_token, attended_pairs, self.pair_ps))

    def copies(self) -> Table:
        """[3, 2, L]: kind of copy (FULL, CHUNK, LOW_COPY), whether the CPU computes when it starts, layer."""
        alone = np.stack([self.copy_ns, self.chunk_ns, self.low_copy_ns])
        return np.stack([alone, np.rint(alone * self.link_contention).astype(np.int64)], axis=1)

    def cpu_experts(self) -> Table:
        """[2, L, n+1]: whether the link copies when it starts, layer, tokens; 0 layers without a CPU."""
        alone = np.zeros((0, 1), np.int64) if self.cpu_expert_ns is None else self.cpu_expert_ns
        return np.stack([alone, np.rint(alone * self.cpu_contention).astype(np.int64)])

    def layer_ns(self) -> Table:
        """[L] a decode layer without routed experts, K and V left out."""
        constant_ns = self.before_lookup_ns.sum() + self.after_experts_ns.sum()
        return np.asarray(self.attention_weights_ns[:, 1] + self.shared_ns[:, 1] + constant_ns, np.int64)


def tabulate(
    geometry: Geometry,
    hardware: Hardware,
    max_tokens: int,
    time: TimeConfig | None = None,
    chunks: int = 1,
    low_bytes: Sequence[int] | None = None,
) -> Durations:
    """All durations of a model on a machine, for steps of up to `max_tokens` tokens.

    `chunks`: of a prefetched expert; `low_bytes` [L]: of an expert in low precision, None where no rule wants one.

    Raises: UserError when `max_tokens` is below 1, when bytes per expert or a figure that `time` asks for are not
    known, or when a duration is too long for the clock.
    """
    time = time or TimeConfig()
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens}: a step has at least 1 token")
    if geometry.expert_bytes is None:
        raise UserError(
            f"bytes per expert of model {geometry.model} are not known, so no copy can be timed: "
            "take the sizes of a known model with model=NAME, for example model=qwen3_30b_a3b"
        )
    tokens = np.arange(max_tokens + 1, dtype=np.float64)
    none, sizes, bits = (0,) * geometry.num_layers, geometry.expert_bytes, geometry.weight_bits
    low = none if low_bytes is None else tuple(low_bytes)
    chunk = [ceil_div(size, chunks) for size in sizes]

    def copies(num_bytes: Sequence[int]) -> NDArray[np.float64]:
        return copy_s(num_bytes, hardware, time.memory)

    def gpu(num_bytes: Sequence[int], weight_bits: float | None) -> NDArray[np.float64]:
        rates = (hardware.gpu_memory_bytes_per_s, hardware.gpu_flops_per_s)
        return compute_s(num_bytes, weight_bits, tokens, *rates)

    other_bits = max(_LEAST_OTHER_BITS, bits or 0.0)
    tables: dict[str, tuple[NDArray[np.float64], bool]] = {
        "copy_ns": (copies(sizes), time.link),
        "chunk_ns": (copies(chunk), time.link),
        "low_copy_ns": (copies(low), time.link),
        "write_back_ns": (write_back_s(sizes, hardware), time.link),
        "low_write_back_ns": (write_back_s(low, hardware), time.link),
        "expert_ns": (gpu(sizes, bits), time.experts),
        "dequantise_ns": (dequantise_s(sizes, hardware, low_bytes is not None), time.dequantise),
        "shared_ns": (gpu(geometry.shared_bytes or none, other_bits), time.shared_experts),
        "attention_weights_ns": (gpu(geometry.attention_bytes or none, other_bits), time.attention),
        "head_ns": (gpu((geometry.other_bytes or 0,), other_bits)[0], time.head),
    }
    expert_launch_s, layer_launch_s = launch_s(hardware, time.cuda_graphs)
    kv_s = (geometry.kv_bytes_per_token or 0) / hardware.gpu_memory_bytes_per_s
    counts = {
        "link_call_ns": (call_s(hardware, time.memory), time.link_call, 1e9),
        "kv_ps_per_token": (kv_s, time.attention, 1e12),
        "pair_ps": (pair_s(geometry.hidden_size or 0, hardware), time.attention, 1e12),
        "expert_launch_ns": (expert_launch_s, time.launch, 1e9),
    }
    terms: dict[str, Any] = {name: _nanoseconds(seconds * switch) for name, (seconds, switch) in tables.items()}
    terms |= {name: _count(seconds * switch, unit) for name, (seconds, switch, unit) in counts.items()}
    return Durations(
        **terms,
        cpu_expert_ns=_cpu_expert_ns(sizes, bits, tokens, hardware, time.experts),
        link_contention=hardware.link_contention if time.contention else 1.0,
        cpu_contention=hardware.cpu_contention if time.contention else 1.0,
        before_lookup_ns=constants_ns(hardware, BEFORE_LOOKUP, time, {"launch": layer_launch_s * time.launch}),
        after_experts_ns=constants_ns(hardware, AFTER_EXPERTS, time, {}),
        unmodelled=unmodelled_terms(geometry, hardware),
    )


def ceil_div(amount: int, divisor: int) -> int:
    """The least whole number that is not below amount / divisor."""
    return -(-amount // divisor)


def constants_ns(hardware: Hardware, moment: str, time: TimeConfig, seconds: dict[str, float]) -> Table:
    """[parts] what every layer spends at a moment, by part; ``seconds`` come on top. Rounded once per part."""
    total_s = dict.fromkeys(PARTS, 0.0) | seconds
    for name, parameter in PARAMETERS.items():
        if parameter.each_layer == moment:
            total_s[parameter.parts[0]] += getattr(hardware, name) * getattr(time, parameter.switch)
    return np.array([_count(total_s[part], 1e9) for part in PARTS], np.int64)


def copy_s(num_bytes: Sequence[int], hardware: Hardware, memory: str = "pinned") -> NDArray[np.float64]:
    """Seconds of one host-to-device copy per size: t(x) = alpha + x / beta(x), [len(num_bytes)].

    With beta(x) = beta_inf * x / (x + x_half) this is alpha + (x + x_half) / beta_inf: the lost bandwidth of small
    copies and a fixed latency look alike here, and only their sum can be fitted from one kind of memory. An expert of
    several tensors pays alpha and x_half for each. A staged copy follows the host's own copy into a pinned buffer.
    Source: the postal model (Hockney 1994, doi 10.1016/S0167-8191(06)80021-9), r_inf and n_1/2.

    Raises: UserError when the machine does not state this kind of memory.
    """
    size, parts = np.asarray(num_bytes, dtype=np.float64), hardware.copies_per_expert
    if memory == "pageable":
        rate = stated(hardware, "pageable_bytes_per_s", "time.memory=pageable")
        return parts * hardware.pageable_latency_s + size / rate
    pinned_s = parts * hardware.link_latency_s + (size + parts * hardware.link_half_bytes) / hardware.link_bytes_per_s
    if memory == "staged":
        return size / stated(hardware, "staging_bytes_per_s", "time.memory=staged") + pinned_s
    return pinned_s


def stated(hardware: Hardware, figure: str, wanted_by: str) -> float:
    """A figure that a machine need not state. Raises UserError where it does not."""
    value = getattr(hardware, figure)
    if value is None:
        raise UserError(f"{wanted_by} needs {figure}, and hardware {hardware.name} does not state it")
    return float(value)


def call_s(hardware: Hardware, memory: str) -> float:
    """Host time to issue the copies of one expert."""
    one = hardware.pageable_call_s if memory == "pageable" else hardware.link_call_s
    return hardware.copies_per_expert * one


def write_back_s(num_bytes: Sequence[int], hardware: Hardware) -> NDArray[np.float64]:
    """Seconds to write an expert back to the host: a pinned copy, at the other direction's rate where it is stated."""
    if hardware.link_back_bytes_per_s is None:
        return copy_s(num_bytes, hardware)
    size, parts = np.asarray(num_bytes, dtype=np.float64), hardware.copies_per_expert
    return parts * hardware.link_latency_s + (size + parts * hardware.link_half_bytes) / hardware.link_back_bytes_per_s


def launch_s(hardware: Hardware, cuda_graphs: bool) -> tuple[float, float]:
    """Launches of one expert and of everything else in a layer: their kernels, or one captured graph each."""
    if cuda_graphs:
        graph_s = stated(hardware, "graph_launch_s", "time.cuda_graphs=true")
        return graph_s * (hardware.kernels_per_expert > 0), graph_s * (hardware.kernels_per_layer > 0)
    return hardware.kernels_per_expert * hardware.launch_s, hardware.kernels_per_layer * hardware.launch_s


def dequantise_s(num_bytes: Sequence[int], hardware: Hardware, wanted: bool) -> NDArray[np.float64]:
    """Seconds to expand a low-precision expert to its full bytes, [len(num_bytes)]; 0 where no rule wants one."""
    if not wanted:
        return np.zeros(len(num_bytes))
    rate = stated(hardware, "dequantise_bytes_per_s", "a rule that fetches low-precision copies")
    return np.asarray(num_bytes, dtype=np.float64) / rate


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
    hardware: Hardware,
    switch: bool,
) -> Table | None:
    """Nanoseconds of one expert on the CPU, [L, n+1]: its weights out of DRAM or its arithmetic, the longer.

    The weights take bytes / `cpu_expert_bytes_per_s`, or `cpu_load_ratio` of a pinned load (other kinds of host memory
    slow the copy, not the CPU); the sum does not depend on the number of tokens until the arithmetic takes over.
    Source: SMoE, Fig. 9 and section on CPU-assisted loading (arXiv 2508.18983); Fiddler (arXiv 2402.07033).
    """
    if not hardware.has_cpu:
        return None
    bandwidth = hardware.cpu_expert_bytes_per_s or np.inf
    seconds = compute_s(num_bytes, weight_bits, tokens, bandwidth, hardware.cpu_flops_per_s)
    if hardware.cpu_load_ratio is not None:
        seconds = np.maximum(seconds, hardware.cpu_load_ratio * copy_s(num_bytes, hardware)[:, None])
        seconds[:, 0] = 0.0
    return _nanoseconds(seconds * switch)


def _nanoseconds(seconds: NDArray[np.float64]) -> Table:
    """Whole nanoseconds. Raises UserError where a duration does not fit the clock."""
    _check_longest(float(seconds.max(initial=0.0)) * 1e9)
    return np.rint(seconds * 1e9).astype(np.int64)


def _count(seconds: float, per_second: float) -> int:
    units = seconds * per_second
    _check_longest(units)
    return round(units)


def _check_longest(units: float) -> None:
    """A clock in 64 bits must have room for many of the longest duration, and floats must count it exactly."""
    if not units < _LONGEST:
        raise UserError(
            f"one operation would take {units / 1e9:.3g} s, more than the clock can count ({_LONGEST / 1e9:.3g} s): "
            "check the rates of the hardware file and the sizes of the model"
        )
