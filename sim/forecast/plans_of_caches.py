"""Plans whose hits decide: caches of experts and static sets of the most used ones, hits from a card's routing."""

from __future__ import annotations

from dataclasses import replace

from sim.forecast.ask import (
    Ask,
    Found,
    Plan,
    Refusal,
    beside,
    needs_card,
    no_experts_elsewhere,
    served,
    setting_for,
    too_little,
)
from sim.forecast.routing import Hits, Routing
from sim.machine.runtime import load_runtime
from sim.machine.storage import READAHEAD_BYTES, rate_at
from sim.validation.published.corpus.placement import CPU_EXPERTS, LINK_CACHE, STORAGE_CACHE, Placement
from sim.validation.published.corpus.rule import IMP, IMP_POOL, KTRANSFORMERS, LLAMA, OTHER, Setting

IMP_BUDGET = 0.5
"""Share of free memory for imp's cache: the most that was measured without spilling (kekzl/imp, pulls 1374, 2060)."""


def llama_cpp_moe_cache(ask: Ask) -> Found:
    """llama.cpp with pull request 27861: recently used experts on the GPU, misses on the CPU, uploads behind."""
    name = "llama_cpp_moe_cache"
    found = _slots(ask, name, 1.0)
    if isinstance(found, Refusal):
        return [found]
    slots, routing = found
    hits = routing.hits(name, slots, name)
    placement = Placement(CPU_EXPERTS, gpu_share=hits.rate)
    flags = (
        f"llama-server -m MODEL.gguf -ngl 99 --n-cpu-moe 99 --moe-expert-cache {slots} -c {served(ask)}  "
        "(a build of llama.cpp pull request 27861)"
    )
    what = f"a cache of {slots} of {ask.model.dimensions.num_experts} experts a layer on the GPU, misses on the CPU"
    setting = setting_for(ask, LLAMA, placement, software=name)
    return [with_layers(_cached(ask, name, what, flags, setting, slots, hits.rate), hits, routing.hit_error)]


def with_layers(plan: Plan, hits: Hits, error: float) -> Plan:
    """A plan whose misses the CPU computes beside the hits: which layers miss how many counts, not only their mean."""
    return replace(plan, layers=hits.layers, fewer_layers=hits.fewer(error).layers)


def imp_2026_08_pool(ask: Ask) -> Found:
    """imp: an LRU cache of each layer on the GPU, misses over the link."""
    name = IMP_POOL
    found = _slots(ask, name, IMP_BUDGET)
    if isinstance(found, Refusal):
        return [found]
    slots, routing = found
    hit = routing.hit_rate("lru", slots, name)
    placement = Placement(LINK_CACHE, miss=1.0 - hit)
    flags = (
        f"imp-cli --set moe.force_host_experts={ask.layers} --set moe.expert_cache_budget_pct={round(100 * IMP_BUDGET)}"
    )
    what = f"an LRU cache of {slots} of {ask.model.dimensions.num_experts} experts a layer, misses over the link"
    return [_cached(ask, name, what, flags, setting_for(ask, IMP, placement, software=name), slots, hit)]


def mixtral_offloading(ask: Ask) -> Found:
    """Eliseev and Mazur's code: an LRU cache of each layer; of Mixtral alone."""
    name = "mixtral_offloading"
    if ask.model.family != "mixtral":
        return [Refusal(name, "runs Mixtral only")]
    found = _slots(ask, name, 1.0)
    if isinstance(found, Refusal):
        return [found]
    slots, routing = found
    hit = routing.hit_rate("lru", slots, name)
    placement = Placement(LINK_CACHE, miss=1.0 - hit)
    experts = ask.model.dimensions.num_experts
    flags = f"offload_per_layer = {experts - slots} in its notebook"
    what = f"an LRU cache of {slots} of {experts} experts a layer, misses over the link"
    return [_cached(ask, name, what, flags, setting_for(ask, OTHER, placement, software=name), slots, hit)]


def _slots(ask: Ask, name: str, share: float) -> tuple[int, Routing] | Refusal:
    """Slots a layer that ``share`` of the room gives, and the routing; or why there is no cache."""
    why = too_little(ask) or no_experts_elsewhere(ask)
    slots = 0 if why else int(share * ask.room() // max(1, sum(ask.model.expert_bytes)))
    if why is None and sum(ask.layer_bytes) <= ask.room():
        why = "all experts fit: no cache is needed"
    elif why is None and slots < 1:
        why = f"a cache of one expert a layer takes {sum(ask.model.expert_bytes) / 1e9:.1f} GB: it does not fit"
    if why is None and ask.routing is None:
        why = needs_card(ask)
    if why is not None or ask.routing is None:
        return Refusal(name, why or "")
    return min(slots, ask.model.dimensions.num_experts), ask.routing


def _cached(ask: Ask, name: str, what: str, flags: str, setting: Setting, slots: int, hit: float) -> Plan:
    """A plan whose hits come from a card: no published speed was predicted from drawn routing."""
    assert ask.routing is not None
    fewer = max(0.0, hit - ask.routing.hit_error)
    kind = setting.placement
    reads = kind.kind in (LINK_CACHE, STORAGE_CACHE)
    placement = replace(kind, miss=1 - fewer) if reads else replace(kind, gpu_share=fewer)
    plan = beside(ask, name, what, flags, setting, slots)
    return replace(plan, hit_rate=hit, with_fewer_hits=replace(setting, placement=placement), checked=False)


def ktransformers(ask: Ask) -> Found:
    """KTransformers: some experts of each layer on the GPU, any or the most used ones, the rest on the CPU."""
    name = "ktransformers"
    why = too_little(ask) or no_experts_elsewhere(ask)
    if why is None and sum(ask.layer_bytes) <= ask.room():
        why = "all experts fit: none are left to the CPU"
    if why is not None:
        return [Refusal(name, why)]
    experts = ask.model.dimensions.num_experts
    slots = min(experts, int(ask.room() // max(1, sum(ask.model.expert_bytes))))
    cores = f" --kt-cpuinfer {ask.machine.rates.cores}" if ask.machine.rates.cores else ""
    base = f"python -m sglang.launch_server --model MODEL --kt-weight-path WEIGHTS{cores} --kt-num-gpu-experts {slots}"
    plain = Placement(CPU_EXPERTS, gpu_share=slots / experts)
    what = f"{slots} of {experts} experts a layer on the GPU, the others on the CPU"
    flags = f"{base} --kt-expert-placement-strategy uniform"
    found: Found = [beside(ask, name, what, flags, setting_for(ask, KTRANSFORMERS, plain), slots)]
    if slots == 0:
        return found
    if ask.routing is None:
        return [*found, Refusal(name, f"its most used experts on the GPU: {needs_card(ask)}")]
    hits = ask.routing.hits(name, slots, name)
    popular = setting_for(ask, KTRANSFORMERS, Placement(CPU_EXPERTS, gpu_share=hits.rate))
    flags = f"{base} --kt-expert-placement-strategy frequency --init-expert-location COUNTS.pt"
    what = f"the {slots} most used of {experts} experts a layer on the GPU, the others on the CPU"
    cached = _cached(ask, name, what, flags, popular, slots, hits.rate)
    return [*found, with_layers(cached, hits, ask.routing.hit_error)]


def mlx_ssd(ask: Ask) -> Found:
    """MLX with an SSD behind unified memory (boyle): an LRU cache of each layer, misses are read into its slots."""
    name, machine = "mlx_ssd", ask.machine
    why = None if machine.rates.unified else "runs where CPU and GPU share one memory"
    why = why or too_little(ask)
    if why is None and sum(ask.layer_bytes) <= ask.room():
        why = "all experts fit: nothing has to be read"
    if why is None and machine.rates.storage_bytes_per_s is None:
        why = "the rate of the machine's drive is not known: say it, as 5 GB/s ssd"
    if why is None and ask.routing is None:
        why = needs_card(ask)
    slots = 0 if why else int(ask.room() // max(1, sum(ask.model.expert_bytes)))
    if why is None and slots < 1:
        why = "not one expert of every layer fits"
    if why is not None or ask.routing is None:
        return [Refusal(name, why or "")]
    hit = ask.routing.hit_rate("lru", slots, name)
    setting = setting_for(ask, OTHER, Placement(STORAGE_CACHE, miss=1 - hit), software=name)
    if machine.file is not None and machine.file.storage_rates:
        runtime = load_runtime(name)
        size = min(max(ask.model.expert_bytes) / runtime.copies_per_expert, runtime.read_bytes or float("inf"))
        rate = rate_at(machine.file, size, runtime.read_depth or 1, False)
        rate *= (machine.rates.storage_bytes_per_s or 0.0) / rate_at(machine.file, READAHEAD_BYTES, 1, True)
        setting = replace(setting, rates=replace(setting.rates, storage_bytes_per_s=rate))
    experts = ask.model.dimensions.num_experts
    what = f"an LRU cache of {slots} of {experts} experts a layer, misses from storage"
    plan = _cached(ask, name, what, f"boyle (MLX), a cache of {slots} experts a layer", setting, slots, hit)
    return [replace(plan, host_bytes=0)]
