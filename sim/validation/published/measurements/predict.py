"""The time model's terms one by one beside published figures: copies, experts, tokens, and an MoE block's kernel."""

from __future__ import annotations

import numpy as np

from sim.validation.config import PublishedConfig, require_files
from sim.validation.findings import (
    CALIBRATION,
    PREDICTED,
    Findings,
    Point,
    Row,
    error_summary,
    errors_of,
    fitted_rows,
    number,
)
from sim.validation.published.measurements.kernel_term import (
    Kernel,
    KernelRows,
    fit_kernel,
    held_in,
    kernel_s,
    read_kernel_rows,
)
from sim.validation.published.measurements.terms import read_published, row_of, term_rows

TABLE, KERNELS = "offload_latency_table.csv", "RTXPRO6000_Qwen3-30B-A3B_bf16_tp1_moe.csv"
ORIGIN = (
    "offload_latency_table.csv: figures with their sources, gathered from public issues and papers; "
    "moe.csv of https://github.com/casys-kaist/LLMServingSim"
)
KERNEL_TERM = "kernel of an MoE block"


def predict_published(config: PublishedConfig) -> Findings:
    """Check every term that the published figures allow.

    Raises: UserError when the files are missing or broken.
    """
    folder = require_files(config, (TABLE, KERNELS), ORIGIN)
    rows, lacking = term_rows(read_published(folder / TABLE))
    kernels = read_kernel_rows(folder / KERNELS, "qwen3_30b_a3b")
    kernel = fit_kernel(kernels.chosen(held_in(kernels)))
    rows += kernel_rows(kernels, kernel)
    terms = dict.fromkeys(str(row["term"]) for row in rows)
    summary = {
        term: error_summary(errors_of(row for row in rows if row["term"] == term and row["use"] == PREDICTED))
        for term in terms
    }
    points = [
        Point(str(row["term"]), _in_ms(row, "published"), _in_ms(row, "model"), use=str(row["use"])) for row in rows
    ]
    tables = {"terms": rows, "kernel_constants": constant_rows(kernel)}
    title = "Terms of the time model, published beside modelled"
    return Findings("measurements", title, "ms", dict(summary), tables, NOTES + lacking, points, log_axes=True)


def kernel_rows(rows: KernelRows, kernel: Kernel) -> list[Row]:
    """Every measured kernel beside the roofline."""
    fitted = held_in(rows)
    model = kernel_s(kernel, rows)
    return [
        row_of(
            KERNEL_TERM,
            f"{rows.tokens[i]:g} tokens, {rows.experts[i]:g} experts",
            CALIBRATION if fitted[i] else PREDICTED,
            float(rows.seconds[i]) * 1e6,
            float(model[i]) * 1e6,
            "us",
        )
        for i in np.lexsort((rows.experts, rows.tokens))
    ]


def constant_rows(kernel: Kernel) -> list[Row]:
    """The fitted constants in common units."""
    rates = {"gb_per_s": kernel.bytes_per_s / 1e9, "tflop_per_s": kernel.flops_per_s / 1e12}
    return fitted_rows({"fixed_us": 1e6 * kernel.fixed_s} | rates)


def _in_ms(row: Row, name: str) -> float:
    return number(row, name) / (1e3 if row["unit"] == "us" else 1.0)


NOTES = [
    "published: MEASURED by others; model: the terms of sim.machine.durations with constants FITTED on the rows of use "
    "calibration, which are fixed beforehand; rows of use predicted were not fitted on",
    "copies: the rate comes from the copy of eight experts, without a latency; one expert is predicted",
    "one Mixtral expert: the file conf/hardware/rtx4090.yaml was made from these three figures, so they only show that "
    "it gives them back",
    "token by miss rate, token by bytes read: the line through the two extreme runs; those between are predicted",
    "kernel: fixed + experts * max(bytes / rate, arithmetic / rate), fitted on every other number of tokens "
    "(Qwen3-30B-A3B, bf16, RTX PRO 6000)",
]
