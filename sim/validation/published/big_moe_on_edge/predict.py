"""Qwen3-30B-A3B on a phone that reads experts from flash: one published run calibrates, the other is predicted.

Run a gives the constants: computing per token, waiting per byte read, managing the cache per token and per read. Its
waiting is nine tenths of its reading, so a layer is taken to wait for all its reads: nothing overlaps. Run b is
predicted twice: token by token from the reads that it measured (the time model alone), and on the whole from the
published routing, which is of another prompt, under the phone's budget and LRU (routing and time).
Source: https://github.com/Helldez/BigMoeOnEdge (Apache-2.0)
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.statistics.prediction_interval import reach
from sim.validation.config import PublishedConfig, require_files
from sim.validation.findings import (
    CALIBRATION,
    PREDICTED,
    Findings,
    Point,
    Row,
    correlation,
    error_summary,
    errors_of,
    signed_error_percent,
)
from sim.validation.published.big_moe_on_edge.phone import fit_phone
from sim.validation.published.big_moe_on_edge.tables import (
    constant_rows,
    from_reads,
    overlap_rows,
    parts_rows,
    reads_of,
    routed_rows,
    wall_rows,
)
from sim.validation.published.big_moe_on_edge.telemetry import Telemetry, read_telemetry
from traces.format.trace import Geometry, Trace
from traces.importers import load_importer

FILES = ("qwen.route.csv", "qwen-lru_a.csv", "qwen-lru_b.csv")
ORIGIN = "https://github.com/Helldez/BigMoeOnEdge"
BLOCK_TOKENS = 16


def predict_published(config: PublishedConfig) -> Findings:
    """Predict run b of the phone.

    Raises: UserError when the files are missing or broken.
    """
    folder = require_files(config, FILES, ORIGIN)
    trace = load_importer("big_moe_on_edge").read(folder / FILES[0], Namespace(model="qwen3_30b_a3b"))
    runs = {name: read_telemetry(folder / file) for name, file in zip("ab", FILES[1:], strict=True)}
    return predict_phone(trace, runs)


def predict_phone(trace: Trace, runs: dict[str, Telemetry]) -> Findings:
    """Calibrate on run a, predict run b."""
    geometry = trace.geometry
    expert_bytes = float(np.mean(geometry.expert_bytes or (np.nan,)))
    phone = fit_phone(runs["a"], expert_bytes)
    predicted = {name: from_reads(run, phone, geometry) for name, run in runs.items()}
    interval = _interval_of_means(runs, geometry, expert_bytes)
    rows: list[Row] = []
    for name, use in (("a", CALIBRATION), ("b", PREDICTED)):
        rows += wall_rows(name, use, runs, predicted[name], interval[name])
    routed = routed_rows(trace, runs["b"], phone)
    pairs = zip(runs["b"].wall_ms.tolist(), predicted["b"].tolist(), strict=True)
    points = [Point("run b", *pair) for pair in pairs]
    tables = {
        "wall_time_from_reads": rows,
        "overlap": overlap_rows(runs, phone, geometry, predicted),
        "parts_of_the_mean": parts_rows(runs, phone, geometry),
        "from_published_routing": routed,
        "constants": constant_rows(phone),
    }
    title = "Qwen3-30B-A3B on a phone, experts on flash: wall time per token, published beside predicted"
    summary = summary_of(runs, predicted["b"], rows, routed)
    return Findings("big_moe_on_edge", title, "ms per token", summary, tables, NOTES, points, log_axes=True)


def summary_of(
    runs: dict[str, Telemetry], predicted: NDArray[np.float64], rows: Sequence[Row], routed: Sequence[Row]
) -> dict[str, object]:
    """Errors of run b, ``predicted`` [T] from its reads and by published routing; run b over run a."""
    errors = errors_of(row for row in rows if row["use"] == PREDICTED and row["statistic"] == "mean")
    return {
        "wall time per token, run b, from its reads": error_summary(errors)
        | {"correlation_per_token": correlation(predicted, runs["b"].wall_ms)},
        "wall time per token, run b, from published routing": {
            "error_percent": next(row["error_percent"] for row in routed if row["quantity"] == "wall_ms_per_token")
        },
        "the two measured runs, same reads": {
            "b_over_a_percent": signed_error_percent(runs["b"].wall_ms.mean(), runs["a"].wall_ms.mean()),
            "correlation_per_token": correlation(runs["a"].wall_ms, runs["b"].wall_ms)
            if len(runs["a"]) == len(runs["b"])
            else None,
            **{f"tokens_of_{name}_computing_over_twice_the_median": slow_tokens(run) for name, run in runs.items()},
        },
    }


def slow_tokens(run: Telemetry) -> int:
    """Tokens that compute more than twice as long as most: nothing in the model makes them so."""
    return int(np.count_nonzero(run.compute_ms > 2 * np.median(run.compute_ms)))


def _interval_of_means(
    runs: dict[str, Telemetry], geometry: Geometry, expert_bytes: float
) -> dict[str, tuple[float, float] | None]:
    """90 % interval of each run's mean: by the errors of the calibrating run's blocks, each fitted on the others.

    A block of tokens stands for another stretch of the phone's life, so what changes from run to run has a part in it.
    """
    calibrating = runs["a"]
    blocks = np.array_split(np.arange(len(calibrating)), len(calibrating) // BLOCK_TOKENS or 1)
    if len(blocks) < 2:
        return dict.fromkeys(runs)
    reads = reads_of(calibrating, geometry).astype(np.float64)
    errors = []
    for block in blocks:
        phone = fit_phone(calibrating, expert_bytes, np.setdiff1d(np.arange(len(calibrating)), block))
        predicted_ms = 1e3 * float(phone.token_s(reads[block], expert_bytes).mean())
        errors.append(float(np.log(predicted_ms / calibrating.wall_ms[block].mean())))
    factor = float(np.exp(reach(errors, range(len(errors))) or 0.0))
    phone = fit_phone(calibrating, expert_bytes)
    means = {
        name: 1e3 * float(phone.token_s(reads_of(run, geometry).astype(np.float64), expert_bytes).mean())
        for name, run in runs.items()
    }
    return {name: (mean / factor, mean * factor) for name, mean in means.items()}


NOTES = [
    "measured_*: MEASURED by others on a phone; predicted_*: SIMULATED with constants FITTED on run a, which is fixed "
    "beforehand; run b is predicted",
    "that a layer waits for all its reads was chosen on run a, where expert-by-expert overlap is far off",
    "both runs read exactly the same bytes token by token: other_run_percent is how far a repeat is from the "
    "measured value, the least error that can be expected",
    "from its reads: the engine is told how many experts each token read (MEASURED), spread evenly over the layers; "
    "this tests the time model, not the cache",
    "from published routing: the routing trace is of another prompt (28 tokens, not 38) than the telemetry, so no "
    "token can be set beside its own; the cache is the phone's budget, LRU, one pool",
    "low, high: 90 % interval by the errors of run a's blocks of tokens, each predicted from the others",
]
