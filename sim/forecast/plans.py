"""Plans: placements and caches that a runtime can really do with a model on a machine, each with the flags for it.

One function per runtime of `conf/runtime`, in `plans_of_layers` and `plans_of_caches`; what does not fit or cannot be
known is refused in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from sim.forecast.ask import (
    CELLS,
    Ask,
    Found,
    Plan,
    Refusal,
    gib,
    needs_card,
    no_experts_elsewhere,
    served,
    setting_for,
)
from sim.forecast.plans_of_caches import (
    imp_2026_08_pool,
    ktransformers,
    llama_cpp_moe_cache,
    mixtral_offloading,
    mlx_ssd,
)
from sim.forecast.plans_of_layers import cuda_graphs, eager_hf, llama_cpp
from sim.validation.published.corpus.placement import CPU_EXPERTS, CPU_ONLY, RESIDENT, placement_of
from sim.validation.published.corpus.rule import GRAPHS, KTRANSFORMERS, LLAMA
from sim.validation.published.corpus.tables import COLUMNS, measurement_of
from traces.errors import UserError

SYSTEM_BYTES = 2e9
"""Of host memory, what everything else takes: ESTIMATED."""


RUNTIMES: dict[str, Callable[[Ask], Found]] = {
    "llama_cpp": llama_cpp,
    "llama_cpp_moe_cache": llama_cpp_moe_cache,
    "ktransformers": ktransformers,
    "cuda_graphs": cuda_graphs,
    "imp_2026_08_pool": imp_2026_08_pool,
    "eager_hf": eager_hf,
    "mixtral_offloading": mixtral_offloading,
    "mlx_ssd": mlx_ssd,
}
"""Runtimes of `conf/runtime` that people run, with how a plan of each is made; the others are papers' code."""


def plans_for(ask: Ask, runtimes: Sequence[str]) -> tuple[list[Plan], list[Refusal]]:
    """Every plan of these runtimes, or of the first the one that is asked for, and what is refused."""
    plans: list[Plan] = []
    refusals: list[Refusal] = []
    for runtime in runtimes:
        for found in [_placed(ask, runtime, ask.placement)] if ask.placement else RUNTIMES[runtime](ask):
            if isinstance(found, Plan):
                found = with_storage(ask, found)
            if isinstance(found, Plan):
                plans.append(found)
            else:
                refusals.append(found)
    return plans, refusals


def with_storage(ask: Ask, plan: Plan) -> Plan | Refusal:
    """The plan itself where host memory holds what it has to; else llama.cpp's file is mapped, and what its page cache
    lacks is read; or why that cannot be said.

    The page cache is LRU over whole experts of the layers on the CPU (docs/tiers.md); drawn hits, so on paper.
    """
    short, kind = host_shortage(ask, plan), plan.setting.placement
    ram, storage = ask.machine.rates.ram_bytes, ask.machine.rates.storage_bytes_per_s
    if short is None:
        return plan
    if plan.runtime != "llama_cpp" or kind.kind != CPU_EXPERTS or not kind.cpu_layers or ask.placement or ram is None:
        return Refusal(plan.runtime, f"{plan.what}: {short}")
    if storage is None:
        return Refusal(plan.runtime, f"{plan.what}: {short}; say how fast yours reads, as 5 GB/s ssd")
    if ask.routing is None:
        return Refusal(plan.runtime, f"{plan.what}: {short}; {needs_card(ask)}")
    slots = int((ram - SYSTEM_BYTES) // sum(ask.model.expert_bytes[: kind.cpu_layers]))
    if slots < 1:
        return Refusal(plan.runtime, f"{plan.what}: {short}, and RAM holds not one expert of every layer")
    hit = ask.routing.hit_rate("lru", slots, plan.runtime)
    away = kind.cpu_layers / ask.layers
    setting = replace(plan.setting, placement=replace(kind, miss=away * (1 - hit)))
    fewer = replace(setting, placement=replace(kind, miss=away * (1 - max(0.0, hit - ask.routing.hit_error))))
    what = f"{plan.what}; RAM holds {slots} of {ask.model.dimensions.num_experts} of them a layer, storage the others"
    flags = plan.flags.replace(" --no-mmap", "")
    return replace(
        plan, what=what, flags=flags, setting=setting, host_bytes=ram - SYSTEM_BYTES, hit_rate=hit,
        with_fewer_hits=fewer, checked=False,
    )  # fmt: skip


def host_shortage(ask: Ask, plan: Plan) -> str | None:
    """Why a plan does not fit into host memory; None where it does, or where nobody says how much there is."""
    ram = ask.machine.rates.ram_bytes
    if ask.machine.rates.unified or ram is None or plan.host_bytes <= ram - SYSTEM_BYTES:
        return None
    what = "weights, K and V" if plan.setting.placement.kind == CPU_ONLY else "weights"
    return (
        f"{plan.host_bytes / 1e9:.1f} GB of {what} in {ram / 1e9:.1f} GB of RAM, of which the system takes "
        f"{SYSTEM_BYTES / 1e9:.0f}: the rest would be read from storage"
    )


PLACEMENTS = "all resident, CPU only, exps=CPU, --n-cpu-moe N or N % of experts on GPU"
"""Words of a placement that need no routing."""


def _placed(ask: Ask, runtime: str, words: str) -> Plan | Refusal:
    """The plan of a placement in words. Raises: UserError where they say none."""
    kind = {"ktransformers": KTRANSFORMERS, "cuda_graphs": GRAPHS, "llama_cpp": LLAMA}.get(runtime)
    if kind is None:
        raise UserError(f"placement={words}: runtime={runtime} has none: must be llama_cpp, ktransformers, cuda_graphs")
    cells = dict.fromkeys(COLUMNS, "") | {"placement_value": words} | CELLS
    row = measurement_of("placement=", cells, (CELLS["machine_id"],))
    placement = placement_of(row, ask.model.dimensions)
    if placement is None or placement.kind not in (RESIDENT, CPU_ONLY, CPU_EXPERTS):
        raise UserError(f"placement={words}: must be {PLACEMENTS}")
    always = ask.always_bytes(False) + ask.kv_bytes + ask.workspace_bytes
    total = sum(ask.layer_bytes)
    share = placement.gpu_share if placement.cpu_layers == 0 else 1 - placement.cpu_layers / ask.layers
    on_gpu = total * share if placement.kind == CPU_EXPERTS else total if placement.kind == RESIDENT else 0.0
    used = 0.0 if placement.kind == CPU_ONLY else always + on_gpu
    if used > ask.machine.gpu_bytes:
        return Refusal(runtime, _over(ask, words, used))
    if placement.kind != RESIDENT and (why := no_experts_elsewhere(ask)):
        return Refusal(runtime, why)
    host = total - on_gpu if placement.kind != CPU_ONLY else ask.model.bytes + ask.kv_bytes
    flags = _command(ask, kind, words)
    return Plan(runtime, words, flags, setting_for(ask, kind, placement), used, host)


def _command(ask: Ask, runtime: str, words: str) -> str:
    """A placement in words as a command where the runtime has one for it; else the words."""
    told = {"all resident": "-ngl 99", "cpu only": "-ngl 0", "exps=cpu": "-ngl 99 -ot exps=CPU"}.get(words.lower())
    if re.fullmatch(r"--?n-cpu-moe \d+", words.strip()):
        told = f"-ngl 99 {words.strip()}"
    return f"llama-server -m MODEL.gguf {told} -c {served(ask)}" if told and runtime == LLAMA else words


def _over(ask: Ask, what: str, used: float) -> str:
    """By how much something does not fit into the GPU's memory, and what may be given."""
    most = ask.workspace_bytes - (used - ask.machine.gpu_bytes)
    hint = f", or workspace={int(100 * most / 1e9) / 100:g} where that is enough" if most > 1e7 else ""
    return (
        f"{what} takes {gib(used)}, the GPU has {gib(ask.machine.gpu_bytes)}: {gib(used - ask.machine.gpu_bytes)} too "
        f"much, workspace={ask.workspace_bytes / 1e9:g} included: more experts on the CPU{hint}"
    )
