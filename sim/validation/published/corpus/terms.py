"""A row's token as the product's time model sees it: seconds of each part at nominal rates, ready to be scaled.

Every part comes from ``sim.machine.durations.tabulate`` of the row's model on the row's machine, summed over layers;
no routing is known, so hits and misses are imposed as stated. What is divided by a sustained share of a nominal rate,
and what is multiplied by a factor on the software's costs, is kept apart: ``sim.validation.published.corpus.estimate``
fits those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from sim.machine.durations import call_s, copy_s, tabulate
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.model import geometry, read_every_token_bytes
from sim.machine.runtime import Runtime, load_runtime
from sim.validation.published.corpus.parts import SPECIFIED, STATED
from sim.validation.published.corpus.placement import CPU_EXPERTS, CPU_ONLY, LINK_CACHE, RESIDENT, STORAGE_CACHE
from sim.validation.published.corpus.rule import GRAPHS, IMP, KTRANSFORMERS, LLAMA, OTHER, Setting

RUNTIME_FILES = {LLAMA: "llama_cpp", GRAPHS: "cuda_graphs", KTRANSFORMERS: "ktransformers", OTHER: "llama_cpp"}
"""Whose costs a class of runtimes starts from; imp's depend on the placement, see ``runtime_of``."""
UNKNOWN_RAM, UNKNOWN_STORAGE, UNKNOWN_GPU = 80e9, 5e9, 1e12
"""Where a rate is not known: two channels of DDR5-5000, a PCIe 4 drive. Such rows count only once calibrated."""
PAGEABLE = 9.6e9
PLAIN_BITS = 16
"""Of weights that are multiplied as they lie, with nothing to unpack."""
LATENCY_S = 1.3e-6
"""Of a copy, as in `conf/hardware`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds of one token, at nominal rates and at the runtime file's costs."""

    gpu_s: float
    """Weights, K and V that the GPU reads."""
    beside_s: float
    """Experts that the GPU runs while the CPU computes others."""
    software_s: float
    """Launches, constants of layers, activations to the CPU and back, calls of copies."""
    dram_s: float
    cpu_weights: float
    """Weights that the CPU multiplies, for the limit by its cores."""
    cores: float
    """Cores that compute; infinite where their kernels are not known to be the limit."""
    link_s: float
    hits_s: float
    """Experts that are there, which the GPU runs while others are copied."""
    hits_software_s: float
    """Their launches and the calls of the copies, meanwhile."""
    storage_s: float


@cache
def _runtime(name: str) -> Runtime:
    return replace(load_runtime(name), gpu_memory_share=1.0)


def runtime_of(setting: Setting) -> Runtime:
    """The costs that a row starts from. imp captures graphs where all experts are resident, and none elsewhere."""
    if setting.software is not None:
        runtime = _runtime(setting.software)
    elif setting.runtime == IMP:
        runtime = _runtime("cuda_graphs" if setting.placement.kind == RESIDENT else "imp_2026_08")
    else:
        runtime = _runtime(RUNTIME_FILES[setting.runtime])
    return runtime if setting.placement.lookup else replace(runtime, decision_s_per_layer=0.0)


def machine_of(setting: Setting) -> Machine:
    """The row's machine at nominal rates; what computes everything on the CPU is a device whose memory is DRAM."""
    rates = setting.rates
    ram = (rates.ram_bytes_per_s or UNKNOWN_RAM) * setting.sockets / max(1, rates.sockets)
    device = ram if on_cpu(setting) else rates.gpu_bytes_per_s or UNKNOWN_GPU
    link = rates.link_bytes_per_s or ram
    hardware = Hardware(
        name=rates.name,
        gpu_memory_bytes=1,
        gpu_memory_bytes_per_s=device,
        gpu_flops_per_s=1e15,  # arithmetic of one token never counts beside its weights
        link_latency_s=LATENCY_S,
        link_bytes_per_s=link,
        pageable_bytes_per_s=min(PAGEABLE, link),
        cpu_memory_bytes_per_s=ram,
        label="ESTIMATED",
    )
    return Machine(hardware, runtime_of(setting))


def on_cpu(setting: Setting) -> bool:
    """Whether the CPU computes everything: said so, or a runtime that reads experts from storage beside no GPU."""
    if setting.placement.kind == CPU_ONLY:
        return True
    streams = setting.placement.kind == STORAGE_CACHE
    return streams and not (setting.rates.unified and not re.search("colibri|bigmoe", setting.row.runtime.lower()))


def terms_of(setting: Setting) -> Terms:
    """Seconds of one decode token of a row."""
    model, placement = setting.model, setting.placement
    machine = machine_of(setting)
    sizes = geometry(model)
    resident = placement.kind in (RESIDENT, CPU_ONLY)
    durations = tabulate(sizes, machine, 1, resident=resident)
    assert sizes.expert_bytes is not None and durations.cpu_expert_ns is not None
    layers, top_k = model.num_layers, model.top_k
    constants = layers * float(durations.before_lookup_ns.sum() + durations.after_experts_ns.sum())
    always = float((durations.attention_weights_ns[:, 1] + durations.shared_ns[:, 1]).sum()) + float(
        durations.head_ns[1]
    )
    always += layers * setting.context * durations.kv_ps_per_token / 1e3
    expert = float(durations.expert_ns[:, 1].mean())
    on_cpu_experts = top_k * _cpu_share(setting)
    on_gpu_experts, missed = layers * top_k - on_cpu_experts, placement.miss * layers * top_k
    hits = 0.0
    if placement.kind == LINK_CACHE:
        # As the engine runs a layer: hits run while misses are copied, and after the last copy its own expert.
        hits = max(0.0, layers * top_k - missed)
        on_gpu_experts = layers * (1.0 - max(0.0, 1.0 - placement.miss) ** top_k)
    gpu_ns, beside_ns = always + on_gpu_experts * expert, 0.0
    if durations.cpu_overlaps_gpu and on_cpu_experts:
        gpu_ns, beside_ns = always, on_gpu_experts * expert
    software = constants + on_gpu_experts * durations.expert_launch_ns
    dram_ns = on_cpu_experts * float(durations.cpu_expert_ns[:, 1].mean())
    weights = on_cpu_experts * float(np.mean(sizes.expert_bytes)) * 8 / model.weight_bits
    if on_cpu_experts:
        software += (placement.cpu_layers or layers) * float(durations.cpu_transfer_ns[1])
    link_s = storage_s = 0.0
    bytes_missed = placement.miss_bytes or missed * float(np.mean(sizes.expert_bytes))
    if placement.kind == LINK_CACHE:
        link_s = missed * float(copy_s(sizes.expert_bytes, machine).mean())
    if placement.kind == STORAGE_CACHE or (placement.kind == CPU_EXPERTS and missed):
        storage_s = bytes_missed / (setting.rates.storage_bytes_per_s or UNKNOWN_STORAGE)
        software += missed * machine.runtime.install_s * 1e9
    if on_cpu(setting):
        dram_ns, weights = gpu_ns, weights_read(setting)
        gpu_ns = 0.0
    return Terms(
        gpu_s=gpu_ns / 1e9,
        beside_s=beside_ns / 1e9,
        software_s=software / 1e9,
        dram_s=dram_ns / 1e9,
        cpu_weights=weights,
        cores=limiting_cores(setting),
        link_s=link_s,
        hits_s=hits * expert / 1e9,
        hits_software_s=hits * durations.expert_launch_ns / 1e9 + call_s(machine) * missed * (link_s > 0),
        storage_s=storage_s,
    )


def weights_read(setting: Setting) -> float:
    """Weights of one token, wherever they lie."""
    model, sizes = setting.model, geometry(setting.model)
    experts = model.top_k * sum(sizes.expert_bytes or ())
    return 8 * (experts / model.weight_bits + read_every_token_bytes(sizes) / model.other_bits)


def _cpu_share(setting: Setting) -> float:
    """Layers' worth of a token's experts that the CPU computes."""
    placement = setting.placement
    if placement.kind != CPU_EXPERTS:
        return 0.0
    if placement.cpu_layers:
        return float(placement.cpu_layers)
    return setting.model.num_layers * (1.0 - placement.gpu_share)


def limiting_cores(setting: Setting) -> float:
    """Cores whose arithmetic may be the limit; infinite where DRAM comes first.

    They may be of CPUs and kernels without wider vectors than AVX2's, and of the runtimes that stream: blocks of few
    bits are unpacked there. Weights of 16 bits are not.
    """
    cpu, rates = setting.rates.cpu, setting.rates
    if setting.model.weight_bits >= PLAIN_BITS:
        return np.inf
    wide = cpu is not None and cpu.vector in ("avx512", "amx")
    avx2 = "avx2" in f"{setting.row.words} {setting.row.series_id}".lower()
    if rates.cores is None or (wide and not avx2 and setting.runtime != OTHER):
        return np.inf
    cores = rates.cores * setting.sockets / max(1, rates.sockets)
    return float(min(cores, setting.threads or cores))


def blind(setting: Setting) -> bool:
    """Whether every rate that the row's placement needs is stated, or, of memories, follows from a part that it names.

    Of links and drives the part is no answer: lanes are an upper bound, and runtimes read in pieces of their own.
    """
    rates, kind = setting.rates, setting.placement.kind
    if setting.assumed:
        return False
    needs_ram = kind in (CPU_EXPERTS, CPU_ONLY) or on_cpu(setting)
    if needs_ram and rates.ram_known not in (STATED, SPECIFIED):
        return False
    if kind == LINK_CACHE:
        return rates.link_known == STATED
    return kind != STORAGE_CACHE or rates.storage_known == STATED
