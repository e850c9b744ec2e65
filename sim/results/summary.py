"""The table that ``run`` prints: one replay on one screen."""

from __future__ import annotations

from typing import Any

from sim.assembly.fragility import fragile_capacity
from sim.assembly.replay import Replay
from sim.engine.decision.counters import PARTS
from sim.metrics.step_table import Metrics

NOTHING = "-"


def percent(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, float) else NOTHING


def milliseconds(value: object) -> str:
    return f"{1e3 * value:.3f} ms" if isinstance(value, float) else NOTHING


def number(value: object, unit: str = "") -> str:
    return f"{value:.4g}{unit}" if isinstance(value, int | float) else NOTHING


def size(value: object) -> str:
    """Bytes in the largest decimal unit that leaves at least one whole."""
    if not isinstance(value, int | float):
        return NOTHING
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if value >= u), (1.0, "B"))
    return f"{value / unit:.1f} {name}"


def head(replay: Replay, metrics: Metrics) -> list[str]:
    reset = "reset for every batch" if replay.cache.resets else "not reset between requests"
    clock = "SIMULATED" if replay.timed else "counted without a clock"
    trace = replay.trace
    return [
        f"policy {replay.policy.name} on {trace.geometry.model} routing, {replay.geometry.model} sizes, "
        f"{replay.hardware.name} ({replay.hardware.label}); results {clock}",
        f"{trace.num_requests} requests, {trace.num_tokens} tokens, {trace.num_layers} MoE layers "
        f"of {trace.num_experts} experts, top {trace.top_k}; batch {replay.run.batch_size}; capacity "
        f"{number(metrics['capacity_slots_per_layer'])} slots per layer ({percent(metrics['capacity_fraction'])}, "
        f"{size(metrics['capacity_bytes'])}), scope {replay.cache.scope}, {replay.cache.start} start, {reset}",
    ]


def rows(metrics: Metrics) -> list[tuple[str, ...]]:
    """(name, all steps, prefill, decode) of every rate."""
    shown = (
        ("hit rate", "hit_rate", percent),
        ("late (still on the link)", "late_rate", percent),
        ("cache ratio (after substitution)", "cache_ratio", percent),
        ("substituted (token, rank) pairs", "substitution_rate", percent),
        ("gate mass not executed as routed", "lost_gate_mass", percent),
        ("computed on the CPU", "cpu_rate", percent),
        ("copied per token", "bytes_per_token", size),
        ("loads per token", "loads_per_token", number),
        ("prefetches per token", "prefetches_per_token", number),
        ("prefetched experts then demanded", "prefetch_precision", percent),
        ("demand / capacity", "demand_to_capacity", number),
    )
    return [
        (title, *(show(metrics[f"{phase}{key}"]) for phase in ("", "prefill.", "decode.")))
        for title, key, show in shown
    ]


def times(metrics: Metrics) -> list[str]:
    lines = [
        f"{title:<34}{milliseconds(metrics[f'{key}.mean']):>14}   p50 {milliseconds(metrics[f'{key}.p50'])}   "
        f"p90 {milliseconds(metrics[f'{key}.p90'])}   p99 {milliseconds(metrics[f'{key}.p99'])}"
        for title, key in (("TPOT over requests", "tpot_s"), ("time per decode token", "itl_s"), ("TTFT", "ttft_s"))
    ]
    total = metrics["itl_s.mean"]
    if not isinstance(total, float):
        return [*lines, "no times: this replay has no clock"]
    lines.append("where a decode step's time goes:")
    step_s = sum(float(metrics[f"time_s_per_token.{part}"] or 0.0) for part in PARTS)
    for part in PARTS:
        value = float(metrics[f"time_s_per_token.{part}"] or 0.0)
        share = value / step_s if step_s else 0.0
        title = f"waiting for the {part}" if part in ("link", "cpu") else part
        lines.append(f"  {title:<32}{milliseconds(value):>14}  {share:>6.1%}  {'#' * round(40 * share)}")
    return lines


def gains(answers: dict[str, Any]) -> list[str]:
    """What every scenario of ``sim.run.what_if`` would gain."""
    base = answers["baseline"]
    lines = [f"{'what if (SIMULATED, exact in the model)':<42}{'TPOT':>14}{'change':>10}{'hit rate':>10}"]
    lines.append(f"  {'as it is':<40}{milliseconds(base['tpot_s']):>14}{'':>10}{percent(base['hit_rate']):>10}")
    for row in answers["scenarios"]:
        if row["refused"] is not None:
            lines.append(f"  {row['name']:<40}not possible: {row['refused']}")
            continue
        change = NOTHING if row["change"] is None else f"{row['change']:+.1%}"
        shown = f"{milliseconds(row['tpot_s']):>14}{change:>10}{percent(row['hit_rate']):>10}"
        lines.append(f"  {row['name']:<40}{shown}")
    return [*lines, f"  {answers['binding']}", f"  {answers['bound']}"]


def text(replay: Replay, metrics: Metrics, answers: dict[str, Any] | None = None) -> str:
    """Everything a person wants to see first."""
    lines = head(replay, metrics)
    lines += ["", f"{'':<34}{'all':>12}{'prefill':>12}{'decode':>12}"]
    lines += [
        f"{title:<34}{everything:>12}{prefill:>12}{decode:>12}" for title, everything, prefill, decode in rows(metrics)
    ]
    lines.append("")
    lines += times(metrics)
    if answers is not None:
        lines += ["", *gains(answers), ""]
    lines += [f"ESTIMATED: {note}" for note in replay.notes.estimated]
    lines += [f"note: {note}" for note in (*replay.notes.warnings, *fragile_capacity(metrics))]
    return "\n".join(lines)
