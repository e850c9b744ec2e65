"""The table that ``run`` prints: one replay on one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.assembly.fragility import fragile_capacity
from sim.assembly.replay import Replay
from sim.formatting import milliseconds, number, of_layers, percent, size
from sim.machine.geometry import model_layers
from sim.machine.parts import PARTS
from sim.metrics.registry import (
    BESIDE_PLAIN,
    PEER_RATES,
    PREFIXES,
    QUANTILES,
    SPECULATION,
    TIER_RATES,
    decode_time,
    quantity_of,
)
from sim.metrics.step_table import Metrics
from sim.statistics.bootstrap import blocks_needed
from traces.text import printable, short_name

RATES_SHOWN = (
    "hit_rate", "late_rate", "cache_ratio", "substitution_rate", "lost_gate_mass", "cpu_rate", "bytes_per_token",
    "loads_per_token", "prefetches_per_token", "prefetch_precision", "demand_to_capacity",
)  # fmt: skip
TIMES_SHOWN = {"tpot_s": "TPOT over requests", "itl_s": "time per decode token", "ttft_s": "TTFT"}
BATCH_TIMES_SHOWN = {"itl_s": "decode step", "tpot_s": "TPOT over requests, with prefills", "ttft_s": "TTFT"}
"""In a batch, a request's TPOT includes waiting while others' prompts are prefilled; a paper's decoding latency is the
time of a decode step."""


WAITS = {"link": "waiting for the link", "cpu": "waiting for the cpu", "storage": "waiting for storage"}
TURNS_SHOWN = 8


def exchanged(words: Sequence[str]) -> list[str]:
    """The overrides that change a part or a knob of the policy, without what all of them begin with."""
    changes = (word.lstrip("+~") for word in words)
    return [word[len("policy.") :] for word in changes if word.startswith(("policy/", "policy."))]


def head(replay: Replay, metrics: Metrics, words: Sequence[str] = ()) -> list[str]:
    reset = "reset for every batch" if replay.cache.resets else "not reset between requests"
    clock = "SIMULATED" if replay.timed else "counted without a clock"
    trace = replay.trace
    whose = "the one that the policy names" if replay.setup.own_runtime else "the same for every policy"
    policy = ", ".join([short_name(replay.policy.name), *exchanged(words)])
    return [
        f"policy {policy} on {short_name(trace.geometry.model)} routing, "
        f"{short_name(replay.geometry.model)} sizes, {short_name(replay.hardware.name)} ({replay.hardware.label}); "
        f"results {clock}",
        f"runtime {short_name(replay.runtime.name)} ({replay.runtime.label}), {whose}",
        f"{trace.num_requests} requests, {trace.num_tokens} tokens, {trace.num_layers} MoE layers "
        f"of {trace.num_experts} experts, top {trace.top_k}; batch {replay.run.batch_size}; capacity "
        f"{number(metrics['capacity_slots_per_layer'])} slots per layer ({percent(metrics['capacity_fraction'])}, "
        f"{size(metrics['capacity_bytes'])}), scope {replay.cache.scope}, {replay.cache.start} start, {reset}",
    ]


def rows(metrics: Metrics) -> list[tuple[str, ...]]:
    """(title, all steps, prefill, decode) of every rate."""
    shown = [quantity_of(name).metric for name in RATES_SHOWN]
    shown += [rate for rate in (*TIER_RATES, *PEER_RATES) if rate.name in metrics]
    return [(rate.title, *(rate.unit.format(metrics[f"{prefix}{rate.name}"]) for prefix in PREFIXES)) for rate in shown]


def times(metrics: Metrics, batch_size: int, layers: str) -> list[str]:
    """Times of requests and of a decode step; `layers`: what they are for, as `of_layers` says it."""
    lines = []
    for name, title in (TIMES_SHOWN if batch_size == 1 else BATCH_TIMES_SHOWN).items():
        points = "   ".join(f"{point} {milliseconds(metrics[f'{name}.{point}'])}" for point in QUANTILES)
        lines.append(f"{title:<34}{milliseconds(metrics[f'{name}.mean']):>14}   {points}   {layers}")
    total = metrics["itl_s.mean"]
    if not isinstance(total, float):
        return [*lines, "no times: this replay has no clock"]
    step = metrics[decode_time((batch_size,))]
    if isinstance(step, float) and step > 0:
        rate = f"{batch_size / step:.4g}"
        lines.append(f"{'tokens per second':<34}{rate:>14}   of decoding, {layers}")
    lines.append("where a decode step's time goes:")
    with_peer = PEER_RATES[0].name in metrics
    known = [part for part in PARTS if f"time_s_per_token.{part}" in metrics]
    step_s = sum(float(metrics[f"time_s_per_token.{part}"] or 0.0) for part in known)
    for part in known:
        value = float(metrics[f"time_s_per_token.{part}"] or 0.0)
        share = value / step_s if step_s else 0.0
        title = WAITS.get(part, part) if part != "storage" or not with_peer else "waiting for host memory"
        lines.append(f"  {title:<32}{milliseconds(value):>14}  {share:>6.1%}  {'#' * round(40 * share)}")
    return lines


def drafting(metrics: Metrics) -> list[str]:
    """What speculation came to, nothing where nothing was drafted."""
    shown = [metric for metric in (*SPECULATION, *BESIDE_PLAIN) if metric.name in metrics]
    lines = [f"  {metric.title:<32}{metric.unit.format(metrics[metric.name]):>14}" for metric in shown]
    return ["drafts, over decode steps:", *lines] if lines else []


def gains(answers: dict[str, Any], layers: str) -> list[str]:
    """What every scenario of ``sim.run.what_if`` would gain."""
    base = answers["baseline"]
    title = f"what if (SIMULATED, {layers})"
    lines = [f"{title:<42}{'TPOT, requests':>14}{'change':>10}{'hit rate, all':>15}"]
    lines.append(f"  {'as it is':<40}{milliseconds(base['tpot_s']):>14}{'':>10}{percent(base['hit_rate']):>15}")
    for row in answers["scenarios"]:
        if row["refused"] is not None:
            lines.append(f"  {row['name']:<40}not possible: {row['refused']}")
            continue
        change = percent(row["change"], "+.1f")
        shown = f"{milliseconds(row['tpot_s']):>14}{change:>10}{percent(row['hit_rate']):>15}"
        lines.append(f"  {row['name']:<40}{shown}")
    return [*lines, f"  {answers['binding']}", f"  {answers['bound']}"]


def by_turn(requests: Mapping[str, NDArray[Any]], layers: str) -> list[str]:
    """TTFT of the first turns of chats, where the requests are turns; `layers`: what times are for."""
    if "turn" not in requests or "ttft_s" not in requests:
        return []
    turns, ttft_s = requests["turn"], requests["ttft_s"]
    means = []
    for turn in range(min(TURNS_SHOWN, int(turns.max(initial=-1)) + 1)):
        known = ttft_s[(turns == turn) & ~np.isnan(ttft_s)]
        means.append(f"{turn + 1}: {milliseconds(float(known.mean()) if known.size else None)}")
    return [f"mean TTFT by turn   {'   '.join(means)}   {layers}"]


def text(
    replay: Replay,
    metrics: Metrics,
    answers: dict[str, Any] | None = None,
    words: Sequence[str] = (),
    requests: Mapping[str, NDArray[Any]] | None = None,
) -> str:
    """Everything a person wants to see first; `words`: the overrides of the run; `requests`: the table of requests."""
    requests = requests or {}
    lines = head(replay, metrics, words)
    layers = of_layers(replay.trace.num_layers, model_layers(replay.geometry), replay.trace.recorded_layers)
    lines += ["", f"{'':<34}{'all':>12}{'prefill':>12}{'decode':>12}"]
    lines += [
        f"{title:<34}{everything:>12}{prefill:>12}{decode:>12}" for title, everything, prefill, decode in rows(metrics)
    ]
    lines.append("")
    lines += times(metrics, replay.run.batch_size, layers)
    lines += by_turn(requests, layers)
    lines += drafting(metrics)
    if answers is not None:
        lines += ["", *gains(answers, layers), ""]
    lines += [f"ESTIMATED: {printable(note)}" for note in replay.notes.estimated]
    lines += [f"note: {printable(note)}" for note in (*replay.notes.warnings, *fragile_capacity(metrics))]
    lines += [f"note: {sentence}" for sentence in few_for_quantiles(replay)]
    return "\n".join(lines)


def few_for_quantiles(replay: Replay) -> list[str]:
    """Which quantiles over requests say little, because so few requests lie beyond them that they have no interval."""
    requests, batch = replay.trace.num_requests, replay.run.batch_size
    blocks = -(-requests // batch)
    few = [name for name, share in QUANTILES.items() if blocks < blocks_needed(share)]
    if not few or not replay.timed:
        return []
    needed = ", ".join(str(blocks_needed(QUANTILES[name])) for name in few)
    what = f"{requests} requests" if batch == 1 else f"{blocks} batches of requests"
    return [f"{', '.join(few)} of {what} have no interval: that takes {needed}"]
