"""Expert Streaming on a package of chiplets, against expert parallelism: one MoE layer, both schemes, same routing.

Source: S. Ma et al., Expert Streaming, arXiv 2603.27624, https://arxiv.org/abs/2603.27624 (abstract and a summary; the
body was not available: what is inferred is marked in `conf/system/expert_streaming.yaml` and in `INFERRED`).
Left out: attention, shared experts, the router, prefetch across layers, and the baseline Hydra, which is not described.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sim.config import validate
from sim.formatting import number, percent, size
from sim.results.json_files import write_json
from sim.results.outputs import SIMULATED, versions
from sim.systems.expert_streaming.compare import Comparison, Metrics, compare, metrics
from sim.systems.expert_streaming.config import Settings
from sim.systems.timeline import chrome_trace
from traces.format.trace import Trace

INFERRED = (
    "topology, routing and packets beyond neighbouring dies; one memory channel per die",
    "micro-slices are shared evenly among the memory channels",
    "slots that later hops keep for themselves, against dies that wait for each other in a circle",
    "pairs of experts load their micro-slices in turn; a whole token waits for a cold expert, at most one iteration",
    "expert parallelism holds two whole experts per die, loads ahead and hides the way of tokens behind the load",
    "one byte per weight and per number of a hidden state; 10 ns per link, 100 ns before each computation",
)


def run(config: dict[str, Any], trace: Trace | None, folder: Path, timeline: bool) -> str:
    """Compare both schemes as configured, write the results into the folder, and return what is to be printed.

    Raises: UserError for a knob that is unknown or out of range, or a trace that is asked for and does not fit.
    """
    settings = validate(Settings, config, "system.")
    begin = time.perf_counter()
    found = compare(settings, trace, timeline)
    wall_s = time.perf_counter() - begin
    result = metrics(found)
    if timeline:
        write_json(folder / "timeline.json", chrome_trace(found.logs))
    write_json(folder / "provenance.json", provenance(found, trace, wall_s))
    write_json(folder / "metrics.json", result)
    return text(found, result)


def provenance(found: Comparison, trace: Trace | None, wall_s: float) -> dict[str, Any]:
    """Where the result comes from and how far it reaches."""
    return {
        "system": found.settings.name,
        "label": SIMULATED,
        "estimated": [f"INFERRED: {sentence}" for sentence in INFERRED] + [routing_note(found)],
        "routing": found.routing,
        "trace_hash": trace.content_hash if trace is not None and found.routing == "trace" else None,
        "model_source": found.shape.source,
        "seed": found.settings.seed,
        "wall_s": wall_s,
        "versions": versions(),
        "config": asdict(found.settings),
    }


def routing_note(found: Comparison) -> str:
    """Where the routing comes from, as a sentence."""
    if found.routing == "trace":
        return "routing: random rows of the trace, one random layer per draw; tokens of a request are not kept together"
    return (
        f"routing: drawn, popularity of experts ~ rank^-{found.settings.skew:g}, tokens independent; "
        f"no trace with {found.shape.num_experts} experts, top {found.shape.top_k}, was used"
    )


def text(found: Comparison, result: Metrics) -> str:
    """The result on one screen."""
    settings, slicing = found.settings, found.settings.slicing()
    interval = "one draw, no interval"
    if settings.draws > 1:
        interval = (
            f"95 % {number(result['speedup.low'])} to {number(result['speedup.high'])} over {settings.draws} draws"
        )
    rows = (
        ("time per iteration", "makespan_s.mean", lambda value: f"{1e6 * value:.1f} us"),
        ("dies busy computing", "compute_utilisation", percent),
        ("memory channels busy", "channel_utilisation", percent),
        ("busiest die's computation / mean", "imbalance.mean", number),
        ("read from memory per iteration", "channel_bytes.mean", size),
        ("carried between dies per iteration", "link_bytes.mean", size),
        ("most on-chip memory, package", "sram_peak_bytes", size),
    )
    lines = [
        f"expert_streaming on {settings.model} sizes, {settings.rows}x{settings.columns} dies, {settings.tokens} "
        f"tokens per iteration, {found.experts:.1f} of {found.shape.num_experts} experts active; results {SIMULATED}",
        f"{slicing.slices} micro-slices per expert, {slicing.slots} slots per die; {routing_note(found)}",
        "",
        f"{'':36}{'expert parallel':>16}{'streaming':>16}",
        *(
            f"{title:36}{show(result[f'baseline.{name}']):>16}{show(result[f'streaming.{name}']):>16}"
            for title, name, show in rows
        ),
        "",
        f"speed-up {number(result['speedup'])} ({interval}); published 1.22 to 2.00 over the best of its baselines",
        f"on-chip memory saved {percent(result['sram_saved'])}; published up to 78.8 %",
    ]
    lines.append(
        "comparable with the paper's speed-ups, one MoE layer on a package of dies; not with times of `run policy=...`,"
        "\n  of whole tokens on one GPU: docs/systems.md sets both side by side on the same requests"
    )
    if settings.slack:
        lines.append(f"tokens that waited: {percent(result['waited_rate'])}")
    return "\n".join(lines)
