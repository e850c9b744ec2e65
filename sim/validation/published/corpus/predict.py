"""Speeds that others published, each predicted without its machine, then after one and two of its machine's rows.

``published.path`` is a folder of `corpus.csv` and `machines.csv`; without it the shipped corpus predicts itself, each
machine left out in turn. Rows of another folder are predicted with what is fitted on the shipped corpus, less any
family of machines that both name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sim.validation.config import PublishedConfig
from sim.validation.findings import PREDICTED, Cell, Findings, Point, Row, signed_error_percent
from sim.validation.published.corpus.baselines import bytes_over_bandwidth, llmfit, moe_fit
from sim.validation.published.corpus.estimate import NAMES, PRIOR, problem_of
from sim.validation.published.corpus.held_out import STAGES, Prediction, families, fit_families, predict_all
from sim.validation.published.corpus.parts import SHIPPED, rates_of
from sim.validation.published.corpus.placement import KINDS
from sim.validation.published.corpus.prefill import prompts_of
from sim.validation.published.corpus.rule import Setting, express_all, express_shapes
from sim.validation.published.corpus.tables import ROWS, Corpus, Measurement, read_corpus
from traces.errors import UserError

RESOLVED = 0.05
"""Settings whose measured rates differ by less than this share are not ranked."""
WITHIN = 0.4
STAGE_NAMES = ("without a row", "after one row", "after two rows")
BYTES, LLMFIT = "bytes over bandwidth", "llmfit"
MODEL = "this model"
Estimate = Callable[[Prediction], float]
BASELINES: dict[str, Estimate] = {
    BYTES: lambda prediction: bytes_over_bandwidth(prediction.setting, prediction.terms),
    LLMFIT: lambda prediction: llmfit(prediction.setting),
}


def predict_published(config: PublishedConfig) -> Findings:
    """Predict a folder of published speeds.

    Raises: UserError when a file is missing or broken.
    """
    if not (SHIPPED / ROWS).is_file():
        raise UserError(f"{SHIPPED} holds no {ROWS}: the shipped corpus is read from the project's folder")
    shipped = read_corpus(SHIPPED)
    folder = SHIPPED if config.path is None else Path(config.path).expanduser()
    corpus = shipped if folder.resolve() == SHIPPED.resolve() else read_corpus(folder)
    return predict_corpus(shipped, corpus)


def predict_corpus(shipped: Corpus, corpus: Corpus) -> Findings:
    """Predict the rows of ``corpus`` with what is fitted on ``shipped``."""
    training, _ = settings_of(shipped)
    settings, against = settings_of(corpus)
    predictions = predict_all(training, settings)
    rates = {name: rates_of(machine) for name, machine in corpus.machines.items()}
    shapes = predict_all(training, express_shapes(against, rates))
    tables: dict[str, list[Row]] = {
        "overall": overall_rows(predictions),
        "by_placement": kind_rows(predictions),
        "order": order_rows(predictions),
        "shape_along_the_context": [error_row(STAGE_NAMES[stage], shapes, stage) for stage in STAGES[1:]],
        "by_machine": machine_rows(predictions, against),
        "left_out": left_out_rows(against),
        "parameters": parameter_rows(training),
        "scores": score_rows(predictions),
        "prefill": prefill_rows(corpus),
        "rows": [prediction_row(prediction) for prediction in predictions],
        "rows_of_shapes": [prediction_row(prediction) for prediction in shapes],
        "rows_left_out": [{"row": row.row_id, "machine": row.machine_id, "reason": why} for row, why in against],
    }
    title = "Published speeds of MoE models, each predicted without its machine"
    points = [_point(prediction) for prediction in predictions if prediction.counts(0)]
    notes = notes_for(corpus, predictions, against)
    return Findings("corpus", title, "tokens/s", summary_of(tables), tables, notes, points, log_axes=True)


def settings_of(corpus: Corpus) -> tuple[list[Setting], list[tuple[Measurement, str]]]:
    """Rows that the model can express, and the others with the reason."""
    rates = {name: rates_of(machine) for name, machine in corpus.machines.items()}
    return express_all(corpus.rows, rates)


def overall_rows(predictions: Sequence[Prediction]) -> list[Row]:
    """Errors by stage, and of the two baselines on the rows that the model predicts without a row."""
    rows = [error_row(f"{MODEL}, {STAGE_NAMES[stage]}", predictions, stage) for stage in STAGES]
    pairs = [(_error(value, p), p) for p in predictions for value in p.by_each]
    sizes = _sizes([error for error, _ in pairs], [p for _, p in pairs])
    rows.append({"estimate": f"{MODEL}, after one row, each of a group in turn (pairs)", **sizes})
    for name, values in (
        ("without a row, machines with rows of another kind", lambda p: [p.predicted[0]] * len(p.by_other)),
        ("after one row of another kind or build, each in turn", lambda p: p.by_other),
    ):
        pairs = [(_error(value, p), p) for p in predictions for value in values(p)]
        sizes = _sizes([error for error, _ in pairs], [p for _, p in pairs])
        rows.append({"estimate": f"{MODEL}, {name} (pairs)", **sizes})
    for name, estimate in BASELINES.items():
        chosen = [prediction for prediction in predictions if prediction.counts(0)]
        errors = [_error(estimate(prediction), prediction) for prediction in chosen]
        rows.append({"estimate": f"{name}, the same rows", **_sizes(errors, chosen)})
    answered = [p for p in predictions if p.counts(0) and moe_fit(p.setting) is not None]
    errors = [_error(_middle(prediction), prediction) for prediction in answered]
    rows.append({"estimate": "moe-fit's own range, its middle, where it gives one", **_sizes(errors, answered)})
    return rows


def error_row(name: str, predictions: Sequence[Prediction], stage: int) -> Row:
    """Errors and coverage of a stage."""
    chosen = [prediction for prediction in predictions if prediction.counts(stage)]
    errors = [_error(prediction.predicted[stage], prediction) for prediction in chosen]
    return {"estimate": name, **_sizes(errors, chosen), "share_in_90_percent_interval": coverage_of(chosen, stage)}


def coverage_of(predictions: Sequence[Prediction], stage: int) -> float | None:
    """Share of rows whose measured rate lies in the interval of a stage."""
    ends = [(p.interval[stage], p.setting.measured) for p in predictions if stage in p.interval]
    return float(np.mean([low <= measured <= high for (low, high), measured in ends])) if ends else None


def kind_rows(predictions: Sequence[Prediction]) -> list[Row]:
    """Errors by kind of placement and stage."""
    rows: list[Row] = []
    for kind in KINDS:
        chosen = [prediction for prediction in predictions if prediction.setting.placement.kind == kind]
        scored = [stage for stage in STAGES if any(prediction.counts(stage) for prediction in chosen)]
        rows += [{"placement": kind, **error_row(STAGE_NAMES[stage], chosen, stage)} for stage in scored]
    return rows


def order_rows(predictions: Sequence[Prediction]) -> list[Row]:
    """Pairs of rows of one machine, model and runtime, more than 5 % apart, in the right order; a tie is wrong."""
    estimates: dict[str, Estimate] = {MODEL: lambda prediction: prediction.predicted[0], **BASELINES}
    rows: list[Row] = []
    for name, estimate in estimates.items():
        pairs, right = order_of(predictions, estimate)
        rows.append({"estimate": name, "pairs": pairs, "in_order": right, "share": right / pairs if pairs else None})
    return rows


def order_of(predictions: Sequence[Prediction], estimate: Estimate) -> tuple[int, int]:
    """(pairs that differ, pairs that an estimate puts in the right order)."""
    pairs = right = 0
    values = [estimate(prediction) for prediction in predictions]
    for i, first in enumerate(predictions):
        for j, second in enumerate(predictions[:i]):
            if _compared(first) != _compared(second):
                continue
            one, other = first.setting.measured, second.setting.measured
            if abs(one - other) > RESOLVED * max(one, other):
                pairs += 1
                right += bool((one - other) * (values[i] - values[j]) > 0)
    return pairs, right


def _compared(prediction: Prediction) -> tuple[str, str, str]:
    """What two rows must share to be two settings of one thing."""
    setting = prediction.setting
    return setting.row.machine_id, setting.known.name, setting.row.runtime


def machine_rows(predictions: Sequence[Prediction], against: Sequence[tuple[Measurement, str]]) -> list[Row]:
    """Every machine of which a row is predicted: its rows, and the median error by stage."""
    left_out = Counter(row.machine_id for row, _ in against)
    rows: list[Row] = []
    for machine in dict.fromkeys(prediction.setting.row.machine_id for prediction in predictions):
        chosen = [prediction for prediction in predictions if prediction.setting.row.machine_id == machine]
        row: Row = {"machine": machine, "rows": len(chosen), "left_out": left_out[machine]}
        for stage in STAGES:
            errors = [_error(p.predicted[stage], p) for p in chosen if p.counts(stage)]
            name = STAGE_NAMES[stage].replace(" ", "_")
            row[f"{name}_absolute_error_percent"] = float(np.median(np.abs(errors))) if errors else None
        inside = coverage_of([p for p in chosen if p.counts(0)], 0)
        pairs, right = order_of(chosen, lambda prediction: prediction.predicted[0])
        row |= {"share_in_90_percent_interval": inside, "pairs": pairs, "in_order": right}
        for name, estimate in BASELINES.items():
            errors = [_error(estimate(p), p) for p in chosen if p.counts(0)]
            label = name.replace(" ", "_")
            row[f"{label}_absolute_error_percent"] = float(np.median(np.abs(errors))) if errors else None
        rows.append(row)
    return rows


def left_out_rows(against: Sequence[tuple[Measurement, str]]) -> list[Row]:
    """How many rows each reason keeps out."""
    counts = Counter(reason for _, reason in against)
    machines = {reason: {row.machine_id for row, why in against if why == reason} for reason in counts}
    return [
        {"reason": reason, "rows": count, "machines": len(machines[reason])} for reason, count in counts.most_common()
    ]


def parameter_rows(training: Sequence[Setting]) -> list[Row]:
    """What is fitted when no machine is left out: what another folder's machines are predicted with."""
    names = families(training)
    family = np.array([names[setting.row.machine_id] for setting in training])
    fitted = fit_families(problem_of(training), family)
    pairs = zip(NAMES, np.exp(fitted.values).tolist(), fitted.errors.tolist(), strict=True)
    return [
        {
            "parameter": name,
            "before": PRIOR[name][0],
            "relative_error_before": PRIOR[name][1],
            "value": value,
            "relative_error": error,
            "label": "FITTED",
        }
        for name, value, error in pairs
    ]


def prefill_rows(corpus: Corpus) -> list[Row]:
    """Published rates of reading a prompt beside what the other families of machines predict."""
    return [
        {
            "row": prompt.setting.row.row_id,
            "family": prompt.family,
            "measured": 1 / prompt.measured_s,
            "predicted": 1 / (prompt.terms_s * prompt.others),
            "error_percent": signed_error_percent(1 / (prompt.terms_s * prompt.others), 1 / prompt.measured_s),
            "measured_over_terms": prompt.measured_s / prompt.terms_s,
            "log_error": prompt.log_error,
        }
        for prompt in prompts_of(corpus)
    ]


def score_rows(predictions: Sequence[Prediction]) -> list[Row]:
    """Every scored prediction's error beside what was expected of it: what intervals of further rows are made of."""
    return [
        {
            "row": prediction.setting.row.row_id,
            "family": prediction.family,
            "runtime": prediction.setting.runtime,
            "placement": prediction.setting.placement.kind,
            "rows_before": stage,
            "log_error": prediction.log_error(stage),
            "width": prediction.width[stage],
        }
        for prediction in predictions
        for stage in STAGES
        if prediction.counts(stage)
    ]


def prediction_row(prediction: Prediction) -> Row:
    """A row with everything that is predicted of it."""
    setting = prediction.setting
    row: Row = {
        "row": setting.row.row_id,
        "model": setting.known.name,
        "placement": setting.placement.kind,
        "runtime": setting.runtime,
        "rates_known": prediction.blind,
        "measured": setting.measured,
    }
    for stage in STAGES:
        name = STAGE_NAMES[stage].replace(" ", "_")
        value, ends = prediction.predicted.get(stage), prediction.interval.get(stage)
        low_high: dict[str, Cell] = {"low": ends[0] if ends else None, "high": ends[1] if ends else None}
        row[name] = value
        row |= {f"{name}_{end}": cell for end, cell in low_high.items()}
        row[f"{name}_error_percent"] = None if value is None else signed_error_percent(value, setting.measured)
    return row | {name.replace(" ", "_"): estimate(prediction) for name, estimate in BASELINES.items()}


def summary_of(tables: dict[str, list[Row]]) -> dict[str, object]:
    """What was aimed at beside what is reached."""
    stages = {str(row["estimate"]): row for row in tables["overall"]}
    summary: dict[str, object] = {}
    for stage in STAGES:
        row = stages[f"{MODEL}, {STAGE_NAMES[stage]}"]
        summary[STAGE_NAMES[stage]] = {
            "rows": row["rows"],
            "machines": row["machines"],
            "median_absolute_error_percent": row["median_absolute_error_percent"],
            "machines_median_absolute_error_percent": row["machines_median_absolute_error_percent"],
            "share_within_0.4": row["share_within_0.4"],
            "worst_error_percent": row["worst_error_percent"],
            "share_in_90_percent_interval": row["share_in_90_percent_interval"],
        }
    order = {str(row["estimate"]): row for row in tables["order"]}
    summary["pairs in the right order"] = order[MODEL]["share"]
    return summary


TARGETS = (
    "aimed at: median error without a row at most 20 %, four rows of five within 40 %; after one row at most 7 % and "
    "at most 20 % in the worst row; 80 to 97 % of rows inside their 90 % interval; 90 % of pairs in the right order"
)


def notes_for(
    corpus: Corpus, predictions: Sequence[Prediction], against: Sequence[tuple[Measurement, str]]
) -> list[str]:
    """What a reader must know of every figure."""
    blind = sum(prediction.counts(0) for prediction in predictions)
    machines = len({prediction.setting.row.machine_id for prediction in predictions})
    return [
        f"{len(corpus.rows)} rows of {len(corpus.machines)} machines: {len(against)} are left out by the rule below, "
        f"{len(predictions)} of {machines} machines are predicted, {blind} of them without a row of their machine. "
        "measured: each author's claim, nobody re-measured it; predicted: SIMULATED terms with FITTED shares",
        TARGETS,
        "fitted leave-one-family-out: machines that one author names beside a GPU or CPU of the same name are held out "
        "together, since they may be one machine; every family counts as one row",
        "structure (which terms have a share, which runtimes are alike, spreads and noise, the rule) was chosen with "
        "the shipped rows in view; no parameter that predicts a machine was fitted on a row of its family",
        "after one and two rows: the first rows in the file of the same machine, build of a runtime and kind of "
        "placement move the machine's own factors; they are not scored themselves",
        "without a row: only machines whose rates are stated or follow from parts that they name (parts.csv); the "
        "others count after one row",
        "terms are those of sim.machine.durations, summed over layers; hits and misses are imposed as stated, since no "
        "routing of these runs is published",
        "intervals: errors that the same procedure made on other families, over the errors that it expected of them "
        "(conformal), times the error expected of the row; the fits behind those errors did see the row's machine",
        "shape along the context: rows left out for an unstated placement or a page cache, in series that differ only "
        "in their context; a placement is assumed, the first row calibrates. They fit nothing and count nowhere else",
        "left out means that the model cannot express the row or that the row leaves out what is needed; the reasons "
        "are words of the row, never its error; rows_left_out.csv names each",
        "bytes over bandwidth extends moe-fit's floor to every tier at its nominal rate; moe-fit itself answers only "
        "where experts are read from storage. llmfit: its formula, without the measurements that it ships",
    ]


def _sizes(errors_percent: Sequence[float], predictions: Sequence[Prediction]) -> Row:
    sizes = np.abs(np.asarray(errors_percent, np.float64))
    of_machine: dict[str, list[float]] = {}
    for prediction, size in zip(predictions, sizes.tolist(), strict=True):
        of_machine.setdefault(prediction.setting.row.machine_id, []).append(size)
    medians = [float(np.median(found)) for found in of_machine.values()]
    return {
        "rows": len(sizes),
        "machines": len(medians),
        "median_absolute_error_percent": float(np.median(sizes)) if len(sizes) else None,
        "machines_median_absolute_error_percent": float(np.median(medians)) if medians else None,
        "share_within_0.4": float(np.mean(sizes <= 100 * WITHIN)) if len(sizes) else None,
        "worst_error_percent": max(errors_percent, key=abs) if len(sizes) else None,
    }


def _error(predicted: float, prediction: Prediction) -> float:
    return signed_error_percent(predicted, prediction.setting.measured)


def _middle(prediction: Prediction) -> float:
    ends = moe_fit(prediction.setting)
    assert ends is not None
    return float(np.sqrt(ends[0] * ends[1]))


def _point(prediction: Prediction) -> Point:
    low, high = prediction.interval.get(0, (None, None))
    kind = prediction.setting.placement.kind
    return Point(kind, prediction.setting.measured, prediction.predicted[0], low, high, PREDICTED)
