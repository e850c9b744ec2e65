"""What drafting takes: the passes of the draft that come ahead of a verifying step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.config import SpeculateConfig, TimeConfig
from sim.formatting import size
from sim.machine.durations import Durations, compute_s, launch_s, whole_ns
from sim.machine.machine import Machine
from sim.machine.parts import ATTENTION, HOST, LAUNCH, PARTS
from traces.errors import UserError
from traces.format.trace import Geometry

OTHER_BITS = 16.0
"""Stored bits of the weights that are no experts."""


def with_drafts(
    durations: Durations, speculate: SpeculateConfig, geometry: Geometry, machine: Machine, most: int, time: TimeConfig
) -> Durations:
    """The durations with those of a pass of the draft over up to ``most`` requests; without drafts as they are."""
    if not speculate.tokens or speculate.draft == "ngram":
        return durations
    requests = np.arange(1, most + 1)
    table = np.zeros((most + 1, len(PARTS)), np.int64)
    experts = experts_read(speculate, geometry, requests)
    expert_launch_s, layer_launch_s = launch_s(machine)
    launches_s = time.launch * (speculate.draft_layers * layer_launch_s + experts * expert_launch_s)
    table[1:, ATTENTION] = [whole_ns(seconds) for seconds in pass_s(speculate, geometry, machine, requests)]
    table[1:, LAUNCH] = [whole_ns(seconds) for seconds in launches_s]
    table[1:, HOST] = whole_ns(time.host * speculate.draft_layers * machine.runtime.host_s_per_layer)
    return replace(durations, draft_parts_ns=table)


def experts_read(speculate: SpeculateConfig, geometry: Geometry, requests: NDArray[np.int64]) -> NDArray[np.int64]:
    """Experts that a pass over so many requests reads: top k of each, as many as the layer has; none of a model."""
    if speculate.draft != "mtp":
        return np.zeros_like(requests)
    return np.minimum(requests * geometry.top_k, geometry.num_experts)


def dense_bytes(geometry: Geometry) -> int:
    """Bytes of an MTP layer without routed experts: attention, norms, router and shared experts as of the last MoE
    layer, the projection of two hidden states to one, and the model's own output head with what is counted with it.

    Source: DeepSeek-V3, section 2.2, https://arxiv.org/abs/2412.19437. Raises: UserError where a size is not known.
    """
    sizes = {
        "attention_bytes": geometry.attention_bytes and geometry.attention_bytes[-1],
        "shared_bytes": geometry.shared_bytes and geometry.shared_bytes[-1],
        "other_bytes": geometry.other_bytes,
        "hidden_size": geometry.hidden_size,
    }
    for name, known in sizes.items():
        if known is None:
            raise UserError(
                f"speculate.draft=mtp: {name} of {geometry.model} is not known: state speculate.draft_bytes, "
                "or take the sizes of a known model with model=NAME"
            )
    projection_bytes = round(2 * (geometry.hidden_size or 0) ** 2 * OTHER_BITS / 8)
    return projection_bytes + sum(sizes[name] or 0 for name in sizes if name.endswith("_bytes"))


def resident_bytes(speculate: SpeculateConfig, geometry: Geometry) -> int:
    """Weights of the draft that lie on the device beside the model's own: what a pass reads, or of an MTP layer that is
    derived all its experts, and not the model's output head.

    Raises: UserError where a size is not known.
    """
    if not speculate.tokens or speculate.draft == "ngram":
        return 0
    if speculate.draft_bytes is not None:
        return speculate.draft_bytes
    experts = geometry.num_experts * (geometry.expert_bytes or (0,))[-1]
    return dense_bytes(geometry) - (geometry.other_bytes or 0) + experts


def kv_bytes_per_token(speculate: SpeculateConfig, geometry: Geometry) -> int:
    """K and V of one token in the draft. Raises: UserError where they are not known."""
    if not speculate.tokens or speculate.draft == "ngram":
        return 0
    if speculate.draft_kv_bytes is not None:
        return speculate.draft_kv_bytes
    if speculate.draft == "model":
        raise UserError(
            "speculate.draft=model: with cache.bytes=auto state speculate.draft_kv_bytes, K and V of one token in it"
        )
    return speculate.draft_layers * (geometry.kv_bytes_per_token or 0)


def pass_s(
    speculate: SpeculateConfig, geometry: Geometry, machine: Machine, requests: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Seconds of one pass of the draft over each number of requests, all weights in GPU memory, launches apart.

    K and V of the draft are not read. ``requests`` is counted from 1 on.
    """
    rate = machine.hardware.gpu_memory_bytes_per_s * machine.runtime.gpu_memory_share
    flops, bits = machine.hardware.gpu_flops_per_s, geometry.weight_bits
    tokens = np.concatenate([[0.0], requests])
    if speculate.draft_bytes is not None:
        return compute_s([speculate.draft_bytes], bits or OTHER_BITS, tokens, rate, flops)[0, 1:]
    dense_s = compute_s([dense_bytes(geometry)], OTHER_BITS, tokens, rate, flops)[0, 1:]
    experts = experts_read(speculate, geometry, requests)
    served = np.concatenate([[0.0], requests * geometry.top_k / np.maximum(experts, 1)])
    expert_bytes = (geometry.expert_bytes or (0,))[-1]
    return dense_s + experts * compute_s([expert_bytes], bits, served, rate, flops)[0, 1:]


def describe_drafts(speculate: SpeculateConfig, geometry: Geometry) -> str:
    """What a reader has to know of how drafts come about."""
    if speculate.draft == "ngram":
        return "drafts take no time (speculate.draft=ngram)"
    layers = f"launches and host time of {speculate.draft_layers} layer{'s' if speculate.draft_layers > 1 else ''}"
    beside = "resident in GPU memory beside the capacity of the cache, its K and V not read"
    if speculate.draft_bytes is not None:
        return f"a pass of the draft ({speculate.draft}) reads {size(speculate.draft_bytes)}, {beside}; {layers}"
    return (
        f"a pass of the draft reads an MTP layer like the model's last: {size(dense_bytes(geometry))} of attention, "
        f"shared experts, projection and output head, and top {geometry.top_k} experts, {beside}; {layers}"
    )
