"""OD-MoE on a simulated cluster: what `system=od_moe` runs, writes and prints.

Inferred, not published: experts in FP32 (from the 180 GB of the all-GPU deployment and from less than 1 GB per worker);
a host link of 26 GB/s, at which loads are longer than the paper's deadline and set the pace; the host times; that the
shadow is as slow per layer as the all-GPU library, so that the first layer of an aligned token loads after routing;
that wrong loads are given up; errors of the shadow that are independent of each other. Only the time of a load counts:
experts in FP16 over 13 GB/s give the same decode rates; a link that hides every load beside a slower host gives an
aligned rate that is 8 to 12 % too low. Time to first token is published as a mean only: with a prompt's loads and
messages overlapped half of it is missing, with `overlap_prefill=false` it is met.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sim.formatting import number as format_number
from sim.metrics.step_table import Metrics, ratio, summary
from sim.results.json_files import write_json
from sim.results.outputs import SIMULATED, versions
from sim.systems.od_moe.config import OdMoe, system_from_config
from sim.systems.od_moe.recall import MEASURED_FILE
from sim.systems.od_moe.requests import Served, requests, serve
from sim.systems.od_moe.times import Times, all_gpu_bytes, all_gpu_s, memory_bytes, sizes, tabulate
from sim.systems.timeline import Span, chrome_trace
from traces.format.trace import Geometry, Trace


def run(config: dict[str, Any], trace: Trace | None, folder: Path, timeline: bool) -> str:
    """Serve the configured requests, write metrics.json and provenance.json (and timeline.json), return a table.

    Raises: UserError for a configuration or a trace that does not fit.
    """
    system, sources = system_from_config(config)
    model = sizes(system, trace)
    times = tabulate(system, model)
    spans: list[Span] | None = [] if timeline else None
    todo = requests(system, times, trace)
    # A timeline shows the first request: every request begins on an idle cluster.
    served = [serve(system, times, request, i, spans if i == 0 else None) for i, request in enumerate(todo)]
    found = metrics(system, times, model, served)
    if spans is not None:
        write_json(folder / "timeline.json", chrome_trace({system.name: spans}))
    write_json(folder / "provenance.json", provenance(config, sources, system, trace))
    write_json(folder / "metrics.json", found)
    return text(system, found)


def metrics(system: OdMoe, times: Times, model: Geometry, served: list[Served]) -> Metrics:
    """The flat row of metrics; times per token, rates and bytes without prefix are those of decode steps."""
    decoded = [one for one in served if len(one.step_ns)]
    steps = sum(len(one.step_ns) for one in decoded)
    tpot_s = np.array([one.step_ns.mean() / 1e9 for one in decoded])
    outcomes = {name: sum(one.outcomes[name] for one in decoded) for name in ("hit", "late", "miss")}
    demanded, decode_ns = sum(outcomes.values()), sum(int(one.step_ns.sum()) for one in decoded)
    return {
        "label": SIMULATED,
        "system": system.name,
        "model": model.model,
        "num_requests": len(served),
        "num_tokens": steps,
        **summary("tpot_s", tpot_s),
        **summary("ttft_s", np.array([one.ttft_ns / 1e9 for one in served])),
        **summary("itl_s", np.concatenate([np.zeros(0), *(one.step_ns / 1e9 for one in decoded)])),
        # The mean of the requests' own rates, as the paper averages its settings.
        "tokens_per_s": float((1 / tpot_s).mean()) if steps else None,
        "output_tokens_per_s": _output_rate(decoded),
        "hit_rate": ratio(outcomes["hit"], demanded),
        "late_rate": ratio(outcomes["late"], demanded),
        "recall": None
        if any(one.right is None for one in decoded)
        else ratio(sum(one.right or 0 for one in decoded), demanded),
        "loads_per_token": ratio(sum(one.loads for one in decoded), steps),
        "bytes_per_token": ratio(sum(one.loaded_bytes for one in decoded), steps),
        "prefill.loads": sum(one.prefill_loads for one in served),
        "stall_s_per_token.link": ratio(sum(one.stall_ns for one in decoded) / 1e9, steps),
        "link_utilisation": ratio(sum(one.link_busy_ns for one in decoded), decode_ns * system.workers),
        "network_busy_s_per_token": ratio(sum(one.sent_ns for one in decoded) / 1e9, steps),
        "load_s": times.load_ns / 1e9,
        "load_deadline_s": times.deadline_ns / 1e9,
        **_memory(system, model, served),
        "all_gpu.tokens_per_s": 1 / all_gpu_s(system, model),
        "all_gpu.gpu_memory_bytes": all_gpu_bytes(model),
    }


def _output_rate(decoded: list[Served]) -> float | None:
    rates = [(len(one.step_ns) + 1) / ((one.ttft_ns + int(one.step_ns.sum())) / 1e9) for one in decoded]
    return float(np.mean(rates)) if rates else None


def _memory(system: OdMoe, model: Geometry, served: list[Served]) -> Metrics:
    longest = max(one.request.prompt_tokens + one.request.decode_steps for one in served)
    parts = memory_bytes(system, model, longest)
    return {
        "gpu_memory_bytes": parts["total"],
        **{f"gpu_memory_bytes.{name}": parts[name] for name in ("main", "shadow", "workers")},
    }


def provenance(config: dict[str, Any], sources: dict[str, str], system: OdMoe, trace: Trace | None) -> dict[str, Any]:
    """Where the result comes from and how far it reaches."""
    used = trace is not None and "trace" in (system.workload, system.model)
    measured = json.loads(MEASURED_FILE.read_text())["provenance"] if system.recall == "measured" else None
    return {
        "label": SIMULATED,
        "system": system.name,
        "estimated": sorted(f"system.{name}" for name, source in sources.items() if source.startswith("ESTIMATED")),
        "fitted": sorted(f"system.{name}" for name, source in sources.items() if source.startswith("FITTED")),
        "requests": "the replayed trace" if system.workload == "trace" else "lengths given; even use of experts",
        "trace_hash": trace.content_hash if used and trace is not None else None,
        "measured_recall": measured,
        "seed": system.seed,
        "versions": versions(),
        "config": config,
    }


def text(system: OdMoe, found: Metrics) -> str:
    """The table a person reads."""
    requests_of = "the replayed trace" if system.workload == "trace" else "the configured lengths (no trace is used)"

    def number(name: str, scale: float = 1.0, digits: int = 2) -> str:
        return format_number(found[name], f".{digits}f", scale, unknown="unknown")

    rows = [
        ("requests", f"{found['num_requests']}, of {requests_of}"),
        ("decode, tokens/s", number("tokens_per_s", digits=3)),
        ("TPOT, mean, ms", number("tpot_s.mean", 1e3)),
        ("TTFT, mean, ms", number("ttft_s.mean", 1e3)),
        ("waiting for loads, ms/token", number("stall_s_per_token.link", 1e3)),
        ("recall of the prediction", number("recall", digits=4)),
        ("loaded in time", number("hit_rate", digits=4)),
        ("loaded, GB/token", number("bytes_per_token", 1e-9)),
        ("load of an expert, ms", f"{number('load_s', 1e3)} (hidden up to {number('load_deadline_s', 1e3)})"),
        ("GPU memory, GB", number("gpu_memory_bytes", 1e-9, 1)),
        (
            "  main, shadow, workers",
            ", ".join(number(f"gpu_memory_bytes.{part}", 1e-9, 1) for part in ("main", "shadow", "workers")),
        ),
        ("all experts on GPUs, tokens/s", number("all_gpu.tokens_per_s", digits=3)),
    ]
    lines = [f"SIMULATED: {system.name}, {found['model']}, prediction={system.prediction}"]
    lines += [f"  {name:<32}{value}" for name, value in rows]
    if (system.workload, system.model) == ("trace", "trace"):
        return "\n".join([*lines, "comparable with runs of `policy=...` over this trace (docs/systems.md)"])
    lines.append("comparable with the paper's measurements of its cluster; with runs of `policy=...` only under")
    lines.append("  system.workload=trace system.model=trace and their trace (docs/systems.md)")
    return "\n".join(lines)
