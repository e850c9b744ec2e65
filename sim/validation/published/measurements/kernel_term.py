"""Time of one MoE block's kernel by tokens and activated experts: the roofline term, fitted on some rows only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from sim.machine.durations import compute_s
from sim.machine.model import expert_bytes, load_dimensions
from sim.validation.published.csv_rows import read_rows
from traces.errors import UserError

Vector = NDArray[np.float64]
COLUMNS = ("tokens", "activated_experts", "time_us")


@dataclass(frozen=True, slots=True)
class Kernel:
    """What limits the kernel: a fixed time, the rate at which weights are read, and the rate of its arithmetic."""

    fixed_s: float
    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class KernelRows:
    """Measured rows, [n] each; ``size_bytes`` of one expert, ``top_k`` experts per token."""

    tokens: Vector
    experts: Vector
    seconds: Vector
    size_bytes: int
    weight_bits: float
    top_k: int

    def chosen(self, rows: NDArray[np.bool_]) -> KernelRows:
        return KernelRows(
            self.tokens[rows], self.experts[rows], self.seconds[rows], self.size_bytes, self.weight_bits, self.top_k
        )


def read_kernel_rows(path: Path, model: str) -> KernelRows:
    """The rows of a table of kernel times of a model of `conf/model`.

    Raises: UserError where a column is missing or a cell is no number above zero.
    """
    rows = read_rows(path, COLUMNS)
    try:
        table = np.array([[float(row[name]) for name in COLUMNS] for row in rows], np.float64).reshape(-1, len(COLUMNS))
    except ValueError as error:
        raise UserError(f"{path.name} must hold numbers in the columns {', '.join(COLUMNS)}") from error
    if len(table) == 0 or not ((table > 0) & np.isfinite(table)).all():
        raise UserError(f"{path.name} must hold numbers above zero in the columns {', '.join(COLUMNS)}")
    sizes = load_dimensions(model)
    tokens, experts, micros = table.T
    return KernelRows(tokens, experts, micros / 1e6, expert_bytes(sizes), sizes.weight_bits, sizes.top_k)


def held_in(rows: KernelRows) -> NDArray[np.bool_]:
    """[n] rows to fit on: every other number of tokens, the smallest first; the largest may so be an extrapolation."""
    counts = np.unique(rows.tokens)
    return np.isin(rows.tokens, counts[::2])


def kernel_s(kernel: Kernel, rows: KernelRows) -> Vector:
    """Seconds per row: fixed + experts * roofline of one expert, whose tokens are the routed pairs over the experts."""
    per_expert = rows.tokens * rows.top_k / rows.experts
    expert_s = compute_s([rows.size_bytes], rows.weight_bits, per_expert, kernel.bytes_per_s, kernel.flops_per_s)[0]
    if len(expert_s):  # that function's first column stands for no tokens; here it is a row like the others
        again = compute_s(
            [rows.size_bytes], rows.weight_bits, per_expert[[0, 0]], kernel.bytes_per_s, kernel.flops_per_s
        )
        expert_s[0] = again[0, 1]
    return np.asarray(kernel.fixed_s + rows.experts * expert_s, np.float64)


def fit_kernel(rows: KernelRows) -> Kernel:
    """Least squares of the relative error.

    Raises: UserError where there are fewer rows than constants.
    """
    if len(rows.seconds) < 3:
        raise UserError(f"{len(rows.seconds)} rows to fit three constants on: at least 3 are needed")
    slowest = float((rows.experts * rows.size_bytes / rows.seconds).max())
    pairs = rows.tokens * rows.top_k
    fastest = float((2 * rows.size_bytes * 8 / rows.weight_bits * pairs / rows.seconds).max())

    def relative(parameters: Vector) -> Vector:
        return np.asarray(kernel_s(_kernel(parameters), rows) / rows.seconds - 1.0, np.float64)

    start = np.log([1e-6, slowest, fastest])
    return _kernel(least_squares(relative, start).x)


def _kernel(parameters: Vector) -> Kernel:
    fixed_s, bytes_per_s, flops_per_s = np.exp(parameters).tolist()
    return Kernel(fixed_s, bytes_per_s, flops_per_s)
