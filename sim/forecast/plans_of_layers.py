"""Plans that need no routing: which layers' experts, or which share of them, lie where."""

from __future__ import annotations

from sim.forecast.ask import Ask, Found, Plan, Refusal, no_experts_elsewhere, served, setting_for, too_little
from sim.validation.published.corpus.placement import CPU_EXPERTS, CPU_ONLY, LINK_CACHE, RESIDENT, Placement
from sim.validation.published.corpus.rule import GRAPHS, LLAMA, MMAP_FILLS, OTHER


def llama_cpp(ask: Ask) -> Found:
    """All on the GPU, the experts of some layers on the CPU, everything on the CPU."""
    found: Found = []
    server = "llama-server -m MODEL.gguf"
    context = f"-c {served(ask)}"
    little = too_little(ask, embedding=False)
    room, total = ask.room(embedding=False), sum(ask.layer_bytes)
    always = ask.always_bytes(embedding=False) + ask.kv_bytes + ask.workspace_bytes
    if little is not None:
        found.append(Refusal("llama_cpp", little))
    elif total <= room:
        setting = setting_for(ask, LLAMA, Placement(RESIDENT))
        found.append(
            Plan("llama_cpp", "everything on the GPU", f"{server} -ngl 99 {context}", setting, always + total, 0)
        )
    else:
        elsewhere = no_experts_elsewhere(ask)
        if elsewhere is not None:
            found.append(
                Refusal("llama_cpp", f"{total / 1e9:.1f} GB of experts do not fit beside the rest: {elsewhere}")
            )
        else:
            found.append(_layers_on_cpu(ask, server, context, room, always))
    if ask.machine.rates.ram_bytes_per_s is not None and not ask.machine.rates.unified:
        setting = setting_for(ask, LLAMA, Placement(CPU_ONLY))
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
    return Plan("llama_cpp", what, flags, setting_for(ask, LLAMA, Placement(CPU_EXPERTS, on_cpu)), always + used, host)


def _mmap(ask: Ask, host: float) -> str:
    ram = ask.machine.rates.ram_bytes
    return " --no-mmap" if ram is not None and host > MMAP_FILLS * ram else ""


def cuda_graphs(ask: Ask) -> Found:
    """Runtimes that capture whole steps, with everything on the GPU: vLLM, SGLang, ExLlama."""
    name, total = "cuda_graphs", sum(ask.layer_bytes)
    why = too_little(ask)
    if why is None and total > ask.room():
        why = f"{total / 1e9:.1f} GB of experts do not fit into the {ask.room() / 1e9:.1f} GB that the rest leaves"
    if why is not None:
        return [Refusal(name, why)]
    used = ask.always_bytes(True) + ask.kv_bytes + ask.workspace_bytes + total
    flags = f"vllm serve MODEL --max-model-len {served(ask)}  (weights of the same bits in its own format)"
    return [Plan(name, "everything on the GPU", flags, setting_for(ask, GRAPHS, Placement(RESIDENT)), used, 0)]


def eager_hf(ask: Ask) -> Found:
    """Hugging Face Transformers with device_map: all experts of offloaded layers cross the link for every token."""
    name = "eager_hf"
    why = too_little(ask)
    if why is None and ask.model.dimensions.weight_bits < 8:
        why = "its offloading keeps weights of 8 bits and more: quantisation=BF16 asks for that"
    total = sum(ask.layer_bytes)
    if why is None and total > ask.room():
        why = no_experts_elsewhere(ask)
    if why is not None:
        return [Refusal(name, why)]
    always = ask.always_bytes(True) + ask.kv_bytes + ask.workspace_bytes
    load = 'AutoModelForCausalLM.from_pretrained(MODEL, device_map="auto")'
    if total <= ask.room():
        setting = setting_for(ask, OTHER, Placement(RESIDENT), software=name)
        return [Plan(name, "everything on the GPU", load, setting, always + total, 0, checked=False)]
    sizes = ask.model.dimensions
    kept = int(ask.room() // max(ask.layer_bytes))
    moved = (ask.layers - kept) * sizes.num_experts / (ask.layers * sizes.top_k)
    setting = setting_for(ask, OTHER, Placement(LINK_CACHE, miss=moved, lookup=False), software=name)
    what = f"{ask.layers - kept} of {ask.layers} layers in RAM, all their experts copied for every token"
    used = always + sum(ask.layer_bytes[:kept])
    return [Plan(name, what, load, setting, used, sum(ask.layer_bytes[kept:]), checked=False)]
