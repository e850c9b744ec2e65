"""How long each thing takes, tabulated once in whole nanoseconds from the sizes of a model and the rates of a machine.

The engines add and compare these integers only; every rounding (half to even) happens here. Two limits decide a
computation: reading its weights over the memory bandwidth, and its arithmetic over the rate; the longer one counts
(roofline, Williams et al. 2009, doi 10.1145/1498765.1498785). One weight costs two FLOP per token. What activations
read and write is left out: at these widths it is below one percent of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.config import TimeConfig
from sim.machine.attention import attention_time
from sim.machine.figures import AFTER_EXPERTS, BEFORE_LOOKUP, Figures
from sim.machine.hardware import Hardware
from sim.machine.machine import PARAMETERS, Machine
from sim.machine.parts import PARTS
from sim.machine.pieces import arrival
from sim.machine.storage import Reading, read_s, request_bytes
from traces.errors import UserError
from traces.format.trace import Geometry

Table = NDArray[np.int64]

# Stored bits of the weights that are not experts: models quantise their experts first and keep the rest in 16 bits.
_LEAST_OTHER_BITS = 16.0
_LONGEST = 2.0**53
MOST_DRAFTS = 64
"""Of a step, see ``sim.config.SpeculateConfig``."""
MOST = 2.0**62
"""Sums of 64 bits stay below it: times in ns, bytes, what attention multiplies."""


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
    cpu_transfer_ns: Table
    """[n+1] activations of a layer to the CPU and back."""
    cpu_overlaps_gpu: bool
    """The GPU runs experts while the CPU does."""
    run_on_arrival: bool
    """The GPU runs a loaded expert while others are on their way."""
    link_contention: float
    """Factor on a copy that starts while the CPU computes."""
    cpu_contention: float
    """Factor on a CPU expert that starts while the link copies."""
    shared_ns: Table
    """[L, n+1] shared experts."""
    attention_weights_ns: Table
    """[L, n+1] attention, norms and router without K and V."""
    kv_ps_per_token: int
    """Picoseconds to read K and V of one token, for each MoE layer."""
    pair_ps: int
    """Picoseconds to attend to one (query, key) pair."""
    head_ns: Table
    """[n+1] LM head and dense layers, once per step."""
    expert_launch_ns: int
    """Launches of one expert."""
    before_lookup_ns: Table
    """[parts] constants of every layer ahead of its lookup: launches of what is no expert, and the ``each_layer``
    parameters of the runtime. Engines add this vector and the next one, whatever they are made of."""
    after_experts_ns: Table
    """[parts] constants at the end of every layer."""
    unmodelled: tuple[str, ...]
    """What is left out of the time because the model's sizes are not known; print it with every result."""
    draft_parts_ns: Table = field(default_factory=lambda: np.zeros((1, len(PARTS)), np.int64))
    """[requests + 1, parts] one pass of the draft over the requests of a step, by part; see ``drafts``."""
    read_ns: Table = field(default_factory=lambda: np.zeros(0, np.int64))
    """[L] reading an expert from storage; empty where none is read."""
    lead_ns: Table = field(default_factory=lambda: np.zeros(0, np.int64))
    """[L] from the arrival of its first request until that of its last."""
    piece_ns: Table = field(default_factory=lambda: np.zeros(0, np.int64))
    """[L] the copy over the link of what one request brings."""

    def drafting_ns(self, passes: Table, requests: Table) -> Table:
        """[S, parts] drafting ahead of steps: so many passes [S] over so many requests [S]."""
        held = np.minimum(requests, len(self.draft_parts_ns) - 1)
        return np.asarray(passes[:, None] * self.draft_parts_ns[held], np.int64)

    def attention_ns(self, layer: int, num_tokens: int, kv_tokens: int, attended_pairs: int) -> int:
        """Attention of one layer for a step of `num_tokens` new tokens; see `attention_time`."""
        weights_ns = int(self.attention_weights_ns[layer, num_tokens])
        return int(attention_time(weights_ns, kv_tokens, self.kv_ps_per_token, attended_pairs, self.pair_ps))

    def copies(self) -> Table:
        """[3, 2, L]: kind of copy (FULL, CHUNK, LOW_COPY), whether the CPU computes when it starts, layer."""
        alone = np.stack([self.copy_ns, self.chunk_ns, self.low_copy_ns])
        return np.stack([alone, _whole(alone * self.link_contention)], axis=1)

    def through_ns(self) -> Table:
        """[L] an expert from storage to the GPU where nothing else is read or copied; empty where none is read."""
        times = zip(self.copy_ns, self.read_ns, self.lead_ns, self.piece_ns, strict=False)
        return np.array([arrival(0, *each) for each in times], np.int64)

    def cpu_experts(self) -> Table:
        """[2, L, n+1]: whether the link copies when it starts, layer, tokens; 0 layers without a CPU."""
        alone = np.zeros((0, 1), np.int64) if self.cpu_expert_ns is None else self.cpu_expert_ns
        return np.stack([alone, _whole(alone * self.cpu_contention)])

    def longest_step_ns(self, num_experts: int, kv_tokens: float, pairs: float) -> float:
        """An upper bound of one step with that much context: everything one after the other, every expert missing."""
        before_and_after = float(self.before_lookup_ns.sum() + self.after_experts_ns.sum())
        attention = float(self.attention_weights_ns.max()) + float(self.shared_ns.max())
        attention += max(kv_tokens * self.kv_ps_per_token, pairs * self.pair_ps) / 1000
        expert = float(self.expert_ns.max()) + float(self.dequantise_ns.max()) + self.expert_launch_ns
        expert += self.link_call_ns + float(self.copies().max()) + float(self.cpu_experts().max(initial=0))
        expert += float(self.write_back_ns.max()) + float(self.low_write_back_ns.max())
        expert += 2 * float(self.read_ns.max(initial=0)) + float(self.piece_ns.max(initial=0))
        layers = len(self.copy_ns)
        step = layers * (before_and_after + attention + (num_experts + 1) * expert) + float(self.head_ns.max())
        return step + float(self.draft_parts_ns.sum(axis=1).max()) * MOST_DRAFTS

    def layer_ns(self) -> Table:
        """[L] a decode layer without routed experts, K and V left out."""
        constant_ns = self.before_lookup_ns.sum() + self.after_experts_ns.sum()
        return np.asarray(self.attention_weights_ns[:, 1] + self.shared_ns[:, 1] + constant_ns, np.int64)

    def gap_ns(self) -> Table:
        """[L] from the end of a decode layer to the next lookup, K and V left out; after the last layer 0."""
        before_ns = self.attention_weights_ns[1:, 1] + self.before_lookup_ns.sum()
        return np.append(before_ns, 0).astype(np.int64)


def tabulate(
    geometry: Geometry,
    machine: Machine,
    max_tokens: int,
    time: TimeConfig | None = None,
    chunks: int = 1,
    low_bytes: Sequence[int] | None = None,
    resident: bool = False,
    reading: Reading | None = None,
) -> Durations:
    """All durations of a model on a machine, for steps of up to `max_tokens` tokens.

    `chunks`: of a prefetched expert; `low_bytes` [L]: of an expert in low precision, None where no rule wants one;
    `resident`: every expert stays on the device, so that what only offloading costs is not paid; `reading`: how experts
    are read from storage, None where none is.

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
    hardware, runtime = machine.hardware, machine.runtime
    tokens = np.arange(max_tokens + 1, dtype=np.float64)
    none, sizes, bits = (0,) * geometry.num_layers, geometry.expert_bytes, geometry.weight_bits
    low = none if low_bytes is None else tuple(low_bytes)
    chunk = [ceil_div(size, chunks) for size in sizes]
    gpu_bytes_per_s = hardware.gpu_memory_bytes_per_s * runtime.gpu_memory_share
    link = machine if reading is None or reading.peer is None else reading.peer.to_slots(machine)
    shares_dram = time.contention and (reading is None or reading.peer is None)  # copies between GPUs do not

    def gpu(num_bytes: Sequence[int], weight_bits: float | None) -> NDArray[np.float64]:
        return compute_s(num_bytes, weight_bits, tokens, gpu_bytes_per_s, hardware.gpu_flops_per_s)

    other_bits = max(_LEAST_OTHER_BITS, bits or 0.0)
    experts_s = gpu(sizes, bits) + expand_s(sizes, bits, machine)[:, None] * (tokens > 0)
    copies = time.link and not hardware.unified_memory
    tables: dict[str, tuple[NDArray[np.float64], bool]] = {
        "copy_ns": (copy_s(sizes, link), copies),
        "chunk_ns": (copy_s(chunk, link), copies),
        "low_copy_ns": (copy_s(low, link), copies),
        "write_back_ns": (write_back_s(sizes, link), copies),
        "low_write_back_ns": (write_back_s(low, link), copies),
        "expert_ns": (experts_s, time.experts),
        "dequantise_ns": (dequantise_s(sizes, machine, low_bytes is not None), time.dequantise),
        "shared_ns": (gpu(geometry.shared_bytes or none, other_bits), time.shared_experts),
        "attention_weights_ns": (gpu(geometry.attention_bytes or none, other_bits), time.attention),
        "head_ns": (gpu((geometry.other_bytes or 0,), other_bits)[0], time.head),
        "cpu_transfer_ns": (cpu_transfer_s(geometry, machine, tokens), time.cpu_transfer),
    }
    expert_launch_s, layer_launch_s = launch_s(machine)
    kv_s = (geometry.kv_bytes_per_token or 0) / gpu_bytes_per_s
    counts = {
        "link_call_ns": (call_s(link), time.link_call, 1e9),
        "kv_ps_per_token": (kv_s, time.attention, 1e12),
        "pair_ps": (pair_s(geometry.hidden_size or 0, hardware), time.attention, 1e12),
        "expert_launch_ns": (expert_launch_s, time.launch, 1e9),
    }
    terms: dict[str, Any] = {name: _nanoseconds(seconds * switch) for name, (seconds, switch) in tables.items()}
    terms |= {name: _count(seconds * switch, unit) for name, (seconds, switch, unit) in counts.items()}
    return Durations(
        **terms,
        cpu_expert_ns=_cpu_expert_ns(sizes, bits, tokens, machine, time.experts),
        cpu_overlaps_gpu=runtime.cpu_overlaps_gpu,
        run_on_arrival=runtime.run_on_arrival,
        link_contention=hardware.link_contention if shares_dram else 1.0,
        cpu_contention=hardware.cpu_contention if shares_dram else 1.0,
        before_lookup_ns=constants_ns(machine, BEFORE_LOOKUP, time, {"launch": layer_launch_s * time.launch}, resident),
        after_experts_ns=constants_ns(machine, AFTER_EXPERTS, time, {}, resident),
        unmodelled=unmodelled_terms(geometry, hardware),
        **({} if reading is None else read_terms(sizes, machine, link, reading, time, copies)),
    )


def read_terms(
    sizes: Sequence[int], machine: Machine, link: Machine, reading: Reading, time: TimeConfig, copies: bool
) -> dict[str, Any]:
    """What reading experts from storage takes, or copying them to a second GPU, see ``Durations``.

    ``link``: the machine with the link over which they go on.
    """
    if reading.peer is None:
        whole_s, first_s = read_s(sizes, machine, reading)
        install_s = machine.runtime.install_s * time.install
    else:
        whole_s = copy_s(sizes, reading.peer.to_store(machine))
        first_s, install_s = whole_s / machine.runtime.copies_per_expert, 0.0
    whole_s, first_s = whole_s * time.storage + install_s, first_s * time.storage + install_s
    pieces = [round(request_bytes(size, machine, reading)) for size in sizes]
    piece_s = np.minimum(copy_s(pieces, link), copy_s(sizes, link))
    read_ns = _nanoseconds(whole_s)
    return {
        "read_ns": read_ns,
        "lead_ns": read_ns - _nanoseconds(first_s),
        "piece_ns": _nanoseconds(piece_s * copies),
    }


def ceil_div(amount: int, divisor: int) -> int:
    """The least whole number that is not below amount / divisor."""
    return -(-amount // divisor)


def constants_ns(
    machine: Machine, moment: str, time: TimeConfig, seconds: dict[str, float], resident: bool = False
) -> Table:
    """[parts] what every layer spends at a moment, by part; ``seconds`` come on top. Rounded once per part.

    ``resident``: without what only offloading costs.
    """
    total_s = dict.fromkeys(PARTS, 0.0) | seconds
    for name, parameter in PARAMETERS.items():
        if parameter.each_layer == moment and not (resident and parameter.offloading):
            total_s[parameter.parts[0]] += machine.figure(name) * getattr(time, parameter.switch)
    return np.array([_count(total_s[part], 1e9) for part in PARTS], np.int64)


def copy_s(num_bytes: Sequence[int], machine: Machine) -> NDArray[np.float64]:
    """Seconds of one host-to-device copy per size: t(x) = alpha + x / beta(x), [len(num_bytes)].

    With beta(x) = beta_inf * x / (x + x_half) this is alpha + (x + x_half) / beta_inf: the lost bandwidth of small
    copies and a fixed latency look alike here, and only their sum can be fitted from one kind of memory. An expert of
    several tensors pays alpha and x_half for each. A staged copy follows the host's own copy into a pinned buffer.
    Source: the postal model (Hockney 1994, doi 10.1016/S0167-8191(06)80021-9), r_inf and n_1/2.

    Raises: UserError when the machine does not state the kind of memory that the runtime copies from.
    """
    hardware, memory = machine.hardware, machine.runtime.memory
    size, parts = np.asarray(num_bytes, dtype=np.float64), machine.runtime.copies_per_expert
    if memory == "pageable":
        rate = stated(hardware, "pageable_bytes_per_s", "runtime.memory=pageable")
        return parts * hardware.pageable_latency_s + size / rate
    pinned_s = parts * hardware.link_latency_s + (size + parts * hardware.link_half_bytes) / hardware.link_bytes_per_s
    if memory == "staged":
        return size / stated(hardware, "staging_bytes_per_s", "runtime.memory=staged") + pinned_s
    return pinned_s


def stated(file: Figures, figure: str, wanted_by: str) -> float:
    """A figure that a file need not state. Raises UserError where it does not."""
    value = getattr(file, figure)
    if value is None:
        raise UserError(f"{wanted_by} needs {figure}, and {file.KIND} {file.name} does not state it")
    return float(value)


def call_s(machine: Machine) -> float:
    """Host time to issue the copies of one expert."""
    runtime = machine.runtime
    one = runtime.pageable_call_s if runtime.memory == "pageable" else runtime.link_call_s
    return runtime.copies_per_expert * one


def write_back_s(num_bytes: Sequence[int], machine: Machine) -> NDArray[np.float64]:
    """Seconds to write an expert back to the host: a pinned copy, at the other direction's rate where it is stated."""
    hardware, parts = machine.hardware, machine.runtime.copies_per_expert
    rate = hardware.link_back_bytes_per_s or hardware.link_bytes_per_s
    size = np.asarray(num_bytes, dtype=np.float64)
    return parts * hardware.link_latency_s + (size + parts * hardware.link_half_bytes) / rate


def launch_s(machine: Machine) -> tuple[float, float]:
    """Launches of one expert and of everything else in a layer: their kernels, or one captured graph each."""
    runtime = machine.runtime
    if runtime.cuda_graphs:
        graph_s = stated(runtime, "graph_launch_s", "runtime.cuda_graphs=true")
        return graph_s * (runtime.kernels_per_expert > 0), graph_s * (runtime.kernels_per_layer > 0)
    return runtime.kernels_per_expert * runtime.launch_s, runtime.kernels_per_layer * runtime.launch_s


def expand_s(num_bytes: Sequence[int], weight_bits: float | None, machine: Machine) -> NDArray[np.float64]:
    """Seconds by which a runtime that expands quantised experts to 16 bits delays each run of one, [len(num_bytes)].

    0 where it reads them as they are, where they have 16 bits or more, and where their bits are not known.
    """
    size = np.asarray(num_bytes, dtype=np.float64)
    if not machine.runtime.dequantises or weight_bits is None or weight_bits >= _LEAST_OTHER_BITS:
        return np.zeros(len(num_bytes))
    return size * _LEAST_OTHER_BITS / weight_bits / dequantise_bytes_per_s(machine, "runtime.dequantises=true")


def dequantise_s(num_bytes: Sequence[int], machine: Machine, wanted: bool) -> NDArray[np.float64]:
    """Seconds to expand a low-precision expert to its full bytes, [len(num_bytes)]; 0 where no rule wants one."""
    if not wanted:
        return np.zeros(len(num_bytes))
    rate = dequantise_bytes_per_s(machine, "a rule that fetches low-precision copies")
    return np.asarray(num_bytes, dtype=np.float64) / rate


def dequantise_bytes_per_s(machine: Machine, wanted_by: str) -> float:
    """Bytes of expanded weights per second. Raises: UserError where the runtime does not state its share."""
    share = stated(machine.runtime, "dequantise_share", wanted_by)
    return machine.hardware.gpu_memory_bytes_per_s * share


def cpu_transfer_s(geometry: Geometry, machine: Machine, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds to bring the activations of 0..n tokens to the CPU and its results back, [n+1].

    A fixed time, and 2 bytes per number both ways over the link where the model's width is known; the copies do not
    queue with those of experts.
    """
    moved = 2.0 * 2.0 * tokens * (geometry.hidden_size or 0)
    return np.where(tokens > 0, machine.runtime.cpu_transfer_s + moved / machine.hardware.link_bytes_per_s, 0.0)


def cpu_rates(machine: Machine) -> tuple[float, float | None]:
    """(bytes of weights per second, FLOP per second or None) that the cores which compute experts reach together."""
    hardware, threads = machine.hardware, machine.runtime.cpu_threads
    cores = min(threads or hardware.cpu_cores or 1, hardware.cpu_cores or threads or 1)
    core_rate, core_flops = hardware.cpu_core_bytes_per_s, hardware.cpu_core_flops_per_s
    rate = min(hardware.cpu_memory_bytes_per_s or np.inf, np.inf if core_rate is None else cores * core_rate)
    return rate, None if core_flops is None else cores * core_flops


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
        and (geometry.weight_bits is None or hardware.cpu_core_flops_per_s is None),
    }
    return tuple(term for term, absent in missing.items() if absent)


def with_cpu_ratio(machine: Machine, expert_bytes: int, ratio: float) -> Machine:
    """The machine on which the weights of such an expert take the CPU ``ratio`` times as long as a copy of it."""
    rate = expert_bytes / (ratio * float(copy_s([expert_bytes], machine)[0]))
    return machine.with_figures({"cpu_memory_bytes_per_s": rate, "cpu_core_bytes_per_s": None})


def _cpu_expert_ns(
    num_bytes: Sequence[int],
    weight_bits: float | None,
    tokens: NDArray[np.float64],
    machine: Machine,
    switch: bool,
) -> Table | None:
    """Nanoseconds of one expert on the CPU, [L, n+1]: its weights out of DRAM or its arithmetic, the longer.

    The sum does not depend on the number of tokens until the arithmetic takes over. All cores work on one expert.
    Source: SMoE, Fig. 9 and section on CPU-assisted loading (arXiv 2508.18983); Fiddler (arXiv 2402.07033).
    """
    if not machine.hardware.has_cpu:
        return None
    return _nanoseconds(compute_s(num_bytes, weight_bits, tokens, *cpu_rates(machine)) * switch)


def _nanoseconds(seconds: NDArray[np.float64]) -> Table:
    """Whole nanoseconds. Raises UserError where a duration does not fit the clock."""
    return _whole(seconds * 1e9)


def _whole(nanoseconds: NDArray[np.floating[Any]]) -> Table:
    """Rounded. Raises UserError where a duration does not fit the clock."""
    _check_longest(float(nanoseconds.max(initial=0.0)))
    return np.asarray(np.rint(nanoseconds), np.int64)


def whole_ns(seconds: float) -> int:
    """Whole nanoseconds. Raises UserError where a duration does not fit the clock."""
    return _count(seconds, 1e9)


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
