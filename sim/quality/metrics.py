"""Computes the metrics of an evaluation: one flat row of numbers, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.engine.decision.counters import COUNTERS
from sim.machine.parts import PARTS
from sim.quality.evaluate import Results, whole
from sim.quality.generation import match_length
from sim.quality.intervals import Estimate, block_sums, difference, estimate, mean_of, perplexity_ratio
from sim.quality.loop import step_bounds
from sim.quality.measures import COLUMNS
from sim.quality.study import POLICY, Study
from sim.statistics.bootstrap import Statistic
from sim.statistics.margin import within

Row = dict[str, float | int | str | None]
NLL_BASE, NLL, KL, AGREE, CORRECT_BASE, CORRECT = range(len(COLUMNS))
MEASURES: dict[str, Statistic] = {
    "perplexity_ratio": perplexity_ratio(NLL_BASE, NLL),
    "kl": mean_of(KL),
    "top1_agreement": mean_of(AGREE),
    "accuracy_change": difference(CORRECT_BASE, CORRECT),
}


def quality_row(study: Study, results: Results) -> Row:
    """Everything as `<variant>.<measure>` with `.low` and `.high`, by domain as `<variant>.<domain>.<measure>`."""
    row: Row = {
        "policy": study.template.policy.name,
        "model": study.template.trace.geometry.model,
        "mode": "parallel" if study.parallel else "decode",
        "weights": study.config.quality.weights,
        "windows": study.config.quality.windows,
        "tokens_per_window": study.config.quality.tokens,
        "step_tokens": study.config.quality.step_tokens,
        "documents": len(set(study.windows.documents)),
        "capacity_fraction": study.template.pools.fraction,
        "capacity_slots_per_layer": study.template.pools.slots(),
        "quality_label": "MEASURED",
        "time_label": "SIMULATED",
    }
    first = stacked(results, POLICY)
    row["perplexity"] = float(np.exp(first[..., NLL_BASE].mean()))
    row["accuracy"] = float(first[..., CORRECT_BASE].mean())
    for variant in study.variants:
        row |= token_measures(study, results, variant.name)
    row |= cloze_measures(study, results) | generation_measures(study, results) | line_measures(study, results)
    row |= kl_contrasts(study, results)
    return row | verdicts(study, row) | times(study, results)


def stacked(results: Results, variant: str) -> NDArray[np.float64]:
    """[N, S-1, columns] of one variant."""
    return np.stack([window[variant] for window in results.windows]).astype(np.float64)


def put(row: Row, name: str, estimated: Estimate) -> None:
    """Enter a value and its interval."""
    row[name], row[f"{name}.low"], row[f"{name}.high"] = estimated.value, estimated.low, estimated.high


def token_measures(study: Study, results: Results, variant: str) -> Row:
    """Measures over tokens of one variant: of all windows, then by domain."""
    row: Row = {}
    values = stacked(results, variant)
    domains = np.array(study.windows.domains)
    selections = {"": np.ones(len(values), bool)} | {f"{name}.": domains == name for name in dict.fromkeys(domains)}
    if len(selections) == 2:  # one domain only
        selections = {"": selections[""]}
    for prefix, selected in selections.items():
        rows = values[selected].reshape(-1, values.shape[-1])
        blocks = np.repeat(np.array(study.windows.documents)[selected], values.shape[1])
        sums = block_sums(rows, blocks.tolist())
        for name, statistic in MEASURES.items():
            put(row, f"{variant}.{prefix}{name}", estimate(sums, statistic))
    changed = np.mean([window[f"{variant}.changed"] for window in results.windows], axis=0)
    row[f"{variant}.substitution_rate"], row[f"{variant}.drop_rate"] = map(float, changed)
    return row


def per_block(values: Sequence[Sequence[float]], blocks: Sequence[str], statistic: Statistic) -> Estimate:
    """The estimate of a statistic of rows of values, one row per item."""
    return estimate(block_sums(np.asarray(values, np.float64), blocks), statistic)


def cloze_measures(study: Study, results: Results) -> Row:
    """Share of cloze items answered right, and its change."""
    row: Row = {"cloze.items": len(results.cloze)}
    if not results.cloze:
        return row
    blocks = study.windows.documents[: len(results.cloze)]
    right = {name: [float(item[name].argmax() == 0) for item in results.cloze] for name in results.cloze[0]}
    put(row, "cloze.accuracy", per_block([[value] for value in right["base"]], blocks, mean_of(0)))
    for variant in whole(study):
        pairs = list(zip(right["base"], right[variant.name], strict=True))
        put(row, f"{variant.name}.cloze_accuracy_change", per_block(pairs, blocks, difference(0, 1)))
    return row


def generation_measures(study: Study, results: Results) -> Row:
    """How far greedy continuations stay those of the untouched model."""
    row: Row = {"generation.windows": len(results.generation)}
    if not results.generation:
        return row
    blocks = study.windows.documents[: len(results.generation)]
    for variant in whole(study):
        lengths = [match_length(item["base"], item[variant.name]) for item in results.generation]
        exact = [[float(length == study.config.generation.new_tokens)] for length in lengths]
        put(row, f"{variant.name}.exact_match", per_block(exact, blocks, mean_of(0)))
        put(row, f"{variant.name}.match_tokens", per_block([[n] for n in lengths], blocks, mean_of(0)))
    return row


def line_measures(study: Study, results: Results) -> Row:
    """Share of lines finished exactly, its change, and the share finished as the untouched model does."""
    row: Row = {"lines.items": len(results.lines)}
    if not results.lines:
        return row
    blocks = study.lines.documents
    base = [item["base"][0] for item in results.lines]
    put(row, "lines.exact", per_block([[right] for right in base], blocks, mean_of(0)))
    for variant in whole(study):
        exact, same = zip(*(item[variant.name] for item in results.lines), strict=True)
        pairs = list(zip(base, exact, strict=True))
        put(row, f"{variant.name}.lines_exact_change", per_block(pairs, blocks, difference(0, 1)))
        put(row, f"{variant.name}.lines_same", per_block([[value] for value in same], blocks, mean_of(0)))
    return row


def kl_contrasts(study: Study, results: Results) -> Row:
    """`kl_over_policy`: KL of another stand-in on the policy's own ranks over that of the policy, less 1, paired."""
    row: Row = {}
    own = stacked(results, POLICY)[..., KL]
    blocks = np.repeat(np.array(study.windows.documents), own.shape[1]).tolist()
    for variant in whole(study):
        if variant.name != POLICY and own.sum() > 0:
            pairs = np.column_stack([stacked(results, variant.name)[..., KL].ravel(), own.ravel()])
            put(row, f"{variant.name}.kl_over_policy", estimate(block_sums(pairs, blocks), excess))
    return row


def excess(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the first of two sums lies over the second, relative."""
    return np.asarray(sums[..., 0] / sums[..., 1] - 1)


JUDGED = {"perplexity_ratio": 1.0, "accuracy_change": 0.0, "cloze_accuracy_change": 0.0, "lines_exact_change": 0.0}
"""What is judged by ``margin``, with the value that means no change."""


def verdicts(study: Study, row: Row) -> Row:
    """`<measure>.within`: yes, no or undecided, whether a change lies within the margin."""
    found: Row = {}
    settings = study.config.quality
    for variant in whole(study):
        margins = {f"{variant.name}.{name}": (none, settings.margin) for name, none in JUDGED.items()}
        margins[f"{variant.name}.kl_over_policy"] = 0.0, settings.contrast_margin
        for name, (none, margin) in margins.items():
            if name in row:
                low, high = (_less(row[f"{name}.{end}"], none) for end in ("low", "high"))
                found[f"{name}.within"] = within(low, high, margin)
    return found


def _less(value: float | int | str | None, none: float) -> float | None:
    return None if value is None else float(value) - none


def times(study: Study, results: Results) -> Row:
    """Times and hit rates of the policy's own pass, SIMULATED."""
    sizes = np.diff(step_bounds(study.config.quality.tokens, study.loop.step_tokens))  # tokens of a window's steps
    blocks = np.repeat(np.array(study.windows.documents), len(sizes)).tolist()
    tokens = np.tile(sizes, len(results.windows))
    latency = np.concatenate([window["latency_ns"] for window in results.windows])
    counts = np.concatenate([window["counts"] for window in results.windows]).astype(np.float64)
    lost = np.concatenate([window["lost"] for window in results.windows])
    parts = np.concatenate([window["parts_ns"] for window in results.windows])
    row: Row = {}
    put(row, "tpot_s", estimate(block_sums(np.column_stack([latency / 1e9, tokens]), blocks), ratio))
    for name, numerator, denominator in (
        ("hit_rate", "hits", "demanded"),
        ("cache_ratio", "resident_executed", "executed"),
        ("substitution_rate", "substituted_ranks", "routed_ranks"),
        ("drop_rate", "dropped_ranks", "routed_ranks"),
    ):
        pair = counts[:, [COUNTERS.index(numerator), COUNTERS.index(denominator)]]
        put(row, name, estimate(block_sums(pair, blocks), ratio))
    row["bytes_per_token"] = float(counts[:, COUNTERS.index("copied_bytes")].sum() / tokens.sum())
    row["demand_to_capacity"] = float(
        counts[:, COUNTERS.index("demanded")].sum()
        / max(1e-9, study.template.pools.slots() * len(counts) * study.template.trace.num_layers)
    )
    row["lost_gate_mass"] = float(lost[:, 0].sum() / lost[:, 1].sum())
    for index, part in enumerate(PARTS):
        row[f"time_s_per_token.{part}"] = float(parts[:, index].sum() / tokens.sum() / 1e9)
    return row


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of two sums [..., 2 or more]."""
    return np.asarray(sums[..., 0] / sums[..., 1])
