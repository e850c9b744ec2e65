"""Plans: placements and caches that a runtime can really do with a model on a machine, each with the flags for it.

One function per runtime of `conf/runtime`; what does not fit or cannot be known is refused in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sim.forecast.machines import ForecastMachine, files_alike
from sim.forecast.models import ForecastModel
from sim.forecast.routing import Hits, Routing
from sim.machine.model import embedding_bytes, geometry
from sim.machine.runtime import load_runtime
from sim.machine.storage import READAHEAD_BYTES, rate_at
from sim.validation.published.corpus.placement import (
    CPU_EXPERTS,
    CPU_ONLY,
    LINK_CACHE,
    RESIDENT,
    STORAGE_CACHE,
    Placement,
    placement_of,
)
from sim.validation.published.corpus.rule import GRAPHS, IMP, IMP_POOL, KTRANSFORMERS, LLAMA, MMAP_FILLS, OTHER, Setting
from sim.validation.published.corpus.tables import COLUMNS, measurement_of
from traces.errors import UserError

SYSTEM_BYTES = 2e9
"""Of host memory, what everything else takes: ESTIMATED."""
IMP_BUDGET = 0.5
"""Share of free memory for imp's cache: the most that was measured without spilling (kekzl/imp, pulls 1374, 2060)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be run, where, and with what in memory."""

    model: ForecastModel
    machine: ForecastMachine
    routing: Routing | None
    context: int
    workspace_bytes: float
    prompt: int = 512
    """Tokens of a prompt whose first token is waited for."""
    placement: str | None = None
    """The one plan that is asked for, in the words of the corpus; None: whatever is best."""

    @property
    def layers(self) -> int:
        return self.model.dimensions.num_layers

    @property
    def layer_bytes(self) -> list[int]:
        """Of all experts of each MoE layer."""
        return [self.model.dimensions.num_experts * size for size in self.model.expert_bytes]

    @property
    def kv_bytes(self) -> int:
        sizes = self.model.dimensions
        return (sizes.stored_kv_bytes or 0) * sizes.num_layers * self.context

    def always_bytes(self, embedding: bool) -> int:
        """Of everything that is no routed expert; llama.cpp keeps the input embedding in host memory."""
        sizes = geometry(self.model.dimensions)
        rest = sum(sizes.attention_bytes or ()) + sum(sizes.shared_bytes or ()) + (sizes.other_bytes or 0)
        return rest + (embedding_bytes(self.model.dimensions) if embedding else 0)

    def room(self, embedding: bool = True) -> float:
        """Bytes of the GPU's memory that are left for experts."""
        taken = self.always_bytes(embedding) + self.kv_bytes + self.workspace_bytes
        return self.machine.gpu_bytes - taken


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run the model, ready to be predicted."""

    runtime: str
    what: str
    flags: str
    setting: Setting
    gpu_bytes: float
    host_bytes: float
    hit_rate: float | None = None
    """Of a cache, from replays of the card's routing; None where no routing counts."""
    with_fewer_hits: Setting | None = None
    """The same where the routing's hits are one standard error lower."""
    layers: tuple[float, ...] = ()
    """[top_k + 1] share of layers that miss so many of their experts, which the CPU computes; empty: all are alike."""
    fewer_layers: tuple[float, ...] = ()
    """So with fewer hits."""
    checked: bool = True
    """Published rows may say how far such plans are off, see ``predict.is_checked``; hits from a card never were."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A runtime that was asked for, and why it has no such plan."""

    runtime: str
    why: str


Found = list[Plan | Refusal]


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
        return Refusal(plan.runtime, f"{plan.what}: {short}; {_needs_card(ask)}")
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
    cells = dict.fromkeys(COLUMNS, "") | {"placement_value": words} | _CELLS
    row = measurement_of("placement=", cells, (_CELLS["machine_id"],))
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
    if placement.kind != RESIDENT and (why := _no_experts_elsewhere(ask)):
        return Refusal(runtime, why)
    host = total - on_gpu if placement.kind != CPU_ONLY else ask.model.bytes + ask.kv_bytes
    flags = _command(ask, kind, words)
    return Plan(runtime, words, flags, _setting(ask, kind, placement), used, host)


def _command(ask: Ask, runtime: str, words: str) -> str:
    """A placement in words as a command where the runtime has one for it; else the words."""
    told = {"all resident": "-ngl 99", "cpu only": "-ngl 0", "exps=cpu": "-ngl 99 -ot exps=CPU"}.get(words.lower())
    if re.fullmatch(r"--?n-cpu-moe \d+", words.strip()):
        told = f"-ngl 99 {words.strip()}"
    return f"llama-server -m MODEL.gguf {told} -c {served(ask)}" if told and runtime == LLAMA else words


def served(ask: Ask) -> int:
    """Tokens that a server is told to make room for: 0 would be the model's whole context to llama-server."""
    return ask.context or BENCH_CONTEXT


BENCH_CONTEXT = 512
"""Room for an answer where context=0 asks for what a bench measures."""


def _over(ask: Ask, what: str, used: float) -> str:
    """By how much something does not fit into the GPU's memory, and what may be given."""
    most = ask.workspace_bytes - (used - ask.machine.gpu_bytes)
    hint = f", or workspace={int(100 * most / 1e9) / 100:g} where that is enough" if most > 1e7 else ""
    return (
        f"{what} takes {gib(used)}, the GPU has {gib(ask.machine.gpu_bytes)}: {gib(used - ask.machine.gpu_bytes)} too "
        f"much, workspace={ask.workspace_bytes / 1e9:g} included: more experts on the CPU{hint}"
    )


def gib(size: float) -> str:
    """Bytes of a GPU's memory, in the binary units that its maker calls GB."""
    return f"{size / 2**30:.2f} GiB"


_CELLS = {
    "row_id": "plan", "series_id": "plan", "machine_id": "plan", "model": "plan", "runtime": "plan",
    "decode_tok_s": "1", "confidence": "high", "source": "forecast",
}  # fmt: skip
"""What a row must hold; a plan has no rate yet, and its 1 token/s is never looked at."""


def _setting(ask: Ask, runtime: str, placement: Placement, software: str | None = None) -> Setting:
    cells = dict.fromkeys(COLUMNS, "") | _CELLS | {"machine_id": ask.machine.name, "runtime": runtime}
    rates = ask.machine.rates
    return Setting(
        row=measurement_of("plan", cells, (ask.machine.name,)),
        known=ask.model.known,
        model=ask.model.dimensions,
        placement=placement,
        rates=rates,
        context=ask.context,
        runtime=runtime,
        sockets=rates.sockets if runtime == KTRANSFORMERS else 1,
        threads=rates.threads,
        software=software,
    )


def _too_little(ask: Ask, embedding: bool = True) -> str | None:
    """Why nothing runs on the GPU at all."""
    if not ask.machine.has_gpu:
        return "the machine has no GPU that is known"
    if ask.room(embedding) < 0:
        fixed = ask.always_bytes(embedding) + ask.kv_bytes + ask.workspace_bytes
        return (
            f"attention, K and V of {ask.context:,} tokens and workspace take {gib(fixed)}, the GPU has "
            f"{gib(ask.machine.gpu_bytes)}"
        )
    return None


def _no_experts_elsewhere(ask: Ask) -> str | None:
    """Why experts cannot lie beside the GPU's memory."""
    if ask.machine.rates.unified:
        return "CPU and GPU share one memory: experts are resident or nowhere"
    if ask.machine.rates.ram_bytes_per_s is None:
        alike = "".join(f" or hardware={name}" for name in files_alike(ask.machine.name))
        return f"the rate of the machine's RAM is not known: say it, as 2ch DDR5-5600 or 80 GB/s RAM{alike}"
    return None


def _needs_card(ask: Ask) -> str:
    return (
        f"its hits need routing, and no card is of the family {ask.model.family}: borrow=CARD takes another's and says "
        "so, card=FILE.yaml one of your own (python -m sim card)"
    )


def llama_cpp(ask: Ask) -> Found:
    """All on the GPU, the experts of some layers on the CPU, everything on the CPU."""
    found: Found = []
    server = "llama-server -m MODEL.gguf"
    context = f"-c {served(ask)}"
    little = _too_little(ask, embedding=False)
    room, total = ask.room(embedding=False), sum(ask.layer_bytes)
    always = ask.always_bytes(embedding=False) + ask.kv_bytes + ask.workspace_bytes
    if little is not None:
        found.append(Refusal("llama_cpp", little))
    elif total <= room:
        setting = _setting(ask, LLAMA, Placement(RESIDENT))
        found.append(
            Plan("llama_cpp", "everything on the GPU", f"{server} -ngl 99 {context}", setting, always + total, 0)
        )
    else:
        elsewhere = _no_experts_elsewhere(ask)
        if elsewhere is not None:
            found.append(
                Refusal("llama_cpp", f"{total / 1e9:.1f} GB of experts do not fit beside the rest: {elsewhere}")
            )
        else:
            found.append(_layers_on_cpu(ask, server, context, room, always))
    if ask.machine.rates.ram_bytes_per_s is not None and not ask.machine.rates.unified:
        setting = _setting(ask, LLAMA, Placement(CPU_ONLY))
        host = ask.model.bytes + ask.kv_bytes
        flags = f"{server} -ngl 0 {context}{_mmap(ask, host)}"
        found.append(Plan("llama_cpp", "everything on the CPU", flags, setting, 0, host))
    return found


def _layers_on_cpu(ask: Ask, server: str, context: str, room: float, always: float) -> Plan:
    """As many of the last layers' experts on the GPU as fit; llama.cpp counts dense layers from the first, too."""
    kept, used = 0, 0
    for size in reversed(ask.layer_bytes):
        if used + size > room:
            break
        kept, used = kept + 1, used + size
    on_cpu = ask.layers - kept
    host = sum(ask.layer_bytes[:on_cpu])
    count = on_cpu + ask.model.dimensions.dense_layers
    flags = f"{server} -ngl 99 --n-cpu-moe {count} {context}{_mmap(ask, host)}"
    what = f"experts of {on_cpu} of {ask.layers} layers on the CPU, the rest on the GPU"
    return Plan("llama_cpp", what, flags, _setting(ask, LLAMA, Placement(CPU_EXPERTS, on_cpu)), always + used, host)


def _mmap(ask: Ask, host: float) -> str:
    ram = ask.machine.rates.ram_bytes
    return " --no-mmap" if ram is not None and host > MMAP_FILLS * ram else ""


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
    setting = _setting(ask, LLAMA, placement, software=name)
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
    return [_cached(ask, name, what, flags, _setting(ask, IMP, placement, software=name), slots, hit)]


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
    return [_cached(ask, name, what, flags, _setting(ask, OTHER, placement, software=name), slots, hit)]


def _slots(ask: Ask, name: str, share: float) -> tuple[int, Routing] | Refusal:
    """Slots a layer that ``share`` of the room gives, and the routing; or why there is no cache."""
    why = _too_little(ask) or _no_experts_elsewhere(ask)
    slots = 0 if why else int(share * ask.room() // max(1, sum(ask.model.expert_bytes)))
    if why is None and sum(ask.layer_bytes) <= ask.room():
        why = "all experts fit: no cache is needed"
    elif why is None and slots < 1:
        why = f"a cache of one expert a layer takes {sum(ask.model.expert_bytes) / 1e9:.1f} GB: it does not fit"
    if why is None and ask.routing is None:
        why = _needs_card(ask)
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
    plan = _beside(ask, name, what, flags, setting, slots)
    return replace(plan, hit_rate=hit, with_fewer_hits=replace(setting, placement=placement), checked=False)


def _beside(ask: Ask, name: str, what: str, flags: str, setting: Setting, slots: int) -> Plan:
    """A plan with so many experts of every layer on the GPU and all of them in host memory."""
    used = ask.always_bytes(True) + ask.kv_bytes + ask.workspace_bytes + slots * sum(ask.model.expert_bytes)
    return Plan(name, what, flags, setting, used, sum(ask.layer_bytes))


def ktransformers(ask: Ask) -> Found:
    """KTransformers: some experts of each layer on the GPU, any or the most used ones, the rest on the CPU."""
    name = "ktransformers"
    why = _too_little(ask) or _no_experts_elsewhere(ask)
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
    found: Found = [_beside(ask, name, what, flags, _setting(ask, KTRANSFORMERS, plain), slots)]
    if slots == 0:
        return found
    if ask.routing is None:
        return [*found, Refusal(name, f"its most used experts on the GPU: {_needs_card(ask)}")]
    hits = ask.routing.hits(name, slots, name)
    popular = _setting(ask, KTRANSFORMERS, Placement(CPU_EXPERTS, gpu_share=hits.rate))
    flags = f"{base} --kt-expert-placement-strategy frequency --init-expert-location COUNTS.pt"
    what = f"the {slots} most used of {experts} experts a layer on the GPU, the others on the CPU"
    cached = _cached(ask, name, what, flags, popular, slots, hits.rate)
    return [*found, with_layers(cached, hits, ask.routing.hit_error)]


def cuda_graphs(ask: Ask) -> Found:
    """Runtimes that capture whole steps, with everything on the GPU: vLLM, SGLang, ExLlama."""
    name, total = "cuda_graphs", sum(ask.layer_bytes)
    why = _too_little(ask)
    if why is None and total > ask.room():
        why = f"{total / 1e9:.1f} GB of experts do not fit into the {ask.room() / 1e9:.1f} GB that the rest leaves"
    if why is not None:
        return [Refusal(name, why)]
    used = ask.always_bytes(True) + ask.kv_bytes + ask.workspace_bytes + total
    flags = f"vllm serve MODEL --max-model-len {served(ask)}  (weights of the same bits in its own format)"
    return [Plan(name, "everything on the GPU", flags, _setting(ask, GRAPHS, Placement(RESIDENT)), used, 0)]


def eager_hf(ask: Ask) -> Found:
    """Hugging Face Transformers with device_map: all experts of offloaded layers cross the link for every token."""
    name = "eager_hf"
    why = _too_little(ask)
    if why is None and ask.model.dimensions.weight_bits < 8:
        why = "its offloading keeps weights of 8 bits and more: quantisation=BF16 asks for that"
    total = sum(ask.layer_bytes)
    if why is None and total > ask.room():
        why = _no_experts_elsewhere(ask)
    if why is not None:
        return [Refusal(name, why)]
    always = ask.always_bytes(True) + ask.kv_bytes + ask.workspace_bytes
    load = 'AutoModelForCausalLM.from_pretrained(MODEL, device_map="auto")'
    if total <= ask.room():
        setting = _setting(ask, OTHER, Placement(RESIDENT), software=name)
        return [Plan(name, "everything on the GPU", load, setting, always + total, 0, checked=False)]
    sizes = ask.model.dimensions
    kept = int(ask.room() // max(ask.layer_bytes))
    moved = (ask.layers - kept) * sizes.num_experts / (ask.layers * sizes.top_k)
    setting = _setting(ask, OTHER, Placement(LINK_CACHE, miss=moved, lookup=False), software=name)
    what = f"{ask.layers - kept} of {ask.layers} layers in RAM, all their experts copied for every token"
    used = always + sum(ask.layer_bytes[:kept])
    return [Plan(name, what, load, setting, used, sum(ask.layer_bytes[kept:]), checked=False)]


def mlx_ssd(ask: Ask) -> Found:
    """MLX with an SSD behind unified memory (boyle): an LRU cache of each layer, misses are read into its slots."""
    name, machine = "mlx_ssd", ask.machine
    why = None if machine.rates.unified else "runs where CPU and GPU share one memory"
    why = why or _too_little(ask)
    if why is None and sum(ask.layer_bytes) <= ask.room():
        why = "all experts fit: nothing has to be read"
    if why is None and machine.rates.storage_bytes_per_s is None:
        why = "the rate of the machine's drive is not known: say it, as 5 GB/s ssd"
    if why is None and ask.routing is None:
        why = _needs_card(ask)
    slots = 0 if why else int(ask.room() // max(1, sum(ask.model.expert_bytes)))
    if why is None and slots < 1:
        why = "not one expert of every layer fits"
    if why is not None or ask.routing is None:
        return [Refusal(name, why or "")]
    hit = ask.routing.hit_rate("lru", slots, name)
    setting = _setting(ask, OTHER, Placement(STORAGE_CACHE, miss=1 - hit), software=name)
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
