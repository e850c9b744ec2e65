"""What each step of OD-MoE takes and holds: durations in whole nanoseconds, bytes of GPU memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.machine.durations import compute_s, whole_ns
from sim.machine.model import Dimensions, geometry, load_dimensions
from sim.systems.od_moe.config import SHADOW_BITS, OdMoe
from traces.errors import UserError
from traces.format.trace import Geometry, Trace

_ACTIVATION_BYTES = 4
"""FP32 hidden states: 16 KB per token for a hidden size of 4096, as the paper states."""


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in ns: `load` of an expert, `message` of one hidden state on the wire, its `latency`, and so on.

    `main_ns` is t_M of the paper: attention, router and host of a layer, for one token without K and V; `kv_ps` is
    added per token of context. `worker_ns` is t_W: hidden states out, one expert, results back. `shadow_ns`: one layer
    of the shadow model. `align_token_ns`, `align_kv_ns`: what an alignment takes on the wire, K and V per token.
    """

    num_layers: int
    num_experts: int
    top_k: int
    num_groups: int
    expert_bytes: int
    load_ns: int
    main_ns: int
    kv_ps: int
    head_ns: int
    expert_ns: int
    message_ns: int
    latency_ns: int
    shadow_ns: int
    align_token_ns: int
    align_kv_ns: int
    flop_ns_per_token: float
    """Arithmetic of one expert for one token: what a prompt's experts take once it exceeds reading the weights."""
    main_flop_ns_per_token: float

    @property
    def worker_ns(self) -> int:
        """t_W = (k + 1) messages + 2 latencies + one expert: the k hidden states leave one after the other."""
        return (self.top_k + 1) * self.message_ns + 2 * self.latency_ns + self.expert_ns

    @property
    def deadline_ns(self) -> int:
        """The longest load that causes no stall: G t_M + (G - 1) t_W for G groups; 4 t_M + 3 t_W in the paper.

        Loads may also run while hidden states travel, so the simulated system forgives one message and one latency in
        each direction more. Source: OD-MoE, section on scheduling (https://arxiv.org/abs/2512.03927).
        """
        return self.num_groups * self.main_ns + (self.num_groups - 1) * self.worker_ns

    def experts_ns(self, tokens: float) -> int:
        """One expert for several tokens: reading its weights or its arithmetic, the longer, and its launches."""
        return max(self.expert_ns, round(tokens * self.flop_ns_per_token)) if tokens > 0 else 0

    def attention_ns(self, tokens: int, context: int) -> int:
        """A layer on the main node for `tokens` new tokens that see `context` tokens of K and V."""
        return max(self.main_ns, round(tokens * self.main_flop_ns_per_token)) + context * self.kv_ps // 1000


def sizes(system: OdMoe, trace: Trace | None) -> Geometry:
    """Bytes of the model at the precision of the cluster; of the trace's own where `model` is `trace`.

    Raises: UserError when the trace's sizes are wanted and there is no trace, or it does not know them.
    """
    if system.model != "trace":
        return geometry(dimensions(system))
    if trace is None or trace.geometry.expert_bytes is None or trace.geometry.hidden_size is None:
        raise UserError("system.model=trace: the trace must state expert_bytes and hidden_size; or name a model")
    return trace.geometry


def dimensions(system: OdMoe) -> Dimensions:
    """The named model with every weight at `weight_bits`."""
    return replace(load_dimensions(system.model), weight_bits=system.weight_bits, other_bits=system.weight_bits)


def tabulate(system: OdMoe, model: Geometry) -> Times:
    """All durations of a model on the cluster.

    Raises: UserError when fewer workers than experts per token are there.
    """
    if system.workers < model.top_k:
        raise UserError(f"system.workers={system.workers}: one token uses {model.top_k} experts, one worker each")
    expert, attention, other = _bytes(model)
    main = (system.gpu_memory_bytes_per_s, system.gpu_flops_per_s)
    worker = (system.worker_memory_bytes_per_s, system.gpu_flops_per_s)
    message_s = _ACTIVATION_BYTES * (model.hidden_size or 0) / system.network_bytes_per_s
    kv = model.kv_bytes_per_token or 0
    per_parameter = 8.0 / (model.weight_bits or system.weight_bits)
    return Times(
        num_layers=model.num_layers,
        num_experts=model.num_experts,
        top_k=model.top_k,
        num_groups=system.workers // model.top_k,
        expert_bytes=expert,
        load_ns=whole_ns(system.link_latency_s + expert / system.link_bytes_per_s),
        main_ns=whole_ns(_read_s(attention, system.weight_bits, *main) + system.host_s_per_layer),
        kv_ps=round(kv / system.gpu_memory_bytes_per_s * 1e12),
        head_ns=whole_ns(_read_s(other, system.weight_bits, *main)),
        expert_ns=whole_ns(_read_s(expert, system.weight_bits, *worker) + system.launch_s),
        message_ns=whole_ns(message_s),
        latency_ns=whole_ns(system.network_latency_s),
        shadow_ns=whole_ns(shadow_layer_s(system, model)),
        align_token_ns=whole_ns(8 / system.network_bytes_per_s),
        align_kv_ns=whole_ns(kv * model.num_layers / system.network_bytes_per_s),
        flop_ns_per_token=2e9 * expert * per_parameter / system.gpu_flops_per_s,
        main_flop_ns_per_token=2e9 * attention * per_parameter / system.gpu_flops_per_s,
    )


def shadow_layer_s(system: OdMoe, model: Geometry) -> float:
    """One layer of the shadow model: its attention and k experts at its precision, and the host time of its library."""
    expert, attention, _ = _bytes(model)
    share = SHADOW_BITS[system.precision] / (model.weight_bits or system.weight_bits)
    weights = (attention + model.top_k * expert) * share
    return weights / system.gpu_memory_bytes_per_s + system.shadow_host_s_per_layer


def all_gpu_s(system: OdMoe, model: Geometry) -> float:
    """A token where every expert stays in the memory of one of several GPUs, in full precision, one after the other."""
    expert, attention, other = _bytes(model)
    weights = (attention + model.top_k * expert) * model.num_layers + other
    return weights / system.gpu_memory_bytes_per_s + model.num_layers * system.shadow_host_s_per_layer


def memory_bytes(system: OdMoe, model: Geometry, context: int) -> dict[str, int]:
    """GPU memory of the nodes: main, shadow, all workers, and their sum; contexts of the driver are left out.

    Main: everything but experts, with K and V of `context` tokens. Shadow: the whole model at its precision, K and V in
    16 bits; only where a shadow predicts. A worker: one expert. The embedding is as large as the LM head.
    """
    expert, attention, other = _bytes(model)
    rest = attention * model.num_layers + 2 * other
    kv = (model.kv_bytes_per_token or 0) * model.num_layers * context
    bits = model.weight_bits or system.weight_bits
    whole = expert * model.num_experts * model.num_layers + rest
    shadow = round(whole * SHADOW_BITS[system.precision] / bits + kv / 2) if system.prediction == "shadow" else 0
    parts = {"main": rest + kv, "shadow": shadow, "workers": system.workers * expert}
    return {**parts, "total": sum(parts.values())}


def all_gpu_bytes(model: Geometry) -> int:
    """The whole model in full precision."""
    expert, attention, other = _bytes(model)
    return (expert * model.num_experts + attention) * model.num_layers + 2 * other


def _bytes(model: Geometry) -> tuple[int, int, int]:
    """Bytes of an expert, of a layer's attention, and of the LM head; 0 for what the trace does not know."""
    assert model.expert_bytes is not None
    attention = model.attention_bytes[0] if model.attention_bytes else 0
    return model.expert_bytes[0], attention, model.other_bytes or 0


def _read_s(num_bytes: int, bits: float, bytes_per_s: float, flops_per_s: float) -> float:
    return float(compute_s((num_bytes,), bits, np.arange(2.0), bytes_per_s, flops_per_s)[0, 1])
