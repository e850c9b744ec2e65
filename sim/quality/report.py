"""Writes an evaluation's folder and prints it on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sim.formatting import percent
from sim.live.weights import substitutes
from sim.metrics.drafts import token_times
from sim.quality.evaluate import Results
from sim.quality.loop import step_bounds
from sim.quality.measures import COLUMNS
from sim.quality.metrics import Row
from sim.quality.study import POLICY, Study
from sim.results.json_files import write_json
from sim.results.outputs import versions
from sim.results.table_file import write_table
from sim.statistics.margin import NO, UNDECIDED, YES, above

NAMES = {
    POLICY: "as the policy says",
    "own_weights": "substitutes with their own weights",
    "inherit_weights": "substitutes inherit weights",
    "drop": "the same experts dropped",
    "random": "random resident experts",
}


def write_study(folder: Path, study: Study, results: Results, row: Row, config: dict[str, Any], wall_s: float) -> None:
    """tokens.parquet, provenance.json, and last quality.json: its presence means that the evaluation is complete."""
    write_table(folder / "tokens.parquet", token_table(study, results))
    write_json(folder / "provenance.json", provenance(study, config, wall_s))
    write_json(folder / "quality.json", row)


def token_table(study: Study, results: Results) -> dict[str, Any]:
    """One row per variant, window and token; latency_ns is that of the policy's own pass, a share of its step's."""
    count, sizes = (
        study.config.quality.tokens - 1,
        np.diff(step_bounds(study.config.quality.tokens, study.loop.step_tokens)),
    )
    columns: dict[str, list[Any]] = {name: [] for name in ("variant", "window", "position", "latency_ns", *COLUMNS)}
    for number, variant in enumerate(study.variants):
        for window, result in enumerate(results.windows):
            latency = np.full(count, -1)
            if variant.name == POLICY:
                latency = token_times(result["latency_ns"], np.ones_like(sizes), sizes)[:count]
            columns["variant"].append(np.full(count, number, np.int16))
            columns["window"].append(np.full(count, window, np.int32))
            columns["position"].append(np.arange(count, dtype=np.int32))
            columns["latency_ns"].append(latency.astype(np.int64))
            for index, name in enumerate(COLUMNS):
                columns[name].append(result[variant.name][:, index].astype(np.float32))
    return {name: np.concatenate(pieces) for name, pieces in columns.items()}


def provenance(study: Study, config: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """Origin of the numbers: model, policy, machine, text, versions, configuration."""
    import torch
    import transformers

    return {
        "label": {"quality": "MEASURED", "times": "SIMULATED"},
        "model": study.template.trace.geometry.model,
        "policy": study.template.policy.name,
        "hardware": study.template.hardware.name,
        "hardware_label": study.template.hardware.label,
        "sizes": study.template.geometry.model,
        "score_function": study.template.trace.score_function,
        "dtype": str(next(study.loop.model.parameters()).dtype).removeprefix("torch."),
        "mode": "parallel" if study.parallel else "decode",
        "variants": [variant.name for variant in study.variants],
        "windows_sha256": study.windows.digest(),
        "documents": list(study.windows.documents),
        "domains": list(study.windows.domains),
        "estimated": study.notes.estimated,
        "warnings": study.notes.warnings,
        "wall_s": wall_s,
        "versions": versions() | {"torch": torch.__version__, "transformers": transformers.__version__},
        "config": config,
    }


def text(study: Study, row: Row) -> str:
    """The table that the command prints."""
    lines = [
        f"policy {row['policy']} inside {row['model']}, {row['mode']} pass over {row['windows']} windows of "
        f"{row['tokens_per_window']} tokens from {row['documents']} documents"
        + (f", {row['step_tokens']} positions a step" if row["step_tokens"] != 1 else "")
        + "; quality MEASURED, times SIMULATED",
        f"untouched model: perplexity {row['perplexity']:.2f}, next token right {share(row, 'accuracy')}"
        + (f", cloze right {share(row, 'cloze.accuracy')}" if row["cloze.items"] else "")
        + (f", lines finished exactly {share(row, 'lines.exact')}" if row["lines.items"] else ""),
        "",
        f"{'in place of a replaced expert':<36}{'perplexity':>24}{within_margin(study):>12}{'KL, nats':>10}"
        f"{'same top-1':>12}{'next token right':>26}",
    ]
    names = [variant.name for variant in study.variants]
    lines += [measure_line(row, name, NAMES[name]) for name in names if name in NAMES]
    domains = [key.split(".")[1] for key in row if key.startswith(f"{POLICY}.") and key.endswith(".kl")]
    lines += [measure_line(row, f"{POLICY}.{domain}", f"  {domain} only") for domain in domains if domain != "kl"]
    lines += layers(row, names)
    lines += stand_ins(study, row, names)
    lines += tasks(row, names)
    lines += time_lines(study, row)
    lines += [f"warning: {warning}" for warning in study.notes.warnings]
    if not substitutes(study.template.policy):
        lines.append("this policy replaces nothing: any difference above would be a fault")
    return "\n".join(lines)


def measure_line(row: Row, name: str, label: str) -> str:
    change = interval(row, f"{name}.perplexity_ratio", lambda v: f"{100 * (v - 1):+.2f}")
    within = row.get(f"{name}.perplexity_ratio.within", "")
    return (
        f"{label:<36}{change + ' %':>24}{within:>12}{interval(row, f'{name}.kl', lambda v: f'{v:.4f}', False):>10}"
        f"{interval(row, f'{name}.top1_agreement', lambda v: f'{100 * v:.1f}', False) + ' %':>12}"
        f"{interval(row, f'{name}.accuracy_change', lambda v: f'{100 * v:+.2f}') + ' pp':>26}"
    )


def interval(row: Row, name: str, shown: Any, bounds: bool = True) -> str:
    """`value [low, high]`, or without ``bounds`` the value alone; `[too few]` documents have no interval."""
    low, high = row[f"{name}.low"], row[f"{name}.high"]
    value = shown(row[name])
    if not bounds:
        return str(value)
    return f"{value} [too few]" if low is None else f"{value} [{shown(low)}, {shown(high)}]"


def share(row: Row, name: str) -> str:
    return percent(float(row[name] or 0.0), unit=" %")


def layers(row: Row, names: list[str]) -> list[str]:
    """Perplexity with the policy in one layer at a time."""
    layer_names = [name for name in names if name.startswith("layer_")]
    if not layer_names:
        return []
    changes = [
        f"{name.removeprefix('layer_')}: {100 * (float(row[f'{name}.perplexity_ratio'] or 0) - 1):+.2f} %"
        for name in layer_names
    ]
    return ["", "perplexity with the policy in one layer only: " + ", ".join(changes)]


def within_margin(study: Study) -> str:
    """The head of a column that says whether a change lies within the margin."""
    return f"within {100 * study.config.quality.margin:g} %"


IDENTITY = {
    YES: "it matters here which expert stands in",
    NO: "a random resident expert does no more harm than the policy's: this model cannot test whether experts of "
    "nearly the same score do the same",
    UNDECIDED: "whether it matters which expert stands in is undecided",
}


def stand_ins(study: Study, row: Row, names: list[str]) -> list[str]:
    """KL of the contrasts beside the policy's, and what the random one says of the model."""
    margin = study.config.quality.contrast_margin
    found = [name for name in names if f"{name}.kl_over_policy" in row]
    lines = [
        f"{NAMES[name]:<36}KL over the policy's {interval(row, f'{name}.kl_over_policy', _percent)} %, within "
        f"{100 * margin:g} %: {row[f'{name}.kl_over_policy.within']}"
        for name in found
    ]
    if "random" in found:
        low, high = (row[f"random.kl_over_policy.{end}"] for end in ("low", "high"))
        lines.append(IDENTITY[above(_number(low), _number(high), margin)])
    return ["", *lines] if lines else []


def _percent(value: float) -> str:
    return f"{100 * value:+.0f}"


def _number(value: float | int | str | None) -> float | None:
    return None if value is None else float(value)


def tasks(row: Row, names: list[str]) -> list[str]:
    """Cloze, continuations and lines, a line per variant."""
    lines = []
    for name in (name for name in names if name in NAMES):
        results = []
        if row["cloze.items"]:
            change = interval(row, f"{name}.cloze_accuracy_change", lambda v: f"{100 * v:+.1f}")
            results.append(f"cloze {change} pp over {row['cloze.items']} items")
        if row["generation.windows"]:
            same = interval(row, f"{name}.match_tokens", lambda v: f"{v:.1f}")
            results.append(f"continuations equal {share(row, f'{name}.exact_match')}, first {same} tokens")
        if row["lines.items"]:
            exact = interval(row, f"{name}.lines_exact_change", lambda v: f"{100 * v:+.1f}")
            same = interval(row, f"{name}.lines_same", lambda v: f"{100 * v:.0f}")
            results.append(f"lines exact {exact} pp, as untouched {same} % of {row['lines.items']}")
        if results:
            lines.append(f"{NAMES[name]:<36}" + "; ".join(results))
    return ["", *lines] if lines else []


def time_lines(study: Study, row: Row) -> list[str]:
    tpot = interval(row, "tpot_s", lambda v: f"{1e3 * v:.3f}")
    hardware, sizes = study.template.hardware, study.template.geometry.model
    return [
        "",
        f"hit rate {share(row, 'hit_rate')}, cache ratio {share(row, 'cache_ratio')}, substituted "
        f"{share(row, 'substitution_rate')}, dropped {share(row, 'drop_rate')}; "
        f"{float(row['bytes_per_token'] or 0) / 1e6:.1f} MB per token; demand to capacity "
        f"{float(row['demand_to_capacity'] or 0):.2f}",
        f"TPOT {tpot} ms on {hardware.name} ({hardware.label}) with sizes of {sizes}; "
        f"{100 * float(row['capacity_fraction'] or 0):.1f} % of the experts fit",
    ]
